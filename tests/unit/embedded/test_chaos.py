from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from pg_durable.embedded import embedded_server
from tests.unit.embedded.processes import REPOSITORY, until

CHAOS = Path(__file__).with_name("chaos.py")
OWNERS = 3
SECONDS = 30.0


def start(folder: Path, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(CHAOS), str(folder), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def rows_written(owner: subprocess.Popen[str]) -> int:
    """Wait for the end of an owner; it must not have failed, only been killed."""
    said, failed = owner.communicate()
    assert owner.returncode == -signal.SIGKILL, failed
    return said.count("done")


@pytest.mark.long
def test_whoever_is_killed_the_next_owner_finds_a_server_and_all_that_was_committed(
    open_folder: Path,
) -> None:
    with (
        embedded_server(open_folder, throwaway=True) as server,
        psycopg.connect(server.superuser_dsn) as connection,
    ):
        connection.execute("CREATE TABLE done (owner int)")
    written, seed, end = 0, 0, time.monotonic() + SECONDS
    owners: list[subprocess.Popen[str]] = []
    while time.monotonic() < end:
        for ended in [owner for owner in owners if owner.poll() is not None]:
            owners.remove(ended)
            written += rows_written(ended)
        while len(owners) < OWNERS:
            seed += 1
            owners.append(start(open_folder, seed))
        time.sleep(0.02)
    for owner in owners:
        owner.kill()
        written += rows_written(owner)
    with (
        embedded_server(open_folder, throwaway=True) as server,
        psycopg.connect(server.superuser_dsn) as connection,
    ):
        (found,) = connection.execute("SELECT count(*) FROM done").fetchone() or (0,)
    assert found >= written > OWNERS
    until(lambda: str(open_folder) not in all_commands())


def all_commands() -> str:
    listing = ["ps", "-A", "-ww", "-o", "args="]
    return subprocess.run(listing, capture_output=True, text=True, check=True).stdout
