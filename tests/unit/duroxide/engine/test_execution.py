"""How tasks, combinators, scopes and clean-up behave, seen through whole orchestrations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from duroxide import (
    Cancelled,
    DurableTimeout,
    OrchestrationContext,
    OrchestrationError,
    history,
    work,
)
from duroxide.engine.run import Run
from duroxide.engine.turn import StartInfo
from duroxide.registry import define_orchestration
from duroxide.testing.world import HOLD, Handle, World

Body = Callable[[OrchestrationContext], Any]


def play(
    body: Body, *, prepare: Callable[[World], None] = lambda world: None
) -> tuple[World, Handle]:
    code = define_orchestration(body, name="o")
    world = World(code)
    world.answer("ok", lambda *args: args[0] if args else None)
    world.answer("boom", raises=ValueError("bad"))
    world.answer("held", lambda *args: HOLD)
    prepare(world)
    return world, world.start(code)


def output(body: Body, seconds: float = 0) -> Any:
    world, run = play(body)
    world.advance(seconds)
    result = run.output
    run.assert_replays()
    return result


async def shields(ctx: OrchestrationContext) -> list[Any]:
    slow = ctx.sleep(5)
    won = await ctx.select(ctx.sleep(1), ctx.shield(slow))
    await slow
    return [won.index, slow.done()]


def test_a_shielded_future_survives_the_race_it_lost() -> None:
    assert output(shields, 10) == [0, True]


async def first_failure(ctx: OrchestrationContext) -> list[Any]:
    held = ctx.call("held")
    try:
        await ctx.gather(held, ctx.call("boom"), ctx.sleep(1))
    except Exception as error:
        return [str(error), held.cancelled()]
    return []


def test_the_first_failure_of_a_gather_cancels_the_rest() -> None:
    assert output(first_failure) == ["Activity 'boom' call failed: ValueError: bad", True]


async def collects(ctx: OrchestrationContext) -> list[str]:
    dropped = ctx.sleep(5)
    dropped.cancel()
    found = await ctx.gather(ctx.call("boom"), dropped, ctx.call("ok", 1), return_exceptions=True)
    return [type(f).__name__ for f in found]


def test_a_collecting_gather_holds_failures_and_cancellations() -> None:
    assert output(collects) == ["ActivityError", "Cancelled", "int"]


async def raises_of_winner(ctx: OrchestrationContext) -> str:
    try:
        await ctx.select(slow=ctx.sleep(10), bad=ctx.call("boom"))
    except Exception as error:
        return str(error)
    return ""


def test_a_select_raises_its_winners_error() -> None:
    assert "ValueError: bad" in output(raises_of_winner)


async def select_of_settled(ctx: OrchestrationContext) -> list[Any]:
    one, two = ctx.spawn(_value(1)), ctx.spawn(_value(2))
    won = await ctx.select(one, ctx.sleep(5), two)
    nothing: list[Any] = await ctx.gather()
    return [won.index, won.key, won.value, nothing]


async def _value(value: int) -> int:
    return value


def test_of_settled_ones_the_leftmost_wins() -> None:
    assert output(select_of_settled) == [0, 0, 1, []]


async def selects_nothing(ctx: OrchestrationContext) -> None:
    await ctx.select()


def test_a_select_of_nothing_is_an_error_and_not_a_hang() -> None:
    _, run = play(selects_nothing)
    assert "select needs at least one" in str(run.error)


async def cancels_a_task(ctx: OrchestrationContext) -> list[Any]:
    log: list[Any] = []

    async def worker() -> None:
        try:
            await ctx.call("held")
        finally:
            log.append(await ctx.call("ok", "cleaned up"))

    task = ctx.spawn(worker())
    log.append(task.cancel())
    try:
        await task
    except Cancelled:
        log.append("cancelled")
    log += [task.cancelled(), task.cancel(), repr(task)]
    return log


def test_a_cancelled_task_cleans_up_with_durable_work() -> None:
    assert output(cancels_a_task) == [
        True, "cleaned up", "cancelled", True, False, "<Task cancelled>",
    ]  # fmt: skip


async def awaits_its_own_cancelled(ctx: OrchestrationContext) -> None:
    timer = ctx.sleep(5)
    timer.cancel()
    await timer


def test_awaiting_what_was_cancelled_fails_with_words() -> None:
    _, run = play(awaits_its_own_cancelled)
    assert run.error == "Cancelled: the orchestration awaited what it had cancelled itself"
    run.assert_replays()


async def looks_too_early(ctx: OrchestrationContext) -> list[Any]:
    timer = ctx.sleep(1)
    try:
        timer.result()
    except RuntimeError as error:
        early = str(error)
    before = timer.exception()
    await timer
    await timer
    return [early, before, timer.done()]


def test_a_future_can_be_awaited_again_but_not_read_early() -> None:
    early, before, done = output(looks_too_early, 1)
    assert "await it" in early
    assert before is None
    assert done


async def nested_timeouts(ctx: OrchestrationContext) -> list[str]:
    log = []
    try:
        async with ctx.timeout(10):
            try:
                async with ctx.timeout(seconds=1):
                    await ctx.call("held")
            except DurableTimeout:
                log.append("inner")
            await ctx.sleep(2)
        log.append("outer in time")
    except TimeoutError:
        log.append("outer")
    return log


def test_an_inner_timeout_leaves_the_outer_one_alone() -> None:
    assert output(nested_timeouts, 20) == ["inner", "outer in time"]


async def timeout_swallowed(ctx: OrchestrationContext) -> str:
    async with ctx.timeout(1):
        try:
            await ctx.call("held")
        except Cancelled:
            return "the block ended by itself"
    return "?"


def test_a_block_that_handles_the_cancellation_is_not_a_timeout() -> None:
    assert output(timeout_swallowed, 2) == "the block ended by itself"


async def scope_collects(ctx: OrchestrationContext) -> list[int]:
    async with ctx.scope() as scope:
        tasks = [scope.spawn(_after(ctx, n)) for n in (2, 1)]
    return [t.result() for t in tasks]


async def _after(ctx: OrchestrationContext, n: int) -> int:
    await ctx.sleep(n)
    return n


def test_a_scope_waits_for_all_it_spawned() -> None:
    assert output(scope_collects, 5) == [2, 1]


async def scope_block_fails(ctx: OrchestrationContext) -> list[Any]:
    tasks = []
    try:
        async with ctx.scope() as scope:
            tasks.append(scope.spawn(_after(ctx, 1000)))
            raise OrchestrationError("block")
    except OrchestrationError as error:
        return [str(error), tasks[0].cancelled()]


def test_a_block_that_fails_takes_its_tasks_along() -> None:
    assert output(scope_block_fails) == ["block", True]


async def scope_outside(ctx: OrchestrationContext) -> str:
    try:
        ctx.scope().spawn(_value(1))
    except RuntimeError as error:
        return str(error)
    return ""


def test_spawning_outside_the_block_is_refused() -> None:
    assert "inside the block" in output(scope_outside)


async def shared_wait(ctx: OrchestrationContext) -> list[Any]:
    held = ctx.call("held")

    async def waits() -> Any:
        return await held

    first, second = ctx.spawn(waits()), ctx.spawn(waits())
    first.cancel()
    await ctx.sleep(1)
    return [first.cancelled(), second.done(), held.done()]


def test_what_another_task_awaits_too_is_not_given_up() -> None:
    assert output(shared_wait, 1) == [True, False, False]


async def uses_async_generators(ctx: OrchestrationContext) -> list[int]:
    seen = []
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for n in range(10):
                yield (await ctx.call("ok", n))
        finally:
            closed.append("closed")
            ctx.set_custom_status("closed")

    async for n in numbers():
        seen.append(n)
        if n == 2:
            break
    for _ in range(70):
        async for _n in numbers():
            break
    return seen


def test_async_generators_are_closed_in_order_at_the_end() -> None:
    _, run = play(uses_async_generators)
    assert run.output == [0, 1, 2]
    assert run.custom_status == "closed"
    run.assert_replays()


def test_parking_runs_clean_up_that_can_do_nothing() -> None:
    ran: list[str] = []

    async def stubborn(ctx: OrchestrationContext) -> None:
        async def source() -> AsyncIterator[int]:
            try:
                yield 1
                await ctx.call("held")
                yield 2
            finally:
                ran.append("generator")
                ctx.call("never")

        try:
            async for _ in source():
                pass
        finally:
            ran.append("code")
            ctx.set_custom_status("never")

    info = StartInfo(
        instance_id="i", execution_id=1, name="o", version="1.0.0", input="null", seed="00"
    )
    run = Run.start(define_orchestration(stubborn, name="o"), info, now_ms=0)
    events = run.apply((), 0).events
    run.park()
    run.park()
    assert ran == ["code"]
    assert run.apply((), 0).events == ()
    assert not any(isinstance(e.kind, history.CustomStatusUpdated) for e in events)


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, SystemExit])
def test_code_that_raises_what_is_no_exception_fails_alone(kind: type[BaseException]) -> None:
    async def raising(ctx: OrchestrationContext) -> None:
        raise kind("stop")

    _, run = play(raising)
    assert f"{kind.__name__}: stop" in str(run.error)


async def interrupted(ctx: OrchestrationContext) -> None:
    raise KeyboardInterrupt


async def interrupted_in_a_spawned_task(ctx: OrchestrationContext) -> None:
    await ctx.spawn(interrupted(ctx))


async def interrupted_in_a_scope(ctx: OrchestrationContext) -> None:
    async with ctx.scope() as scope:
        scope.spawn(interrupted(ctx))


async def interrupted_while_generators_are_closed(ctx: OrchestrationContext) -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise KeyboardInterrupt

    async for _ in numbers():
        raise ValueError("the orchestration raised KeyboardInterrupt, nobody heard")


@pytest.mark.parametrize(
    "code",
    [
        interrupted,
        interrupted_in_a_spawned_task,
        interrupted_in_a_scope,
        interrupted_while_generators_are_closed,
    ],
)
def test_an_interrupt_is_for_the_process_only_in_the_main_thread(code: Body) -> None:
    with ThreadPoolExecutor() as threads:
        _, run = threads.submit(play, code).result()
    assert "the orchestration raised KeyboardInterrupt" in str(run.error)
    with pytest.raises(KeyboardInterrupt):
        play(code)


async def wrong_payload(ctx: OrchestrationContext) -> str:
    try:
        await ctx.call("ok", "text", result=int)
    except ValueError as error:
        return str(error)
    return ""


def test_a_result_of_another_type_fails_the_await() -> None:
    assert output(wrong_payload) == "$: an integer is expected here, not a string"


async def retags(ctx: OrchestrationContext) -> list[str]:
    task = ctx.schedule_activity("ok", 1).with_tag("gpu")
    errors = []
    value = await task
    for late in (task, ctx.schedule_timer(1)):
        try:
            late.with_tag("x")
        except ValueError as error:
            errors.append(str(error))
    return [str(value), *errors]


def test_a_tag_can_be_given_until_something_is_awaited() -> None:
    _, run = play(retags)
    assert run.output[0] == "1"
    assert "sent off" in run.output[1]
    assert "only an activity" in run.output[2]
    scheduled = [e.kind for e in run.history if isinstance(e.kind, history.ActivityScheduled)]
    assert [k.tag for k in scheduled] == ["gpu"]


async def bad_ids(ctx: OrchestrationContext) -> list[str]:
    errors = []
    for attempt in (
        lambda: ctx.call_child("c", id="sub::1"),
        lambda: ctx.start("c", id="a::sub::1"),
        lambda: ctx.sleep(-1),
    ):
        try:
            attempt()
        except ValueError as error:
            errors.append(str(error))
    return errors


def test_reserved_ids_and_negative_timers_are_refused_and_leave_no_trace() -> None:
    _, run = play(bad_ids)
    child, detached, timer = run.output
    assert "starts with the reserved marker 'sub::'" in child
    assert "detached orchestration instance id 'a::sub::1'" in detached
    assert "can't be negative" in timer
    assert len(run.history) == 2


async def poisoned_activity(ctx: OrchestrationContext) -> list[Any]:
    found = []
    for name in ("poison", "infra", "config"):
        try:
            await ctx.call(name)
        except Exception as error:
            found.append([type(error).__name__, getattr(error, "category", None)])
    return found


def test_failures_of_the_system_can_be_caught_and_say_so() -> None:
    from duroxide.failures import (
        ConfigurationFailure,
        Failure,
        InfrastructureFailure,
        PoisonedActivity,
        PoisonFailure,
    )

    subject = PoisonedActivity(
        instance_id="i", execution_id=1, activity_name="poison", activity_id=2
    )
    failures = [
        Failure(kind=PoisonFailure(attempt_count=2, max_attempts=1, subject=subject)),
        Failure(kind=InfrastructureFailure(operation="commit", message="lost", retryable=True)),
        Failure(kind=ConfigurationFailure(message="changed")),
    ]
    info = StartInfo(
        instance_id="i", execution_id=1, name="o", version="1.0.0", input="null", seed="00"
    )
    run = Run.start(define_orchestration(poisoned_activity, name="o"), info, now_ms=0)
    result = run.apply((), 0)
    for failure in failures:
        event_id = result.events[-1].event_id
        answer = work.ActivityFailure(instance="i", execution_id=1, id=event_id, details=failure)
        result = run.apply([answer], 0)
    assert result.output == (
        '[["ActivityError","poison"],["ActivityError","infrastructure"],'
        '["ActivityError","configuration"]]'
    )


async def projects(ctx: OrchestrationContext) -> str:
    ctx.project("one")
    await ctx.call("ok")
    ctx.project("two")
    return "done"


def test_projections_are_given_once_and_by_the_turn_that_made_them() -> None:
    world, run = play(projects)
    assert run.output == "done"
    assert world.stage.instance("instance-1").projections == ["one", "two"]


async def continues_in_a_task(ctx: OrchestrationContext, n: int = 0) -> int:
    async def again() -> None:
        await ctx.sleep(1)
        ctx.continue_as_new(n + 1)

    if n < 2:
        ctx.call("held")
        await ctx.gather(again(), ctx.sleep(50))
    return n


def test_a_task_may_continue_the_whole_execution_as_new() -> None:
    world, run = play(continues_in_a_task)
    world.advance(5)
    assert run.output == 2
    assert len(run.executions) == 3
    assert world.held == []
    run.assert_replays()
