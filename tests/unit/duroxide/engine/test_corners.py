"""Corners of the engine that whole orchestrations seldom reach."""

from __future__ import annotations

from typing import Any

import pytest

from duroxide import OrchestrationContext, history, work
from duroxide.engine.breadcrumbs import breadcrumb
from duroxide.engine.combinators import Mapped, settled
from duroxide.engine.executor import Executor
from duroxide.engine.futures import DurableFuture, State
from duroxide.engine.matching import is_same, same_payload
from duroxide.engine.scopes import Timeout
from duroxide.engine.turn import IgnoreReason, StartInfo, run_turn
from duroxide.errors import Cancelled
from duroxide.failures import ConfigurationFailure, Failure, InfrastructureFailure, activity_failure
from duroxide.registry import define_orchestration
from duroxide.testing.replay import assert_replays

INFO = StartInfo(
    instance_id="i", execution_id=1, name="o", version="1.0.0", input="null", seed="00"
)


def test_a_detached_start_can_not_be_given_up() -> None:
    chained = history.OrchestrationChained(name="o", instance="i", input="")
    with pytest.raises(ValueError, match="detached"):
        breadcrumb(chained, 1, "reason")


def test_a_future_settles_once_and_forgets_strangers() -> None:
    executor = Executor()
    future: DurableFuture[int] = DurableFuture(executor)
    assert not future.remove_waiter(lambda settled: None)
    heard: list[Any] = []
    future.add_waiter(heard.append)
    future.settle(State.DONE, 1)
    future.settle(State.DONE, 2)
    future.add_waiter(heard.append)
    assert future.result() == 1
    assert heard == [future, future]
    assert settled(executor, 3).result() == 3


def test_giving_up_a_mapped_future_gives_up_what_is_behind_it() -> None:
    executor = Executor()
    inner: DurableFuture[int] = DurableFuture(executor)
    mapped = Mapped(executor, inner, str)
    mapped.cancel()
    assert inner.cancelled()
    failed: DurableFuture[int] = DurableFuture(executor)
    again = Mapped(executor, failed, str)
    failed.settle(State.FAILED, ValueError("x"))
    assert isinstance(again.exception(), ValueError)


async def test_a_scope_outside_of_an_orchestration_is_refused() -> None:
    journal: Any = type("Journal", (), {"executor": Executor()})()
    with pytest.raises(RuntimeError, match="inside a running orchestration"):
        await Timeout(journal, 5).__aenter__()


async def waits(ctx: OrchestrationContext) -> None:
    await ctx.call("act")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (
            work.ActivityFailure(instance="i", execution_id=1, id=9, details=activity_failure("x")),
            IgnoreReason.NEVER_SCHEDULED,
        ),
        (
            work.ActivityFailure(instance="i", execution_id=2, id=2, details=activity_failure("x")),
            IgnoreReason.OTHER_EXECUTION,
        ),
        (
            work.ChildCompleted(
                parent_instance="i", parent_execution_id=1, parent_id=2, result="1"
            ),
            IgnoreReason.WRONG_KIND,
        ),
        (
            work.ChildFailed(
                parent_instance="i",
                parent_execution_id=1,
                parent_id=1,
                details=activity_failure("x"),
            ),
            IgnoreReason.NEVER_SCHEDULED,
        ),
        (
            work.TimerDue(instance="i", execution_id=1, id=2, fire_at_ms=0),
            IgnoreReason.WRONG_KIND,
        ),
    ],
)
def test_a_stray_completion_says_why_it_is_ignored(
    item: work.Inbound, reason: IgnoreReason
) -> None:
    code = define_orchestration(waits, name="o")
    result = run_turn(code, (), [item], now_ms=0, start=INFO)
    assert [i.reason for i in result.ignored] == [reason]
    assert len(result.events) == 2


def test_a_patch_that_an_old_history_lacks_stays_off_and_a_recorded_one_stays_on() -> None:
    async def old(ctx: OrchestrationContext) -> list[bool]:
        await ctx.call("act")
        await ctx.call("act")
        return []

    async def new(ctx: OrchestrationContext) -> list[bool]:
        first = ctx.patched("p")
        await ctx.call("act")
        again = ctx.patched("p")
        await ctx.call("act")
        return [first, again]

    def answer(event_id: int) -> work.Inbound:
        return work.ActivityCompletion(instance="i", execution_id=1, id=event_id, result="1")

    before = run_turn(define_orchestration(old, name="o"), (), (), now_ms=0, start=INFO).events
    code = define_orchestration(new, name="o")
    went_on = run_turn(code, before, [answer(2), answer(4)], now_ms=0)
    assert went_on.output == "[false,false]"
    fresh = run_turn(code, (), [answer(3), answer(5)], now_ms=0, start=INFO)
    assert fresh.output == "[true,true]"
    marks = [e for e in fresh.events if isinstance(e.kind, history.PatchMarked)]
    assert [e.event_id for e in marks] == [2]
    assert_replays(fresh.events, code)


def test_a_timer_is_never_early_for_the_code_even_if_the_clock_stepped_back() -> None:
    async def sleeps(ctx: OrchestrationContext) -> int:
        await ctx.sleep(seconds=10)
        return ctx.journal.now_ms

    code = define_orchestration(sleeps, name="o")
    due = work.TimerDue(instance="i", execution_id=1, id=2, fire_at_ms=10_000)
    events = run_turn(code, (), (), now_ms=0, start=INFO).events
    result = run_turn(code, events, [due], now_ms=5_000)
    assert result.output == "10000"
    assert result.events[0].timestamp_ms == 10_000


def test_payloads_that_are_not_json_are_compared_as_text() -> None:
    assert same_payload("plain", "plain")
    assert not same_payload("plain", "plain ")
    assert same_payload('{"a":1,"b":2}', '{"b": 2, "a": 1}')
    assert not same_payload("1", "true")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (activity_failure("x\nline 3"), activity_failure("x\nline 5"), True),
        (activity_failure("x"), activity_failure("y"), False),
        (activity_failure("x"), Failure(kind=ConfigurationFailure(message="x")), False),
        (
            Failure(kind=InfrastructureFailure(operation="commit", message="x")),
            Failure(kind=InfrastructureFailure(operation="commit", message="x", retryable=True)),
            True,
        ),
    ],
)
def test_ends_in_failure_are_the_same_if_people_read_the_same(
    one: Failure, other: Failure, same: bool
) -> None:
    did, was = (history.OrchestrationFailed(details=details) for details in (one, other))
    assert is_same(did, was) is same


def test_a_task_that_cancels_itself_ends_at_its_next_wait() -> None:
    async def cancels_itself(ctx: OrchestrationContext) -> list[str]:
        log: list[str] = []

        async def work_on() -> None:
            log.append(str(task_of[0].cancel()))
            log.append("goes on to its next wait")
            await ctx.call("act")

        async def waits_first() -> None:
            await ctx.sleep(1)
            await work_on()

        task_of = [ctx.spawn(waits_first())]
        try:
            await task_of[0]
        except Cancelled:
            log.append("cancelled")
        log.append(str(task_of[0].cancel()))
        return log

    code = define_orchestration(cancels_itself, name="o")
    due = work.TimerDue(instance="i", execution_id=1, id=2, fire_at_ms=1_000)
    begun = run_turn(code, (), (), now_ms=0, start=INFO)
    result = run_turn(code, begun.events, [due], now_ms=1_000)
    assert result.output == '["True","goes on to its next wait","cancelled","False"]'
    assert_replays((*begun.events, *result.events), code)
