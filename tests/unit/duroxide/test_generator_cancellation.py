"""A generator that is cancelled is told so where it waits, and may clean up, as a coroutine may."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest

from duroxide import Cancelled, OrchestrationCancelled, OrchestrationContext, orchestration
from duroxide.registry import OrchestrationDef
from duroxide.testing.world import HOLD, World

Steps = Generator[Any, Any, Any]


@orchestration(name="coroutine")
async def coroutine(ctx: OrchestrationContext) -> list[Any]:
    async def loser() -> None:
        try:
            await ctx.call("slow")
        finally:
            await ctx.call("clean")

    won = await ctx.select(loser(), ctx.sleep(1))
    await ctx.sleep(1)
    return [won.index]


@orchestration(name="generator")
def generator(ctx: OrchestrationContext) -> Steps:
    def loser() -> Steps:
        try:
            yield ctx.schedule_activity("slow")
        finally:
            yield ctx.schedule_activity("clean")

    won = yield ctx.race(ctx.run(loser()), ctx.schedule_timer(1000))  # type: ignore[arg-type]  # futures are a superset
    yield ctx.schedule_timer(1000)
    return [won["index"]]


def in_words(world: World, code: OrchestrationDef[..., Any]) -> list[str]:
    run = world.start(code)
    world.advance(seconds=2)
    assert run.output == [1]
    run.assert_replays()
    return [type(event.kind).__name__ for event in run.history]


def test_what_a_loser_asks_for_in_the_end_is_done_in_both_styles() -> None:
    world = World(coroutine, generator)
    world.answer("slow", lambda: HOLD)
    world.answer("clean", returns=None)
    tail = 3  # before that, a coroutine that is an argument asks before what follows it
    assert in_words(world, coroutine)[tail:] == in_words(world, generator)[tail:]
    assert [name for name, _ in world.calls].count("clean") == 2


@orchestration(cancel_grace=timedelta(seconds=30))
def undone(ctx: OrchestrationContext) -> Steps:
    try:
        yield ctx.wait_for_event("never")
    except OrchestrationCancelled as cancelled:
        yield ctx.schedule_activity("undo", cancelled.reason)
        raise


def test_a_cancelled_generator_has_its_time_of_grace() -> None:
    world = World(undone)
    world.answer("undo", returns=None)
    run = world.start(undone)
    run.cancel("enough")
    assert run.error == "canceled: enough"
    assert world.calls == [("undo", "enough")]
    run.assert_replays()


@pytest.mark.parametrize("caught", [True, False])
def test_a_generator_may_catch_that_what_it_waits_for_was_given_up(caught: bool) -> None:
    @orchestration
    def code(ctx: OrchestrationContext) -> Steps:
        timer = ctx.spawn(wait(ctx))
        timer.cancel()
        if not caught:
            yield timer
        try:
            yield timer
        except Exception:
            return "as any failure"
        except Cancelled:
            yield ctx.schedule_timer(0)
            return "cancelled"

    async def wait(ctx: OrchestrationContext) -> None:
        await ctx.sleep(5)

    world = World(code)
    run = world.start(code)
    world.advance(seconds=1)
    if caught:
        assert run.output == "cancelled"
    else:
        assert run.status == "Failed"
    run.assert_replays()
