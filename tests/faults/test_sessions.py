"""Sessions end, answers are lost, locks are held, the clock is wrong; the same worker goes on."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import defaultdict
from pathlib import Path

import psycopg
import pytest

from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.faults.load import LEASE_S, all_ended, effect, some_effects, start, worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually
from tests.provider.postgres_proxy import Proxy

HELD_S = float(os.environ.get("PG_DURABLE_HELD_S", "20"))
VICTIMS = """
select pid from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and usename = %s
"""
WAITING = """
select application_name, query_start from pg_stat_activity
 where datname = current_database() and wait_event_type = 'Lock'
   and application_name like 'duroxide %%'
"""


def seeded() -> random.Random:
    seed = int(os.environ.get("PG_DURABLE_SEED") or random.SystemRandom().randrange(10**9))
    print(f"PG_DURABLE_SEED={seed}")
    return random.Random(seed)


@pytest.mark.parametrize("kills", [18, pytest.param(300, marks=pytest.mark.long)])
def test_backends_that_are_terminated_at_random_cost_nothing(
    installed: Database, tmp_path: Path, kills: int
) -> None:
    chance = seeded()
    started = start(installed.dsn, kills // 3, first=True, retries=20)
    owner = psycopg.conninfo.conninfo_to_dict(installed.dsn)["user"]
    killed = 0
    with (
        worker(installed.dsn, tmp_path / "worker.log"),
        psycopg.connect(installed.superuser_dsn, autocommit=True) as admin,
    ):
        some_effects(installed.dsn, 1)
        while killed < kills:
            victims = admin.execute(VICTIMS, [owner]).fetchall()
            if victims:
                admin.execute("select pg_terminate_backend(%s)", chance.choice(victims))
                killed += 1
            time.sleep(chance.uniform(0, 0.1))
        all_ended(installed.dsn, started)


@pytest.mark.long
def test_the_account_finds_what_two_commits_instead_of_one_would_do(
    installed: Database, tmp_path: Path
) -> None:
    """With a worker that commits an effect, and the record of it a little later."""
    owner = psycopg.conninfo.conninfo_to_dict(installed.dsn)["user"]
    start(installed.dsn, 1, first=True)
    twice = "select from effects group by workflow, step having count(*) > 1"
    with (
        worker(installed.dsn, tmp_path / "worker.log", two_commits=True),
        psycopg.connect(installed.superuser_dsn, autocommit=True) as admin,
    ):
        some_effects(installed.dsn, 1)  # a worker that can't start ends, and would be started again
        for _ in range(100):
            start(installed.dsn, 5, retries=20)
            for pid in admin.execute(VICTIMS, [owner]).fetchall():
                admin.execute("select pg_terminate_backend(%s)", pid)
            if admin.execute(twice.encode()).fetchall():
                return
            time.sleep(0.1)
    pytest.fail("no effect was there twice, after so many ended sessions")


@pytest.mark.parametrize("count", [8, pytest.param(150, marks=pytest.mark.long)])
async def test_answers_that_are_lost_at_random_cost_nothing(
    installed: Database, count: int
) -> None:
    """Of commits too: what was asked is done, and nobody hears of it."""
    chance = seeded()
    started = start(installed.dsn, count, first=True, retries=20)
    async with Proxy().to(installed.dsn) as proxy:
        settings = {"shutdown_grace": 1.0, "turn_lease": LEASE_S, "activity_lease": LEASE_S}
        async with Worker(proxy.dsn, Settings.load(settings, {})):
            proxy.lose_replies_at_random(chance, one_in=20)
            await asyncio.to_thread(all_ended, installed.dsn, started, timeout_s=100)
        assert proxy.cuts > 0


@pytest.mark.long
@pytest.mark.parametrize("table", ["instance_locks", "history_log"])
def test_a_table_that_is_locked_beyond_every_timeout_costs_only_time(
    installed: Database, tmp_path: Path, table: str
) -> None:
    """Until statements have ended with lock_timeout (5 s) and were sent again, twice."""
    started = start(installed.dsn, 20, first=True)
    tries: dict[str, set[object]] = defaultdict(set)
    session = Workflows.connect(installed.dsn)
    with worker(installed.dsn, tmp_path / "worker.log"), session.connection:
        some_effects(installed.dsn, 5)
        with psycopg.connect(installed.dsn) as somebody:
            somebody.execute(f"lock table duroxide.{table}".encode())

            def has_tried_thrice() -> bool:
                for name, began in session.all(WAITING):
                    tries[name].add(began)
                return any(len(times) >= 3 for times in tries.values())

            eventually(has_tried_thrice, timeout_s=40, what="a statement was sent again twice")
        all_ended(installed.dsn, started)


@pytest.mark.long
@pytest.mark.parametrize("hours", [1, -1])
def test_a_worker_whose_clock_is_wrong_by_an_hour_is_neither_early_nor_late(
    installed: Database, tmp_path: Path, hours: int
) -> None:
    """Beside one whose clock is right: they must agree on leases and timers."""
    began = time.monotonic()
    started = start(installed.dsn, 6, first=True)
    with (
        worker(installed.dsn, tmp_path / "wrong.log", clock_is_off_by_s=3600 * hours),
        worker(installed.dsn, tmp_path / "right.log"),
    ):
        all_ended(installed.dsn, started)
        assert time.monotonic() - began < 15
        session = Workflows.connect(installed.dsn)
        with session.connection:
            early = session.all(
                "select a.workflow from effects a join effects b using (workflow)"
                " where a.step = 'one' and b.step = 'two' and b.at < a.at + interval '1 second'"
            )
        assert early == []


@pytest.mark.long
def test_a_transaction_that_is_held_open_delays_nobody_else(
    installed: Database, tmp_path: Path
) -> None:
    """It keeps a snapshot, an effect's row and the rows of one workflow, for PG_DURABLE_HELD_S."""
    started = start(installed.dsn, 1, first=True)
    (held,) = started
    session = Workflows.connect(installed.dsn)
    with worker(installed.dsn, tmp_path / "worker.log"), session.connection:
        with psycopg.connect(installed.dsn) as somebody:
            somebody.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            somebody.execute("select from df.instances where id = %s for update", [held])
            somebody.execute("select df.start($$select 1$$)")
            deadline = time.monotonic() + HELD_S
            while time.monotonic() < deadline:
                others = start(installed.dsn, 10)
                for instance in others:
                    assert session.wait(instance, timeout_s=15) == "completed"
                started += others
            assert session.status(held) != "completed", "the row was not in its way"
            somebody.rollback()
        all_ended(installed.dsn, started)


@pytest.mark.long
def test_a_step_that_waits_for_a_row_of_a_user_goes_on_when_it_is_free(
    installed: Database, tmp_path: Path
) -> None:
    """Beyond its lease, which is renewed; and it takes its turn with nobody else's effect."""
    started = start(installed.dsn, 3, first=True)
    session = Workflows.connect(installed.dsn)
    with worker(installed.dsn, tmp_path / "worker.log"), session.connection:
        session.run("create table counter (n int); insert into counter values (0)")
        add = "$$update counter set n = n + 1$$"
        with psycopg.connect(installed.dsn) as somebody:
            somebody.execute("update counter set n = n + 10")
            waiting = [session.start(f"{add} ~> {effect('five')}") for _ in range(5)]
            for instance in started:
                assert session.wait(instance) == "completed"
            time.sleep(2 * LEASE_S)
            assert {session.status(each) for each in waiting} == {"running"}
        for instance in waiting:
            assert session.wait(instance) == "completed"
        assert session.one("select n from counter") == 15
        eventually(
            lambda: session.one("select count(*) from duroxide.worker_queue") == 0, what="it ended"
        )
