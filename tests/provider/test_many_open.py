"""What a turn of an instance costs does not grow with the square of what the instance waits for."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import psycopg
import pytest

from duroxide.providers.base import MessageKind
from duroxide.providers.sqlite import SqliteProvider
from duroxide.providers.sqlite_rows import SQL
from duroxide.state import ExecutionStatus
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite.driver import StoreDriver, activity, message
from duroxide_pg import migrate
from duroxide_pg.provider import PostgresProvider
from tests.fixtures.postgres import Database

OPEN = 1_500
LATER_MS = 3_600_000
PROBES = 20  # of each row, at most


async def rows_read(dsn: str, table: str) -> int:
    """By all sessions that have ended; the server counts them a little later."""
    query = (
        "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0), n_tup_del"
        " from pg_stat_all_tables where schemaname = 'duroxide' and relname = %s"
    )
    async with asyncio.timeout(20):
        while True:
            async with await psycopg.AsyncConnection.connect(dsn) as connection:
                row = await (await connection.execute(query, [table])).fetchone()
            assert row is not None
            if row[1] >= OPEN:
                return int(row[0])
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("table", ["orchestrator_queue", "worker_queue"])
async def test_all_that_is_open_is_given_up_in_one_pass(database: Database, table: str) -> None:
    migrate.upgrade(database.dsn)
    provider = PostgresProvider(database.dsn, clock=ManualClock())
    await provider.start()
    clock = provider._clock
    assert isinstance(clock, ManualClock)
    store = StoreDriver(provider, clock)
    numbers = tuple(range(2, OPEN + 2))
    await store.start("i1")
    due_ms = store.now_ms() + LATER_MS
    timers = tuple(
        message("i1", "z", kind=MessageKind.TIMER, visible_at_ms=due_ms, timer=(1, n))
        for n in numbers
    )
    work = tuple(activity("i1", n) for n in numbers)
    are_timers = table == "orchestrator_queue"
    await store.commit_turn(
        await store.lease("i1"),
        OPEN + 1,
        messages=timers if are_timers else (),
        activities=() if are_timers else work,
    )
    await store.send("i1", "stop")
    await store.commit_turn(
        await store.lease("i1"),
        1,
        status=ExecutionStatus.FAILED,
        cancelled_timers=numbers if are_timers else (),
        cancelled_activities=() if are_timers else numbers,
    )
    depths = await store.admin.queue_depths()
    assert (depths.timer_queue, depths.worker_queue) == (0, 0)
    await provider.close()
    assert await rows_read(database.dsn, table) < PROBES * OPEN


async def test_sqlite_finds_a_timer_without_reading_the_others(tmp_path: Path) -> None:
    provider = SqliteProvider(tmp_path / "store.db")
    await provider.start()
    await provider.close()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        plan = connection.execute("explain query plan " + SQL["cancel_timer"], ("i", 1, 2))
        assert [row[3] for row in plan] == [
            "SEARCH messages USING INDEX messages_by_timer"
            " (instance_id=? AND timer_execution_id=? AND timer_event_id=?)"
        ]
    connection.close()
