"""The server goes away under load, in several ways; the same worker goes on when it is back."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from pathlib import Path

import psycopg
import pytest

from pg_durable import install
from pg_durable.embedded.folders import give
from tests.faults.load import all_ended, some_effects, start, worker
from tests.fixtures.cluster import Cluster, cluster, small_file_system
from tests.fixtures.workflows import eventually

RESTARTS = int(os.environ.get("PG_DURABLE_RESTARTS", "8"))


@pytest.mark.parametrize(
    "how", [signal.SIGQUIT, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_restart_of_the_server_under_load_costs_nothing(
    tmp_path: Path, how: signal.Signals
) -> None:
    """df-execution 12.27: server restart. df-execution 12.33: server restart."""
    with cluster() as server:
        install.install(server.dsn)
        started = start(server.dsn, 10, first=True)
        with worker(server.dsn, tmp_path / "worker.log"):
            some_effects(server.dsn, 5)
            server.stop(how)
            server.start()
            all_ended(server.dsn, started)


@pytest.mark.long
def test_many_immediate_restarts_under_load_cost_nothing(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with cluster() as server:
        install.install(server.dsn)
        started = start(server.dsn, 1, first=True)
        with worker(server.dsn, tmp_path / "one.log"), worker(server.dsn, tmp_path / "two.log"):
            for _ in range(RESTARTS):
                started += start(server.dsn, 40)
                time.sleep(chance.uniform(0.1, 1.5))
                server.stop()
                time.sleep(chance.choice([0, 0, 1]))
                server.start()
            all_ended(server.dsn, started, timeout_s=120)


def fill(folder: Path) -> Path:
    """Leave no space in a file system; returns the file to remove."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return ballast


def write_until_it_ends(dsn: str) -> None:
    """Write more to the log of changes than fits into the files that it has."""
    with psycopg.connect(dsn, autocommit=True) as somebody:
        for _ in range(200):
            somebody.execute("select pg_logical_emit_message(false, 'x', repeat('x', 1000000))")


def errors_in(server: Cluster, words: str) -> int:
    return server.folder.log.read_text(errors="replace").count(words)


@pytest.mark.long
def test_a_full_disk_of_the_tables_delays_work_until_there_is_space(tmp_path: Path) -> None:
    """The tables of df and duroxide are on it: statements fail, the server lives."""
    with small_file_system(64) as small, cluster() as server:
        tables = small / "tables"
        tables.mkdir()
        give(tables, server.account)
        with psycopg.connect(server.superuser_dsn, autocommit=True) as admin:
            admin.execute(f"create tablespace small location '{tables}'".encode())
            admin.execute("grant create on tablespace small to durable")
            admin.execute("alter role durable set default_tablespace = small")
            install.install(server.dsn)
            admin.execute("alter role durable reset default_tablespace")
        started = start(server.dsn, 60, first=True)
        with worker(server.dsn, tmp_path / "worker.log"):
            some_effects(server.dsn, 5)
            ballast = fill(small)
            eventually(
                lambda: errors_in(server, "No space left on device") > 3,
                timeout_s=30,
                what="statements failed for lack of space",
            )
            ballast.unlink()
            all_ended(server.dsn, started)


@pytest.mark.long
def test_a_full_disk_that_ends_the_server_costs_nothing_once_there_is_space(
    tmp_path: Path,
) -> None:
    """Everything is on it: the server can't write its log of changes, and ends in a panic."""
    with small_file_system(220) as small, cluster(small, max_wal_size="32MB") as server:
        install.install(server.dsn)
        started = start(server.dsn, 60, first=True)
        with worker(server.dsn, tmp_path / "worker.log"):
            some_effects(server.dsn, 5)
            ballast = fill(small)
            with pytest.raises(psycopg.OperationalError):
                write_until_it_ends(server.dsn)
            ballast.unlink()
            server.stop()
            server.start()
            all_ended(server.dsn, started)
