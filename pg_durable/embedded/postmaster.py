"""A server whose watchdog was killed: find it by its folder, and end it.

Source: docs/reference/embedded.md, rule 21.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from .errors import EmbeddedServerError

PROC = Path("/proc")
FAST_S, IMMEDIATE_S, KILL_S = 10.0, 5.0, 5.0


def stop_leftover(pgdata: Path) -> None:
    """Stop the server that still runs on `pgdata`, if one does. The caller holds the folder's lock.

    The kernel asked it to stop when its watchdog died, so most often this only waits.

    Raises:
        EmbeddedServerError: it would not end.
    """
    pid = running_pid(pgdata)
    if pid is None:
        return
    steps = ((signal.SIGINT, FAST_S), (signal.SIGQUIT, IMMEDIATE_S), (signal.SIGKILL, KILL_S))
    for number, patience in steps:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        if _gone_within(pgdata, pid, patience):
            return
    raise EmbeddedServerError(
        f"an old server (process {pid}) still runs on {pgdata} and can't be stopped. "
        f"End it ('kill -9 {pid}'), then start again."
    )


def running_pid(pgdata: Path) -> int | None:
    """Return the process id of the server on `pgdata`; None if its pid file is stale or missing."""
    try:
        pid = int((pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    return pid if _serves(pid, pgdata) else None


def _serves(pid: int, pgdata: Path) -> bool:
    """Say whether a process is the server on `pgdata`; its id may have gone to another program."""
    if PROC.exists():
        try:
            return (PROC / str(pid) / "cwd").samefile(pgdata)  # a zombie has no cwd
        except OSError:
            return False
    shown = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return str(pgdata) in shown.stdout


def _gone_within(pgdata: Path, pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _serves(pid, pgdata):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
