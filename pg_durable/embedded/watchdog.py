"""The parent of one PostgreSQL server: keeps it while somebody owns it, and stops it after.

Run by its path as a program of its own (`python -I -S watchdog.py PLAN`), with nothing but the standard
library, so that it starts in a few hundredths of a second and shares nothing with the process that
began it. An owner is a connection to the listening socket: the kernel closes it when the owner
dies, however that happens. Each owner is told one word, `ready` or `failed`. When the last one is gone,
the server is stopped under the lock of the data folder, so that a start at that moment either finds
the server in good health or waits and starts a new one.

Source: docs/reference/embedded.md, rules 16-22.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TypedDict

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
STARTING_POLL_S = 0.01
TOUCH_S = 3600.0  # cleaners of /tmp remove what nobody touched for days
RESTARTS_IN_A_ROW = 5
STABLE_S = 60.0
RESTART_PAUSE_S = 0.05
GOODBYE_S = 5.0


class Plan(TypedDict):
    """What the starter decided; JSON in the first argument."""

    listener: int  # file descriptor of the socket that owners connect to
    server_lock: int  # descriptor of a lock that ends with the last process that inherits it
    command: list[str]  # postgres and its arguments
    user: int | None  # None: as the watchdog itself
    group: int | None
    pgdata: str
    socket_dir: str
    owner_socket: str
    lock: str
    state: str
    temporary: str | None  # a folder to remove at the end
    start_timeout_s: float


class Watchdog:
    """One server and its owners."""

    def __init__(self, plan: Plan, listener: socket.socket) -> None:
        self.plan = plan
        self.pid = os.getpid()
        self.listener = listener
        self.owners: set[socket.socket] = set()
        self.leaving: socket.socket | None = None  # the last owner, who waits for the end
        self.ready = False  # now; a crash makes it false again
        self.was_ready = False
        self.stop_asked = False
        self.restarts = 0
        self.crashed_at = time.monotonic()
        self.libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)
        self.woken = self._wake_on_signals()
        self.touched_at = time.monotonic()
        self._start_server()

    def run(self) -> int:
        """Serve until nobody owns the server; return the exit status."""
        while True:
            for key, _ in self.selector.select(self._patience()):
                self._on_readable(key.fileobj)
            if self.server.poll() is not None and not self._revive():
                self._give_up()
                return 1
            if not self.ready and self._server_is_ready():
                self.ready = self.was_ready = True
                self._tell_all(b"ready\n")
            if (self.stop_asked or not self.owners) and self._stop_unless_wanted():
                return 0
            self._touch()

    def _patience(self) -> float:
        leaving = self.stop_asked or not self.owners
        return TOUCH_S if self.ready and not leaving else STARTING_POLL_S

    # -- owners ------------------------------------------------------------------------------------

    def _on_readable(self, source: object) -> None:
        if source is self.listener:
            self._accept_all()
        elif source is self.woken:
            self.woken.recv(4096)
        elif isinstance(source, socket.socket):
            self._forget(source)  # owners never speak: readable means gone

    def _accept_all(self) -> None:
        while True:
            try:
                owner, _ = self.listener.accept()
            except BlockingIOError:
                return
            self.owners.add(owner)
            self.selector.register(owner, selectors.EVENT_READ)
            if self.leaving:
                self.leaving.close()
                self.leaving = None
            if self.ready:
                self._tell(owner, b"ready\n")

    def _tell_all(self, word: bytes) -> None:
        for owner in tuple(self.owners):
            self._tell(owner, word)

    def _tell(self, owner: socket.socket, word: bytes) -> None:
        try:
            owner.sendall(word)
        except OSError:
            self._forget(owner)

    def _forget(self, owner: socket.socket) -> None:
        """Drop an owner; the last one stays connected, so that it can wait for the end."""
        if owner in self.owners:
            self.owners.remove(owner)
            self.selector.unregister(owner)
            if self.owners:
                owner.close()
            else:
                self.leaving = owner

    # -- the server --------------------------------------------------------------------------------

    def _start_server(self) -> None:
        self._adopt_stale_pid_file()
        self.ready = False
        self.started_at = time.monotonic()
        user, group = self.plan["user"], self.plan["group"]
        self.server = subprocess.Popen(
            self.plan["command"],
            stdin=subprocess.DEVNULL,
            cwd="/",
            umask=0o077,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            pass_fds=(self.plan["server_lock"],),
            preexec_fn=self._die_with_me if self.libc else None,
        )

    def _die_with_me(self) -> None:
        """Ask the kernel to stop the server if the watchdog is killed. Runs in the child, after setuid."""
        assert self.libc is not None
        self.libc.prctl(PR_SET_PDEATHSIG, self._stop_signal())
        if os.getppid() != self.pid:
            os._exit(1)

    def _stop_signal(self) -> int:
        """Fast shutdown leaves a clean folder; immediate shutdown is for one that is removed next."""
        return signal.SIGQUIT if self.plan["temporary"] else signal.SIGINT

    def _adopt_stale_pid_file(self) -> None:
        """Put our own pid into a postmaster.pid that a crash left.

        The pid in it may by now be another process of the same user, and PostgreSQL would refuse to
        start; the pid of its parent it knows to be stale. The rest of the file must stay: with it,
        PostgreSQL waits for surviving children of the old server.
        """
        try:
            handle = os.open(self._pid_file(), os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            return
        with os.fdopen(handle, "r+") as file:
            lines = file.read().splitlines(keepends=True)
            file.seek(0)
            file.truncate()
            file.writelines([f"{os.getpid()}\n", *lines[1:]])

    def _pid_file(self) -> str:
        return os.path.join(self.plan["pgdata"], "postmaster.pid")

    def _server_is_ready(self) -> bool:
        try:
            with open(self._pid_file()) as file:
                lines = file.read().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.server.pid) and lines[7].strip() == "ready"

    def _revive(self) -> bool:
        """Start a server again that ended by itself; False when that has no prospect."""
        if self.server.returncode == 0:
            return False  # somebody stopped it on purpose: pg_ctl, an administrator
        if not (self._crashed_in_service() if self.ready else self._waits_for_a_crashed_one()):
            return False
        time.sleep(RESTART_PAUSE_S)
        self._start_server()
        return True

    def _crashed_in_service(self) -> bool:
        """Note a crash of a server that was ready; False if it is one too many."""
        self.crashed_at = time.monotonic()
        stable = self.crashed_at - self.started_at > STABLE_S
        self.restarts = 1 if stable else self.restarts + 1
        sys.stderr.write(f"watchdog: the server died (status {self.server.returncode})\n")
        sys.stderr.flush()
        return self.restarts <= RESTARTS_IN_A_ROW

    def _waits_for_a_crashed_one(self) -> bool:
        """Say whether a start was refused because children of a crashed server still use its memory.

        Such a refusal leaves the old pid file; all later failures remove it.
        """
        in_time = time.monotonic() - self.crashed_at < self.plan["start_timeout_s"]
        return in_time and os.path.exists(self._pid_file())

    # -- the end -----------------------------------------------------------------------------------

    def _stop_unless_wanted(self) -> bool:
        """Stop the server; False if a new owner came, or the lock is taken and one may be coming."""
        try:
            with self._locked(fcntl.LOCK_NB):
                self._accept_all()
                if self.owners and not self.stop_asked:
                    return False
                self._stop_server()
                self._remove_traces()
                return True
        except BlockingIOError:
            return False

    def _give_up(self) -> None:
        """Tell the owners that there is no server; those who wait for it read its log, then leave."""
        self._tell_all(b"failed\n")
        deadline = time.monotonic() + (0 if self.was_ready else GOODBYE_S)
        while self.owners and time.monotonic() < deadline:
            for key, _ in self.selector.select(STARTING_POLL_S):
                if key.fileobj is not self.listener:  # who comes now sees us vanish
                    self._on_readable(key.fileobj)
        with self._locked():
            self._remove_traces()

    @contextlib.contextmanager
    def _locked(self, flags: int = 0) -> Iterator[None]:
        """Hold the lock of the data folder. If it was removed under us, nobody can come any more."""
        try:
            lock = os.open(self.plan["lock"], os.O_RDWR)
        except FileNotFoundError:
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | flags)
            yield
        finally:
            os.close(lock)

    def _stop_server(self) -> None:
        for number, patience in ((self._stop_signal(), 10.0), (signal.SIGQUIT, 5.0)):
            self.server.send_signal(number)
            try:
                self.server.wait(patience)
                return
            except subprocess.TimeoutExpired:
                continue
        self.server.kill()
        self.server.wait()

    def _remove_traces(self) -> None:
        shutil.rmtree(self.plan["socket_dir"], ignore_errors=True)
        if self.plan["temporary"]:
            shutil.rmtree(self.plan["temporary"], ignore_errors=True)
        elif os.path.exists(self.plan["state"]):
            os.unlink(self.plan["state"])
        os.close(self.plan["server_lock"])  # before the last owner sees our end

    # -- signals and time --------------------------------------------------------------------------

    def _wake_on_signals(self) -> socket.socket:
        """Make signals readable, so that one wait covers owners, children and requests to stop."""
        woken, waker = socket.socketpair()
        waker.setblocking(False)
        woken.setblocking(False)
        signal.set_wakeup_fd(waker.detach())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        self.selector.register(woken, selectors.EVENT_READ)
        return woken

    def _ask_to_stop(self, *_: object) -> None:
        self.stop_asked = True

    def _touch(self) -> None:
        if time.monotonic() - self.touched_at >= TOUCH_S:
            self.touched_at = time.monotonic()
            for path in (self.plan["socket_dir"], self.plan["owner_socket"]):
                if os.path.exists(path):
                    os.utime(path)


if __name__ == "__main__":
    the_plan: Plan = json.loads(sys.argv[1])
    the_listener = socket.socket(fileno=the_plan["listener"])
    the_listener.setblocking(False)
    sys.exit(Watchdog(the_plan, the_listener).run())
