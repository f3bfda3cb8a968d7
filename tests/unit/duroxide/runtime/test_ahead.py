"""Short activities are leased ahead, long ones are left to whoever has a free slot."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from duroxide.client import AsyncClient
from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import Registry
from duroxide.runtime.ahead import AT_MOST, Ahead
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.testing.virtualtime import LoopClock, run_virtual


@given(
    slots=st.integers(1, 500),
    wait_s=st.floats(0, 1),
    durations=st.lists(st.floats(0, 100), min_size=1),
)
def test_what_is_leased_ahead_waits_no_longer_than_it_may(
    slots: int, wait_s: float, durations: list[float]
) -> None:
    ahead = Ahead(slots, wait_s)
    assert ahead.count == 0
    for seconds in durations:
        ahead.ended(seconds)
    assert 0 <= ahead.count <= AT_MOST * slots
    assert ahead.count * min(durations) / slots <= wait_s + 1e-9
    if min(durations) > 0 and wait_s >= AT_MOST * max(durations):
        assert ahead.count == AT_MOST * slots


def test_one_that_waits_in_vain_ends_the_leasing_ahead() -> None:
    ahead = Ahead(64, 0.05)
    ahead.ended(0.001)
    assert ahead.count > 100
    ahead.waited(10.0)
    assert ahead.count == 0


@activity
async def work_for(seconds: float) -> str:
    running.append(seconds)
    try:
        await asyncio.sleep(seconds)
    finally:
        running.remove(seconds)
    return "done"


running: list[float] = []


@orchestration
async def one(ctx: OrchestrationContext, seconds: float) -> str:
    return await ctx.call(work_for, seconds)


def test_long_activities_that_follow_short_ones_find_the_free_slots_of_others() -> None:
    async def scenario() -> None:
        store = MemoryProvider(LoopClock())
        registry = Registry().add(one, work_for)
        client = AsyncClient(store)
        few, many = RuntimeOptions(worker_concurrency=2), RuntimeOptions(worker_concurrency=20)
        async with AsyncRuntime(store, registry, few):
            short = [await client.start(one, 0.001) for _ in range(100)]
            for instance in short:
                await client.result(instance)
            long = [await client.start(one, 3600) for _ in range(20)]
            await asyncio.sleep(0.1)
            assert len(running) == 2
            async with AsyncRuntime(store, registry, many):
                await asyncio.sleep(10)
                assert len(running) == 20
                for instance in long:
                    assert await client.result(instance, timeout=timedelta(hours=2)) == "done"

    run_virtual(scenario())


def test_a_drain_gives_back_at_once_what_waits_for_a_slot() -> None:
    async def scenario() -> None:
        store = MemoryProvider(LoopClock())
        registry = Registry().add(one, work_for)
        client = AsyncClient(store)
        runtime = AsyncRuntime(store, registry, RuntimeOptions(worker_concurrency=1))
        await runtime.start()
        for _ in range(20):
            await client.result(await client.start(one, 0.001))
        for _ in range(5):
            await client.start(one, 60)
        await asyncio.sleep(0.1)
        assert len(running) == 1
        draining = asyncio.create_task(runtime.drain(timedelta(hours=1)))
        await asyncio.sleep(1)
        assert (await store.queue_depths()).worker_queue == 4
        assert await draining
        await runtime.stop()

    run_virtual(scenario())
