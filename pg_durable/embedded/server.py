"""A private PostgreSQL for development and tests, shared by all who ask for the same folder.

    with embedded_server() as server:
        psycopg.connect(server.dsn)

Source: docs/reference/embedded.md.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from .accounts import Account, environment, server_account
from .cluster import (
    APPLICATION,
    SUPERUSER,
    check_version,
    create_cluster,
    data_major,
    reachable_binaries,
    read_passwords,
    set_passwords,
)
from .errors import EmbeddedServerError, ServerDidNotStart
from .folders import (
    PORT,
    DataFolder,
    Running,
    check_reach,
    locked,
    make_socket_dir,
    temporary_folder,
)
from .postmaster import stop_leftover
from .search import Binaries, find_binaries
from .watchdog import Plan

OWNER_SOCKET = "owners"
STOP_TIMEOUT_S = 30.0

# What may not depend on configuration files: how to get in, and where.
FIXED_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "logging_collector": "off",
    "log_destination": "stderr",
}
THROWAWAY_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """A running server, as long as the `embedded_server` block that gave it."""

    dsn: str = field(repr=False)  # role `durable`, no superuser, owner of the database `durable`
    superuser_dsn: str = field(repr=False)  # role `postgres`, same database
    bindir: Path
    version: str  # "16.14"
    data_dir: Path
    socket_dir: Path
    log_file: Path

    @property
    def pid(self) -> int:
        """Process id of the postmaster at this moment."""
        pid_file = self.data_dir / "pgdata" / "postmaster.pid"
        return int(pid_file.read_text().split("\n", 1)[0])


@contextmanager
def embedded_server(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    throwaway: bool = False,
    binaries: Binaries | None = None,
    environ: Mapping[str, str] | None = None,
    start_timeout: float = 60.0,
) -> Iterator[EmbeddedServer]:
    """Start a server on `data_dir`, or join the one that runs there; stop it if we leave last.

    Blocks while the server starts and stops; asynchronous code calls it in a thread. A child made by
    `os.fork` counts as an owner until it ends.

    Args:
        data_dir: made if missing; None is a temporary folder that is removed at the end.
        throwaway: do not wait for the disk. A crash of the machine loses the data; one of the server
            does not.
        binaries: the PostgreSQL to start; by default the one that made the data, else the first that
            `find_binaries` returns.
        environ: variables for the search; those of the process by default.
        start_timeout: seconds that starting may take, crash recovery included.

    Raises:
        NoServerFound: there is no PostgreSQL to start.
        UnusableFolder: `data_dir` is not ours, not permitted, or of another major version.
        ServerDidNotStart: with the last lines of its log.
    """
    environ = os.environ if environ is None else environ
    with ExitStack() as stack:
        if data_dir is None:
            account = server_account(Path("/nonexistent"))
            folder = stack.enter_context(temporary_folder(account))
        else:
            folder = DataFolder(Path(data_dir).absolute())
            folder.create()
        start = _Start(
            folder=folder,
            temporary=data_dir is None,
            throwaway=throwaway,
            binaries=binaries,
            environ=environ,
            timeout=start_timeout,
        )
        ownership, running = start.own()
        with ownership:
            ownership.wait_until_ready(folder, running, start_timeout)
            yield _describe(folder, running)


@dataclass(frozen=True, slots=True)
class _Ownership:
    """The connection that tells the watchdog that we live."""

    connection: socket.socket

    def __enter__(self) -> _Ownership:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave, and if we were the last owner, wait until the server has stopped."""
        with self.connection:
            try:
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(STOP_TIMEOUT_S)
                while self.connection.recv(64):
                    pass
            except OSError:
                return  # the watchdog is gone, and its server with it

    def wait_until_ready(self, folder: DataFolder, running: Running, timeout: float) -> None:
        self.connection.settimeout(timeout)
        try:
            word = self.connection.recv(64)
        except TimeoutError:
            remedy = "Give it more time with start_timeout, or see the log for what holds it up."
            what = f"was not ready after {timeout:g} seconds"
        except OSError as error:
            word, what, remedy = b"", f"was lost while it started ({error})", "Try again."
        else:
            what = "did not start"
            remedy = f"The whole log is {folder.log}."
            if word == b"ready\n":
                return
        raise ServerDidNotStart(
            f"PostgreSQL {running.version} on {folder.path} {what}", folder.log_tail(), remedy
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """One attempt to become an owner of the server on `folder`."""

    folder: DataFolder
    temporary: bool
    throwaway: bool
    binaries: Binaries | None
    environ: Mapping[str, str]
    timeout: float

    def own(self) -> tuple[_Ownership, Running]:
        with locked(self.folder.lock, timeout=self.timeout):
            joined = self._join()
            return joined if joined else self._launch()

    def _join(self) -> tuple[_Ownership, Running] | None:
        """Connect to the watchdog of a server that runs here; None if there is none."""
        running = self.folder.last_running()
        if running is None:
            return None
        connection = _connect(Path(running.socket_dir))
        if connection is None:
            return None
        if running.throwaway and not self.throwaway:
            connection.close()
            raise EmbeddedServerError(
                f"the server on {self.folder.path} was started by another process as throwaway: it "
                "does not wait for the disk. End that process first, or ask for throwaway as well."
            )
        return _Ownership(connection), running

    def _launch(self) -> tuple[_Ownership, Running]:
        """Start a watchdog, which starts the server. Nobody else does: we hold the lock."""
        account = server_account(self.folder.pgdata)
        stop_leftover(self.folder.pgdata)
        binaries = reachable_binaries(self._choose_binaries(), account, environ=self.environ)
        self._prepare(binaries, account)
        _remove_old_sockets(self.folder.last_running())
        running = Running(
            socket_dir=str(make_socket_dir(account)),
            bindir=str(binaries.bindir),
            version=binaries.version,
            throwaway=self.throwaway,
        )
        try:
            ownership = self._spawn(running, account)
        except BaseException:
            shutil.rmtree(running.socket_dir, ignore_errors=True)
            raise
        return ownership, running

    def _choose_binaries(self) -> Binaries:
        """Return what the caller gave, or the first found that can read the data."""
        if self.binaries is not None:
            chosen = self.binaries
        else:
            found = find_binaries(environ=self.environ)
            made_by = data_major(self.folder)
            fitting = [each for each in found if each.major == made_by]
            chosen = (fitting or found)[0]
        check_version(self.folder, chosen)
        return chosen

    def _prepare(self, binaries: Binaries, account: Account) -> None:
        if not self.folder.pgdata.exists():
            create_cluster(
                self.folder, binaries, account, throwaway=self.throwaway, environ=self.environ
            )
        elif not self.folder.pgpass.exists():
            set_passwords(self.folder, self.folder.pgdata, binaries, account)
        check_reach(self.folder.pgdata, account)

    def _spawn(self, running: Running, account: Account) -> _Ownership:
        owner_socket = Path(running.socket_dir, OWNER_SOCKET)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(owner_socket))
            owner_socket.chmod(0o600)
            listener.listen(128)
            connection = _connect(Path(running.socket_dir))
            assert connection is not None
            plan = Plan(
                listener=listener.fileno(),
                command=_command(self.folder, running),
                user=None if account.is_caller else account.uid,
                group=None if account.is_caller else account.gid,
                pgdata=str(self.folder.pgdata),
                socket_dir=running.socket_dir,
                owner_socket=str(owner_socket),
                lock=str(self.folder.lock),
                state=str(self.folder.state),
                temporary=str(self.folder.path) if self.temporary else None,
                start_timeout_s=self.timeout,
            )
            try:
                self.folder.write_running(running)
                _run_watchdog(plan, self.folder.log)
            except BaseException:
                connection.close()
                raise
        return _Ownership(connection)


def _run_watchdog(plan: Plan, log: Path) -> None:
    """Start the watchdog in a session of its own, where Ctrl-C in our terminal does not reach it."""
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    program = Path(__file__).with_name("watchdog.py")
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), json.dumps(plan)],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            cwd="/",
            umask=0o077,
            env=environment(),
            pass_fds=(plan["listener"],),
            start_new_session=True,
        )
    finally:
        os.close(handle)
    # It may outlive us, or end before us: then somebody has to take its status.
    threading.Thread(target=process.wait, name="embedded-server-reaper", daemon=True).start()


def _connect(socket_dir: Path) -> socket.socket | None:
    """Connect to a watchdog; None if nobody listens."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(socket_dir / OWNER_SOCKET))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _command(folder: DataFolder, running: Running) -> list[str]:
    settings = {**FIXED_SETTINGS, "unix_socket_directories": running.socket_dir}
    if running.throwaway:
        settings |= THROWAWAY_SETTINGS
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(Path(running.bindir, "postgres")), "-D", str(folder.pgdata), *options]


def _remove_old_sockets(old: Running | None) -> None:
    """Remove the socket folder that a killed watchdog left."""
    if old is not None and Path(old.socket_dir).name.startswith("pgd-"):
        shutil.rmtree(old.socket_dir, ignore_errors=True)


def _describe(folder: DataFolder, running: Running) -> EmbeddedServer:
    passwords = read_passwords(folder)
    host = quote(running.socket_dir, safe="/")

    def dsn(role: str) -> str:
        return f"postgresql://{role}:{passwords[role]}@/{APPLICATION}?host={host}&port={PORT}"

    return EmbeddedServer(
        dsn=dsn(APPLICATION),
        superuser_dsn=dsn(SUPERUSER),
        bindir=Path(running.bindir),
        version=running.version,
        data_dir=folder.path,
        socket_dir=Path(running.socket_dir),
        log_file=folder.log,
    )
