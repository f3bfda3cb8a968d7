"""The server goes away under load, in several ways; the same worker goes on when it is back."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from pg_durable import install
from tests.faults.load import all_ended, start, worker
from tests.fixtures.cluster import cluster
from tests.fixtures.workflows import Workflows, eventually

RESTARTS = int(os.environ.get("PG_DURABLE_RESTARTS", "8"))


def some_effects(dsn: str, least: int) -> None:
    """Wait until the load runs."""
    session = Workflows.connect(dsn)
    with session.connection:
        eventually(
            lambda: session.one("select count(*) from effects") >= least,
            what=f"there are {least} effects",
        )


@pytest.mark.parametrize(
    "how", [signal.SIGQUIT, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_restart_of_the_server_under_load_costs_nothing(
    tmp_path: Path, how: signal.Signals
) -> None:
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
