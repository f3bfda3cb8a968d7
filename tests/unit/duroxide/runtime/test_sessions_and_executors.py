"""Where activities run: with the owner of a session, with a tag, in threads, in other processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta

import pytest

from duroxide.activity_context import ActivityContext
from duroxide.client import AsyncClient
from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.providers.base import TagMode, TagSelection
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import Registry, define_activity
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.testing.virtualtime import LoopClock, run_virtual
from tests.unit.duroxide.runtime.test_runtime import working

HOUR = timedelta(hours=1)


def test_a_session_stays_with_one_worker_until_it_is_gone() -> None:
    where: dict[str, set[str]] = defaultdict(set)

    @activity
    async def visit(ctx: ActivityContext) -> None:
        assert ctx.session_id is not None
        where[ctx.session_id].add(ctx.worker_id)
        await asyncio.sleep(10)

    @orchestration
    async def visits(ctx: OrchestrationContext, session: str) -> None:
        for _ in range(20):
            await ctx.call(visit.bind(), session=session)

    async def scenario() -> None:
        store = MemoryProvider(LoopClock())
        async with (
            working(visits, visit, provider=store, worker_node_id="one") as (client, _),
            working(visits, visit, provider=store, worker_node_id="two"),
        ):
            ids = [await client.start(visits, f"s{number}") for number in range(6)]
            await asyncio.gather(*(client.result(i, timeout=HOUR) for i in ids))

    run_virtual(scenario())
    assert [len(workers) for workers in where.values()] == [1] * 6


def test_sessions_of_workers_that_are_gone_are_swept() -> None:
    @activity
    async def visit(ctx: ActivityContext) -> None: ...

    @orchestration
    async def once(ctx: OrchestrationContext) -> None:
        await ctx.call(visit.bind(), session="s")

    async def scenario() -> None:
        clock = LoopClock()
        store = MemoryProvider(clock)
        async with working(once, visit, provider=store, worker_node_id="gone") as (client, _):
            await client.result(await client.start(once))
        assert await store.renew_sessions(owner="gone", lease_ms=1_000, idle_ms=60_000) == 1
        async with working(provider=store, session_cleanup_interval_ms=5_000):
            await asyncio.sleep(6)
        assert await store.cleanup_sessions(idle_ms=0) == 0

    run_virtual(scenario())


def test_no_more_sessions_are_claimed_than_allowed() -> None:
    now: set[str] = set()
    most = 0

    @activity
    async def visit(ctx: ActivityContext) -> None:
        nonlocal most
        now.add(ctx.session_id or "")
        most = max(most, len(now))
        await asyncio.sleep(1)
        now.discard(ctx.session_id or "")

    @orchestration
    async def one_visit(ctx: OrchestrationContext, session: str) -> None:
        await ctx.call(visit.bind(), session=session)

    async def scenario() -> None:
        async with working(one_visit, visit, max_sessions_per_runtime=2) as (client, _):
            ids = [await client.start(one_visit, f"s{number}") for number in range(6)]
            await asyncio.gather(*(client.result(i, timeout=HOUR) for i in ids))

    run_virtual(scenario())
    assert most == 2


def test_a_session_begins_as_soon_as_another_has_ended() -> None:
    """The poll that was told of no room for it would wait for half a minute."""

    @activity
    async def visit() -> None:
        await asyncio.sleep(1)

    @orchestration
    async def one_visit(ctx: OrchestrationContext, session: str) -> None:
        await ctx.call(visit.bind(), session=session)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with working(one_visit, visit, max_sessions_per_runtime=1) as (client, _):
            began = loop.time()
            ids = [await client.start(one_visit, f"s{number}") for number in range(4)]
            await asyncio.gather(*(client.result(i, timeout=HOUR) for i in ids))
            assert loop.time() - began < 5

    run_virtual(scenario())


def test_sessions_that_are_held_idle_count_once_they_have_work() -> None:
    now: set[str] = set()
    most: list[int] = []

    @activity
    async def visit(ctx: ActivityContext) -> None:
        now.add(ctx.session_id or "")
        most.append(len(now))
        await asyncio.sleep(1)
        now.discard(ctx.session_id or "")

    @orchestration
    async def two_visits(ctx: OrchestrationContext, session: str) -> None:
        await ctx.call(visit.bind(), session=session)
        await ctx.wait_event("again", buffered=True)
        await ctx.call(visit.bind(), session=session)

    async def scenario() -> None:
        async with working(two_visits, visit, max_sessions_per_runtime=2) as (client, _):
            ids = [await client.start(two_visits, f"s{number}") for number in range(6)]
            await asyncio.sleep(10)  # all six are held by now
            assert len(most) == 6
            for instance in ids:
                await client.raise_event(instance, "again")
            await asyncio.gather(*(client.result(i, timeout=HOUR) for i in ids))

    run_virtual(scenario())
    assert (max(most), len(most)) == (2, 12)


@pytest.mark.parametrize(("name", "most_s"), [(None, 1), ("stable", 31)])
def test_sessions_move_at_once_when_a_worker_without_a_name_stops(
    name: str | None, most_s: float
) -> None:
    """A name that was given keeps them over a restart, for as long as the lease is."""
    where: list[str] = []

    @activity
    async def visit(ctx: ActivityContext) -> None:
        where.append(ctx.worker_id)

    @orchestration
    async def one_visit(ctx: OrchestrationContext) -> None:
        await ctx.call(visit.bind(), session="s")

    async def scenario() -> None:
        store, loop = MemoryProvider(LoopClock()), asyncio.get_running_loop()
        async with working(one_visit, visit, provider=store, worker_node_id=name) as (client, _):
            await client.result(await client.start(one_visit))
        began = loop.time()
        async with working(one_visit, visit, provider=store) as (client, _):
            await client.result(await client.start(one_visit), timeout=HOUR)
        assert most_s - 2 < loop.time() - began < most_s

    run_virtual(scenario())
    assert len(set(where)) == 2


def test_a_tag_finds_the_worker_that_has_it() -> None:
    seen: list[tuple[str, str | None]] = []

    @activity
    async def look(ctx: ActivityContext) -> None:
        seen.append((ctx.worker_id, ctx.tag))

    @orchestration
    async def both(ctx: OrchestrationContext) -> None:
        await ctx.call(look.bind(), tag="gpu")
        await ctx.call(look)

    async def scenario() -> None:
        store = MemoryProvider(LoopClock())
        gpu = TagSelection(TagMode.TAGS, frozenset({"gpu"}))
        async with (
            working(both, look, provider=store, worker_node_id="plain") as (client, _),
            working(both, look, provider=store, worker_node_id="big", worker_tag_filter=gpu),
        ):
            await client.result(await client.start(both), timeout=HOUR)

    run_virtual(scenario())
    assert seen == [("big", "gpu"), ("plain", None)]


def process_id(add: int) -> int:
    return os.getpid() + add


async def test_an_activity_runs_in_another_process() -> None:
    @orchestration
    async def outside(ctx: OrchestrationContext) -> int:
        return int(await ctx.call(elsewhere, 0))

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        elsewhere = define_activity(process_id, name="elsewhere", executor=pool)
        async with working(outside, elsewhere) as (client, _):
            assert await client.result(await client.start(outside)) != os.getpid()


async def test_a_plain_function_runs_in_a_thread_and_hears_of_its_cancellation() -> None:
    heard = threading.Event()

    @activity
    def wait_for_it(ctx: ActivityContext) -> None:
        assert threading.current_thread().name.startswith("activity")
        while not ctx.is_cancelled():
            pass
        heard.set()

    @orchestration
    async def impatient(ctx: OrchestrationContext) -> None:
        await ctx.select(ctx.call(wait_for_it), ctx.sleep(0.1))

    store = MemoryProvider()
    options = RuntimeOptions(worker_lock_timeout_ms=5_000)
    async with AsyncRuntime(store, Registry().add(impatient, wait_for_it), options):
        client = AsyncClient(store)
        await client.result(await client.start(impatient))
        assert await asyncio.to_thread(heard.wait, 5)
