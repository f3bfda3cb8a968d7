"""Processes that own a server, and what the operating system says about any process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pg_durable
from pg_durable.embedded.accounts import Account, credentials

REPOSITORY = Path(pg_durable.__file__).parent.parent
OWNER = Path(__file__).with_name("owner.py")


@dataclass(frozen=True, slots=True)
class Owner:
    """Another process that owns a server."""

    process: subprocess.Popen[str]

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        account: Account | None = None,
        python: str = sys.executable,
        **env: str,
    ) -> Owner:
        process = subprocess.Popen(
            [python, str(OWNER), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **env},
            start_new_session=True,
            **(credentials(account) if account else {}),
        )
        return cls(process)

    def server(self) -> tuple[str, int]:
        """Wait for the server; return a superuser's DSN, and the postmaster's process id."""
        assert self.process.stdout
        said = json.loads(self.process.stdout.readline())
        return said["dsn"], said["pid"]

    def leave(self) -> None:
        """Let it leave in good order."""
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        with self.process:  # closes its pipes, and reaps it
            pass


def until(claim: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until `claim` is true; fail if that takes longer."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, f"not so after {seconds:g} seconds"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that only waits to be reaped does not."""
    state = _ps(pid, "stat")
    return bool(state) and not state.startswith("Z")


def parent_of(pid: int) -> int:
    return int(_ps(pid, "ppid"))


def user_of(pid: int) -> str:
    return _ps(pid, "user")


def children_of(pid: int) -> list[int]:
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split() for line in listing.splitlines())
    return [int(child) for child, parent in rows if int(parent) == pid]


def _ps(pid: int, column: str) -> str:
    shown = subprocess.run(
        ["ps", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()
