"""Blocks that own tasks or end in time: whose error comes out, and that nothing of it stays behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from duroxide import DurableTimeout, OrchestrationContext, orchestration
from duroxide.engine.run import Run
from duroxide.engine.turn import StartInfo, run_turn
from duroxide.registry import define_orchestration
from duroxide.testing.replay import assert_replays
from duroxide.testing.world import World


def play(code: Callable[..., Any], seconds: float = 10) -> Any:
    definition = define_orchestration(code, name="o")
    world = World(definition)
    run = world.start(definition)
    world.advance(seconds=seconds)
    assert world.stage.next_timer_ms() is None
    run.assert_replays()
    return run.output


async def fails_after(ctx: OrchestrationContext, seconds: float) -> None:
    if seconds:
        await ctx.sleep(seconds)
    raise ValueError(f"after {seconds}")


def test_a_task_that_fails_when_the_block_has_ended_is_what_the_scope_raises() -> None:
    async def code(ctx: OrchestrationContext) -> str:
        try:
            async with ctx.scope() as scope:
                scope.spawn(fails_after(ctx, 1))
                slow = scope.spawn(fails_after(ctx, 5))
        except ValueError as error:
            await ctx.sleep(1)
            return f"{error}, {slow.cancelled()}"
        return "nothing"

    assert play(code) == "after 1, True"


def test_a_scope_owns_what_is_on_its_way_and_not_only_coroutines() -> None:
    async def code(ctx: OrchestrationContext) -> list[Any]:
        async with ctx.scope() as scope:
            timer = scope.spawn(ctx.sleep(1))
            both = scope.spawn(ctx.gather(ctx.sleep(2), ctx.sleep(3)))
            later = scope.spawn(ctx.schedule_timer(4000))
        done = [timer.done(), both.done(), later.done()]
        try:
            async with ctx.scope() as scope:
                event = scope.spawn(ctx.wait_event("never"))
                raise ValueError("block")
        except ValueError:
            return [*done, event.cancelled()]

    assert play(code) == [True, True, True, True]


def test_a_loser_is_interrupted_once_and_may_ask_for_more_in_the_end() -> None:
    async def code(ctx: OrchestrationContext) -> list[Any]:
        seen: list[Any] = []

        async def loser() -> None:
            try:
                await ctx.wait_event("never")
            finally:
                await ctx.sleep(1)
                seen.append("cleaned")

        won = await ctx.select(loser(), ctx.sleep(1))
        await ctx.sleep(3)
        return [won.index, *seen]

    assert play(code) == [1, "cleaned"]


def test_a_task_that_fails_at_once_interrupts_the_block_at_its_next_wait_only() -> None:
    async def code(ctx: OrchestrationContext) -> list[str]:
        seen = []
        try:
            async with ctx.scope() as scope:
                scope.spawn(fails_after(ctx, 0))
                seen.append("the block goes on to its end")
        except ValueError as error:
            seen.append(str(error))
        await ctx.sleep(1)
        seen.append("and what comes after it is not interrupted")
        return seen

    assert play(code) == [
        "the block goes on to its end",
        "after 0",
        "and what comes after it is not interrupted",
    ]


def test_the_error_of_the_block_counts_more_than_those_of_its_tasks() -> None:
    async def code(ctx: OrchestrationContext) -> str:
        async def fails_when_cancelled() -> None:
            try:
                await ctx.wait_event("never")
            finally:
                raise ValueError("of the task")

        try:
            async with ctx.scope() as scope:
                scope.spawn(fails_when_cancelled())
                await ctx.sleep(1)
                raise KeyError("of the block")
        except KeyError as error:
            return str(error)

    assert play(code) == "'of the block'"


def test_the_first_of_several_failures_is_the_one() -> None:
    async def code(ctx: OrchestrationContext) -> str:
        try:
            async with ctx.scope() as scope:
                scope.spawn(fails_after(ctx, 2))
                scope.spawn(fails_after(ctx, 1))
                await ctx.sleep(5)
        except ValueError as error:
            return str(error)
        return "nothing"

    assert play(code) == "after 1"


def test_a_timeout_says_its_length_and_kind_and_leaves_no_timer() -> None:
    async def code(ctx: OrchestrationContext) -> list[Any]:
        async with ctx.timeout(5):
            await ctx.sleep(1)
        try:
            async with ctx.timeout(2):
                await ctx.sleep(60)
        except DurableTimeout as error:
            return [str(error), error.error_type, isinstance(error, TimeoutError)]
        return []

    assert play(code) == ["timeout: not done within 2000 ms", "DurableTimeout", True]


def test_an_inner_timeout_that_is_over_does_not_disturb_the_outer_one() -> None:
    async def code(ctx: OrchestrationContext) -> list[str]:
        seen = []
        try:
            async with ctx.timeout(3):
                try:
                    async with ctx.timeout(1):
                        await ctx.sleep(60)
                except DurableTimeout:
                    seen.append("inner")
                await ctx.sleep(60)
        except DurableTimeout:
            seen.append("outer")
        return seen

    assert play(code) == ["inner", "outer"]


@pytest.mark.parametrize("block", ["scope", "timeout"])
def test_a_block_outside_of_any_task_is_refused(block: str) -> None:
    leaked: list[OrchestrationContext] = []

    @orchestration(name="o")
    async def leaks(ctx: OrchestrationContext) -> None:
        leaked.append(ctx)
        await ctx.wait_event("never")

    info = StartInfo(
        instance_id="i", execution_id=1, name="o", version="1.0.0", input="null", seed="00"
    )
    run = Run.start(leaks, info, now_ms=0)
    made: Any = leaked[0].scope() if block == "scope" else leaked[0].timeout(1)
    with pytest.raises(RuntimeError, match="only inside a running orchestration"):
        made.__aenter__().send(None)
    run.park()


def test_a_patch_right_after_the_end_of_an_old_history_stays_off_in_replay() -> None:
    async def old(ctx: OrchestrationContext) -> None:
        await ctx.call("a")

    async def new(ctx: OrchestrationContext) -> bool:
        called = ctx.call("a")
        is_new = ctx.patched("p")
        await called
        return is_new

    info = StartInfo(
        instance_id="i", execution_id=1, name="o", version="1.0.0", input="null", seed="00"
    )
    events = run_turn(define_orchestration(old, name="o"), (), (), now_ms=0, start=info).events
    assert_replays(events, define_orchestration(new, name="o"))
