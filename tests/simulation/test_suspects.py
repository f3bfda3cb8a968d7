"""What brings its worker down again and again fails alone; what was leased beside it ends in peace."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import count

import pytest

from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.registry import Registry
from duroxide.runtime.suspects import ALONE_S, MOST_SEATS, STEPS_MS, Suspects
from duroxide.state import ExecutionStatus
from duroxide.testing.simulation import UnreliableProvider, World, simulate

WEEK = timedelta(days=7)
INNOCENTS = 12


class Deaths:
    """The worker that runs now, and what its death looks like to its code: nothing comes after it."""

    def __init__(self) -> None:
        self.connection: UnreliableProvider | None = None
        self.count = 0
        self.died = asyncio.Event()

    def die(self) -> None:
        assert self.connection is not None
        self.connection.is_cut_off = True
        self.count += 1
        self.died.set()


async def keep_a_worker(world: World, registry: Registry, deaths: Deaths) -> None:
    while True:
        runtime = world.runtime(registry, failure_rate=0)
        assert isinstance(runtime.provider, UnreliableProvider)
        deaths.connection = runtime.provider
        deaths.died.clear()
        await runtime.start()
        try:
            await deaths.died.wait()
        finally:
            await world.crash(runtime)


@pytest.mark.parametrize("culprit", ["step", "decision"])
@pytest.mark.parametrize("seed", range(2))
def test_only_the_culprit_is_poison(culprit: str, seed: int) -> None:
    async def scenario(world: World) -> None:
        deaths = Deaths()

        @activity
        async def deadly() -> None:
            await asyncio.sleep(world.draw.uniform(0, 1))
            deaths.die()
            await asyncio.sleep(3600)

        @activity
        async def harmless() -> str:
            await asyncio.sleep(4)  # so that it is under way whenever its worker dies
            return "done"

        @orchestration
        async def decision(ctx: OrchestrationContext) -> None:
            await ctx.sleep(1)
            deaths.die()

        @orchestration
        async def step(ctx: OrchestrationContext) -> None:
            await ctx.call(deadly)

        @orchestration
        async def innocent(ctx: OrchestrationContext) -> str:
            await ctx.sleep(1)
            return str(await ctx.call(harmless))

        registry = Registry().add(deadly, harmless, decision, step, innocent)
        client = await world.client()
        innocents = [await client.start(innocent) for _ in range(INNOCENTS)]
        bad = await client.start(culprit)
        worker = asyncio.create_task(keep_a_worker(world, registry, deaths))
        try:
            for instance_id in innocents:
                state = await client.wait(instance_id, WEEK)
                assert state.status is ExecutionStatus.COMPLETED, state
            state = await client.wait(bad, WEEK)
            assert state.status is ExecutionStatus.FAILED
            assert "exceeded 11 attempts" in str(state.output)
            assert deaths.count == 10
        finally:
            worker.cancel()
            await asyncio.wait([worker])

    simulate(scenario, seed)


def test_what_was_only_refused_is_soon_done() -> None:
    """A crowd that workers without its code have refused; the next release has it."""

    @orchestration
    async def unknown(ctx: OrchestrationContext) -> str:
        return "done"

    async def scenario(world: World) -> None:
        client = await world.client()
        crowd = [await client.start(unknown) for _ in range(200)]
        old = world.runtime(Registry(), failure_rate=0)
        await old.start()
        await asyncio.sleep(60)  # refused four times by then, or more
        await world.crash(old)
        new = world.runtime(Registry().add(unknown), failure_rate=0)
        await new.start()
        began = asyncio.get_running_loop().time()
        for instance_id in crowd:
            state = await client.wait(instance_id, WEEK)
            assert state.status is ExecutionStatus.COMPLETED
        assert asyncio.get_running_loop().time() - began < 20
        await world.crash(new)

    simulate(scenario, 1)


async def test_one_sits_and_the_others_come_back_one_by_one() -> None:
    suspects = Suspects(10)
    assert [suspects.is_one(n) for n in (1, 3, 4, 10)] == [False, False, True, True]
    assert suspects.seat("a", 4)
    assert not suspects.seat("b", 4)
    least, _ = STEPS_MS
    assert [suspects.turn_away() for _ in range(3)] == [least, 2 * least, 3 * least]
    alone = asyncio.create_task(suspects.alone())
    for _ in range(2):
        suspects.turned_away()
    await asyncio.sleep(0.01)
    assert not alone.done(), "one is not in the store again"
    suspects.turned_away()
    await alone
    suspects.leave("b")
    assert not suspects.seat("b", 4)
    suspects.leave("a")
    assert suspects.seat("b", 4)


async def test_the_more_have_ended_in_peace_the_more_sit_together() -> None:
    suspects, numbers = Suspects(10), count()
    seated: list[str] = []
    for ended in range(2 * MOST_SEATS):
        while suspects.seat(token := str(next(numbers)), 7):
            seated.append(token)
        assert len(seated) == min(ended + 1, MOST_SEATS)
        suspects.leave("who has not sat")
        suspects.leave(seated.pop())


async def test_what_has_few_deliveries_left_sits_alone() -> None:
    suspects = Suspects(10)
    for _ in range(MOST_SEATS):
        assert suspects.seat("early", 4)
        suspects.leave("early")
    assert suspects.seat("a", 7)
    assert suspects.seat("b", 7)
    assert not suspects.seat("last", 8)
    suspects.leave("a")
    assert not suspects.seat("last", 8)
    suspects.leave("b")
    assert suspects.seat("last", 8)
    assert not suspects.seat("a", 4)
    assert not suspects.seat("another", 10)
    suspects.leave("last")
    assert suspects.seat("a", 4)


async def test_long_work_does_not_keep_the_seat_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    suspects, loop = Suspects(10), asyncio.get_running_loop()
    assert suspects.seat("a", 4)
    later = loop.time() + ALONE_S
    monkeypatch.setattr(loop, "time", lambda: later)
    assert suspects.seat("b", 4)
    assert not suspects.seat("c", 4)


async def test_who_has_sat_for_long_is_asked_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    suspects, loop = Suspects(10), asyncio.get_running_loop()
    assert suspects.seat("a", 4)
    now = loop.time()
    delays = []
    for seconds in range(3):
        later = now + seconds
        monkeypatch.setattr(loop, "time", lambda later=later: later)
        delays.append(suspects.turn_away())
    least, most = STEPS_MS
    assert delays == [least, 2 * most, 3 * most]


def test_a_first_delivery_is_never_suspect() -> None:
    assert not any(Suspects(attempts).is_one(1) for attempts in range(1, 30))
