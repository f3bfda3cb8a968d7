"""Whatever the store and the workers do, every instance ends once and every history is sound."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest

from duroxide import history
from duroxide.client import AsyncClient
from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.providers.base import Capabilities
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import Registry
from duroxide.state import ExecutionStatus
from duroxide.testing.simulation import World, simulate
from duroxide.testing.virtualtime import LoopClock

WEEK = timedelta(days=7)
SEEDS = range(12)


@activity
async def step(number: int) -> int:
    await asyncio.sleep(0.05)
    return number + 1


@orchestration
async def line(ctx: OrchestrationContext, length: int) -> int:
    number = 0
    for _ in range(length):
        number = await ctx.call(step, number)
    return number


@orchestration
async def wide(ctx: OrchestrationContext, width: int) -> int:
    results = await ctx.gather(*(ctx.call(step, number) for number in range(width)))
    await ctx.sleep(2)
    return sum(results)


@orchestration
async def family(ctx: OrchestrationContext, children: int) -> int:
    return sum(await ctx.gather(*(ctx.call_child(line, n + 1) for n in range(children))))


@orchestration
async def rounds(ctx: OrchestrationContext, left: int) -> str:
    await ctx.call(step, left)
    message = await ctx.queue("in").get()
    if left:
        ctx.continue_as_new(left - 1)
    return str(message)


@orchestration
async def race(ctx: OrchestrationContext, seconds: float) -> str:
    winner = await ctx.select(work=ctx.call(step, 1), late=ctx.sleep(seconds))
    return str(winner.key)


REGISTRY = Registry().add(step, line, wide, family, rounds, race)
EXPECTED = {"line": 6, "wide": 21, "family": 6, "rounds": "3"}


async def start_all(client: AsyncClient, copies: int) -> list[str]:
    ids = []
    for copy in range(copies):
        for definition, argument in ((line, 6), (wide, 6), (family, 3), (rounds, 3), (race, 0.05)):
            ids.append(
                await client.start(definition, argument, instance_id=f"{definition.name}-{copy}")
            )
        for number in range(4):
            await client.enqueue(f"rounds-{copy}", "in", number)
    return ids


async def check(world: World, client: AsyncClient, ids: Sequence[str]) -> None:
    """All have ended as they should, and every history is whole."""
    states = await asyncio.gather(*(client.wait(instance_id, WEEK) for instance_id in ids))
    for state in states:
        name = state.instance_id.partition("-")[0]
        assert state.status is ExecutionStatus.COMPLETED, state
        if name in EXPECTED:
            assert await client.result(state.instance_id) == EXPECTED[name]
    for state in await world.store.list_instances():
        for info in await world.store.list_executions(state.instance_id):
            events = await client.history(state.instance_id, info.execution_id)
            assert [event.event_id for event in events] == list(range(1, len(events) + 1))
            ends = [e for e in events if isinstance(e.kind, history.Terminal)]
            assert ends == [events[-1]], "one terminal event, and nothing after it"
            answers = Counter(
                e.kind.source_event_id for e in events if isinstance(e.kind, history.Completion)
            )
            assert all(count == 1 for count in answers.values()), "no step twice in history"
    await asyncio.sleep(120)
    depths = await world.store.queue_depths()
    assert (depths.orchestrator_queue, depths.worker_queue, depths.timer_queue) == (0, 0, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_lost_replies_and_refused_connections_change_nothing(seed: int) -> None:
    async def scenario(world: World) -> None:
        client = await world.client()
        async with world.worker(REGISTRY, failure_rate=0.2):
            await check(world, client, await start_all(client, 4))

    simulate(scenario, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_workers_that_crash_lose_nothing(seed: int) -> None:
    async def scenario(world: World) -> None:
        client = await world.client()
        ids = await start_all(client, 4)
        async with world.worker(REGISTRY):
            for _ in range(6):
                doomed = world.runtime(REGISTRY)
                await doomed.start()
                await asyncio.sleep(world.draw.uniform(0.01, 0.6))
                await world.crash(doomed)
            await check(world, client, ids)

    simulate(scenario, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_that_was_cut_off_and_comes_back_does_no_harm(seed: int) -> None:
    async def scenario(world: World) -> None:
        client = await world.client()
        connection = world.connection(failure_rate=0)
        sleepy = world.runtime(REGISTRY, failure_rate=0)
        sleepy.provider = connection
        await sleepy.start()
        ids = await start_all(client, 3)
        await asyncio.sleep(world.draw.uniform(0.01, 0.3))
        connection.is_cut_off = True  # as a process under SIGSTOP: its leases run out
        async with world.worker(REGISTRY):
            await asyncio.sleep(world.draw.uniform(5, 60))
            connection.is_cut_off = False
            await check(world, client, ids)
            await sleepy.drain()
            await sleepy.stop()

    simulate(scenario, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_draining_under_load_repeats_no_activity(seed: int) -> None:
    runs: Counter[str] = Counter()

    @activity
    async def counted(key: str) -> str:
        runs[key] += 1
        await asyncio.sleep(0.05)
        return key

    @orchestration
    async def counting(ctx: OrchestrationContext, name: str) -> None:
        for number in range(10):
            await ctx.call(counted, f"{name}/{number}")

    registry = Registry().add(counted, counting)

    async def scenario(world: World) -> None:
        client = await world.client()
        names = [f"i{number}" for number in range(8)]
        for name in names:
            await client.start(counting, name, instance_id=name)
        for _ in range(5):
            async with world.worker(registry, failure_rate=0):
                await asyncio.sleep(world.draw.uniform(0.05, 0.3))
        async with world.worker(registry, failure_rate=0):
            await asyncio.gather(*(client.wait(name, WEEK) for name in names))

    simulate(scenario, seed)
    assert set(runs.values()) == {1}


@pytest.mark.parametrize("seed", range(4))
def test_a_store_with_no_optional_capability_does_everything_all_the_same(seed: int) -> None:
    async def scenario(world: World) -> None:
        world.store = MemoryProvider(LoopClock(), capabilities=Capabilities())
        client = await world.client()
        async with world.worker(REGISTRY, failure_rate=0.1), world.worker(REGISTRY):
            await check(world, client, await start_all(client, 3))

    simulate(scenario, seed)


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[tuple[str, int, int]]:
        seen: list[tuple[str, int, int]] = []

        async def scenario(world: World) -> None:
            client = await world.client()
            async with world.worker(REGISTRY, failure_rate=0.2):
                ids = await start_all(client, 2)
                await asyncio.gather(*(client.wait(instance_id, WEEK) for instance_id in ids))
            for state in await world.store.list_instances():
                for event in await client.history(state.instance_id):
                    seen.append((state.instance_id, event.event_id, event.timestamp_ms))

        simulate(scenario, seed)
        return seen

    assert run(3) == run(3)
    assert run(3) != run(4)
