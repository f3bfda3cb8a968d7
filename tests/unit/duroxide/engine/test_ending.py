"""Ends that user code has no part in leave nothing open and nobody waiting."""

from __future__ import annotations

from typing import Any

import pytest

from duroxide import OrchestrationContext, history, work
from duroxide.engine.ending import fail_execution, fail_unreadable, open_schedules
from duroxide.engine.run import Run
from duroxide.engine.turn import StartInfo, run_turn
from duroxide.failures import (
    Failure,
    PoisonedHistory,
    PoisonedOrchestration,
    PoisonFailure,
    nondeterminism,
)
from duroxide.registry import define_orchestration
from duroxide.state import ExecutionStatus
from duroxide.testing.replay import assert_replays

INFO = StartInfo(
    instance_id="i",
    execution_id=3,
    name="o",
    version="1.0.0",
    input="null",
    seed="00",
    parent_instance="p",
    parent_id=9,
    parent_execution_id=2,
)
POISON = Failure(
    kind=PoisonFailure(
        attempt_count=11,
        max_attempts=10,
        subject=PoisonedOrchestration(instance_id="i", execution_id=3),
    )
)


async def opens_everything(ctx: OrchestrationContext) -> None:
    ctx.queue("q").get()  # answered by the message below
    ctx.queue("q").get()
    ctx.wait_event("e")  # answered by the event below
    ctx.wait_event("e", buffered=True)
    ctx.sleep(10).cancel()
    ctx.wait_event("dropped").cancel()
    ctx.start("other", id="other")
    await ctx.gather(ctx.call("act"), ctx.sleep(5), ctx.call_child("child"))


CODE = define_orchestration(opens_everything, name="o")


def recorded() -> list[history.Event]:
    messages: list[work.Inbound] = [
        work.QueueMessage(instance="i", name="q", data="1"),
        work.QueueMessage(instance="i", name="other", data="1"),
        work.ExternalRaised(instance="i", name="e", data="1"),
    ]
    return list(run_turn(CODE, (), messages, now_ms=5, start=INFO).events)


def test_open_schedules_are_those_without_an_answer() -> None:
    events = recorded()
    run = Run.replay(CODE, events)
    expected = [(event_id, f.schedule) for event_id, f in run.journal.open.items()]
    run.park()
    assert open_schedules(events) == expected
    assert len(expected) == 5


def test_a_read_of_a_message_that_came_before_is_answered() -> None:
    async def reads_late(ctx: OrchestrationContext) -> None:
        await ctx.wait_event("go")
        await ctx.queue("q").get()
        await ctx.wait_event("early", buffered=True)
        await ctx.queue("q").get()

    code = define_orchestration(reads_late, name="o")
    messages: list[work.Inbound] = [
        work.QueueMessage(instance="i", name="q", data="1"),
        work.ExternalRaised(instance="i", name="early", data="1"),
        work.ExternalRaised(instance="i", name="go", data="1"),
    ]
    events = run_turn(code, (), messages, now_ms=5, start=INFO).events
    assert [schedule for _, schedule in open_schedules(events)] == [
        history.QueueSubscribed(name="q")
    ]


@pytest.mark.parametrize("waiting", [0, 1])
def test_what_a_loser_gave_back_answers_the_next_read(waiting: int) -> None:
    async def loses(ctx: OrchestrationContext) -> None:
        await ctx.wait_event("go")
        held = ctx.queue("q").get()
        if waiting:
            ctx.queue("q").get()
        await ctx.select(ctx.gather(), held)
        if not waiting:
            ctx.queue("q").get()
        await ctx.queue("q").get()

    code = define_orchestration(loses, name="o")
    messages: list[work.Inbound] = [
        work.QueueMessage(instance="i", name="q", data="1"),
        work.ExternalRaised(instance="i", name="go", data="1"),
    ]
    events = run_turn(code, (), messages, now_ms=5, start=INFO).events
    run = Run.replay(code, events)
    expected = [(event_id, f.schedule) for event_id, f in run.journal.open.items()]
    run.park()
    assert len(expected) == 1
    assert open_schedules(list(events)) == expected


def test_a_forced_end_gives_up_what_is_open_and_answers_the_parent() -> None:
    events = recorded()
    result = fail_execution(events, POISON, now_ms=1)
    assert result.status is ExecutionStatus.FAILED
    assert result.output == "poison: orchestration i exceeded 11 attempts (max 10)"
    assert [e.event_id for e in result.events] == list(
        range(len(events) + 1, len(events) + len(result.events) + 1)
    )
    assert {e.timestamp_ms for e in result.events} == {5}  # time does not go back
    assert isinstance(result.events[-1].kind, history.OrchestrationFailed)
    assert len(result.cancelled_activities) == len(result.cancelled_timers) == 1
    cancel, answer = result.messages
    assert isinstance(cancel, work.CancelInstance)
    assert cancel.instance.startswith("i::sub::3_")
    assert isinstance(answer, work.ChildFailed)
    assert answer.details == POISON


def test_a_history_that_was_ended_from_outside_replays_up_to_that_end() -> None:
    events = recorded()
    ended = [*events, *fail_execution(events, POISON, now_ms=9).events]
    assert assert_replays(ended, CODE) is ExecutionStatus.FAILED


def test_an_execution_that_never_began_fails_with_a_first_event() -> None:
    result = fail_execution((), nondeterminism("no such code"), now_ms=7, start=INFO)
    assert [type(e.kind).__name__ for e in result.events] == [
        "OrchestrationStarted",
        "OrchestrationFailed",
    ]
    assert result.new_execution is not None
    assert result.new_execution.parent_instance_id == "p"
    assert result.output == "nondeterministic: no such code"


def test_a_history_that_cannot_be_read_ends_where_it_stands() -> None:
    failure = Failure(
        kind=PoisonFailure(
            attempt_count=11,
            max_attempts=10,
            subject=PoisonedHistory(instance_id="i", execution_id=3, error="bad"),
        )
    )
    where: dict[str, Any] = {
        "instance_id": "i", "execution_id": 3, "next_event_id": 40, "now_ms": 7,
    }  # fmt: skip
    silent = fail_unreadable(failure, **where)
    assert [e.event_id for e in silent.events] == [40]
    assert silent.messages == ()
    answered = fail_unreadable(failure, first=recorded()[0], **where)
    assert isinstance(answered.messages[0], work.ChildFailed)


def test_an_execution_ends_only_once() -> None:
    events = recorded()
    ended = [*events, *fail_execution(events, POISON, now_ms=9).events]
    with pytest.raises(ValueError, match="ended already"):
        fail_execution(ended, POISON, now_ms=9)
    with pytest.raises(ValueError, match="history, or by what"):
        fail_execution((), POISON, now_ms=9)


def test_a_turn_after_the_end_changes_nothing_and_says_why() -> None:
    events = recorded()
    ended = [*events, *fail_execution(events, POISON, now_ms=9).events]
    late = work.ActivityCompletion(instance="i", execution_id=3, id=9, result="1")
    result = run_turn(CODE, ended, [late], now_ms=10)
    assert (result.events, result.messages) == ((), ())
    assert result.status is ExecutionStatus.FAILED
    assert [i.reason.value for i in result.ignored] == ["after the end of the execution"]


def test_a_turn_needs_a_history_or_a_beginning() -> None:
    with pytest.raises(ValueError, match="either"):
        run_turn(CODE, (), (), now_ms=0)
