"""Becoming an owner of the server on a folder: join it, or start it under the lock of the folder.

Source: docs/reference/embedded.md, rules 16-22.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .accounts import Account, environment, server_account
from .cluster import check_version, data_major, prepare_cluster
from .errors import EmbeddedServerError
from .folders import DataFolder, Running, acquire, actionable, give, locked
from .owners import OWNER_SOCKET, Ownership, join
from .postmaster import stop_leftover
from .search import Binaries, find_binaries
from .templates import reachable_binaries
from .temporary import PORT, make_socket_dir, mark_socket_dir, remove_socket_dir
from .watchdog import Plan

# What may not depend on files that somebody edits: how to get in, and where.
FIXED_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "logging_collector": "off",
    "log_destination": "stderr",
}
ORPHANS_S = 20.0  # what a killed server left ends by itself, at the latest with its query
# Commits are still written before they are answered: what is committed survives the server.
THROWAWAY_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "256MB",  # it may be in memory
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One attempt to become an owner of the server on `folder`."""

    folder: DataFolder
    temporary: bool
    throwaway: bool
    binaries: Binaries | None
    environ: Mapping[str, str]
    timeout: float  # seconds

    def own(self) -> tuple[Ownership, Running]:
        """Join or start the server. It may not be ready yet."""
        with locked(self.folder.lock, timeout=self.timeout), actionable(self.folder.path):
            return self._join() or self._launch()

    def _join(self) -> tuple[Ownership, Running] | None:
        running = self.folder.last_running()
        connection = join(running) if running else None
        if running is None or connection is None:
            return None
        if running.throwaway and not self.throwaway:
            connection.close()
            raise EmbeddedServerError(
                f"the server on {self.folder.path} was started by another process as throwaway: it "
                "does not wait for the disk. End that process first, or ask for throwaway as well."
            )
        return Ownership(connection, joined=True), running

    def _launch(self) -> tuple[Ownership, Running]:
        """Start a watchdog, which starts the server. Nobody else can: we hold the lock."""
        account = server_account(self.folder.pgdata)
        stop_leftover(self.folder.pgdata)
        server_lock = acquire(self.folder.server_lock, timeout=min(self.timeout, ORPHANS_S))
        try:
            return self._launch_alone(account, server_lock)
        finally:
            os.close(server_lock)

    def _launch_alone(self, account: Account, server_lock: int) -> tuple[Ownership, Running]:
        """Start a watchdog when no process of an earlier server is left; it inherits the lock."""
        binaries = reachable_binaries(self._choose_binaries(), account, self.environ)
        keep = not (self.throwaway or self.temporary)
        prepare_cluster(self.folder, binaries, account, keep=keep, environ=self.environ)
        killed = self.folder.last_running()
        if killed:
            remove_socket_dir(killed.socket_dir)
        running = Running(
            socket_dir=str(make_socket_dir(account)),
            bindir=str(binaries.bindir),
            version=binaries.version,
            throwaway=self.throwaway,
            temporary=self.temporary,
        )
        try:
            return self._spawn(running, account, server_lock), running
        except BaseException:
            remove_socket_dir(running.socket_dir)
            raise

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

    def _spawn(self, running: Running, account: Account, server_lock: int) -> Ownership:
        """Start the watchdog on a socket that already listens, and be its first owner."""
        owner_socket = Path(running.socket_dir, OWNER_SOCKET)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(owner_socket))
            owner_socket.chmod(0o600)
            listener.listen(128)
            connection = join(running)
            assert connection is not None
            try:
                self.folder.write_running(running)
                mark_socket_dir(owner_socket.parent, self.folder)
                give(owner_socket.parent, account)  # last: nobody could tamper with the above
                plan = self._plan(running, account, listener.fileno(), server_lock)
                _run_watchdog(plan, self.folder.log)
            except BaseException:
                connection.close()
                raise
        return Ownership(connection, joined=False)

    def _plan(self, running: Running, account: Account, listener: int, server_lock: int) -> Plan:
        return Plan(
            listener=listener,
            server_lock=server_lock,
            command=_command(self.folder, running),
            user=None if account.is_caller else account.uid,
            group=None if account.is_caller else account.gid,
            pgdata=str(self.folder.pgdata),
            socket_dir=running.socket_dir,
            owner_socket=str(Path(running.socket_dir, OWNER_SOCKET)),
            lock=str(self.folder.lock),
            state=str(self.folder.state),
            temporary=str(self.folder.path) if self.temporary else None,
            start_timeout_s=self.timeout,
        )


def _command(folder: DataFolder, running: Running) -> list[str]:
    settings = {**FIXED_SETTINGS, "unix_socket_directories": running.socket_dir}
    if running.throwaway:
        settings |= THROWAWAY_SETTINGS
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(Path(running.bindir, "postgres")), "-D", str(folder.pgdata), *options]


def _run_watchdog(plan: Plan, log: Path) -> None:
    """Start the watchdog in a session of its own, where Ctrl-C in our terminal does not reach it."""
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    program = Path(__file__).resolve().with_name("watchdog.py")
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
            pass_fds=(plan["listener"], plan["server_lock"]),
            start_new_session=True,
        )
    finally:
        os.close(handle)
    # It may outlive us, or end before us: then somebody has to take its status.
    threading.Thread(target=process.wait, name="embedded-server-reaper", daemon=True).start()
