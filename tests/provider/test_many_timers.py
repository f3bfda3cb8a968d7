"""Tens of thousands of timers of the far future hide nothing that is due, and cost a poll nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from duroxide.providers.base import MessageKind, Provider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite.driver import StoreDriver, message
from duroxide_pg.provider import PostgresProvider
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]

TIMERS, INSTANCES = 50_000, 50
LATER_MS = 3_600_000


async def fastest_poll(store: StoreDriver) -> float:
    """Seconds of the fastest of ten polls, each of which finds one instance."""
    seconds = []
    for _ in range(10):
        await store.start("due")
        began = time.perf_counter()
        leased = await store.lease("due")
        seconds.append(time.perf_counter() - began)
        await store.commit_turn(leased, 0)
    return min(seconds)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_fifty_thousand_timers_do_not_slow_a_poll(
    kind: str, installed_dsn: str, tmp_path: Path
) -> None:
    clock = ManualClock()
    provider: Provider
    if kind == "sqlite":
        provider = SqliteProvider(tmp_path / "store.db", clock=clock)
    else:
        empty(installed_dsn)
        provider = PostgresProvider(installed_dsn, clock=clock)
    await provider.start()
    try:
        store = StoreDriver(provider, clock)
        before = await fastest_poll(store)
        each = TIMERS // INSTANCES
        for number in range(INSTANCES):
            name = f"sleeper{number}"
            await store.start(name)
            due_ms = store.now_ms() + LATER_MS
            timers = tuple(
                message(name, "z", kind=MessageKind.TIMER, visible_at_ms=due_ms, timer=(1, n))
                for n in range(2, each + 2)
            )
            await store.commit_turn(await store.lease(name), each + 1, messages=timers)
        assert (await store.admin.queue_depths()).timer_queue == TIMERS
        async with asyncio.timeout(30):
            after = await fastest_poll(store)
        assert after < 10 * before + 0.02
        clock.advance(LATER_MS)
        assert len(await store.poll(INSTANCES)) == INSTANCES
    finally:
        await provider.close()
