"""What arrives reaches the code that waits for it, once, with all that is known; and nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from duroxide import ActivityError, OrchestrationContext, SubOrchestrationError, history, work
from duroxide.engine.inbound import error_of
from duroxide.engine.result import IgnoreReason
from duroxide.engine.run import Run
from duroxide.engine.turn import StartInfo, TurnResult, run_turn
from duroxide.failures import (
    Failure,
    InfrastructureFailure,
    PoisonedActivity,
    PoisonFailure,
    activity_failure,
    cancellation,
    nondeterminism,
)
from duroxide.registry import define_orchestration
from duroxide.testing.replay import assert_replays

INFO = StartInfo(
    instance_id="i", execution_id=1, name="o", version="1.0.0", input="null", seed="00"
)
ACTIVITY = history.ActivityScheduled(name="act", input="1")
CHILD = history.SubOrchestrationScheduled(name="kid", instance="sub::2", input="1")


def turn(code: Any, *inbound: work.Inbound) -> TurnResult:
    definition = define_orchestration(code, name="o")
    result = run_turn(definition, (), inbound, now_ms=0, start=INFO)
    assert_replays(result.events, definition)
    return result


# Failures.


@pytest.mark.parametrize(
    ("details", "seen"),
    [
        (
            activity_failure("no", error_type="Broken", data='{"x":1}', retryable=False),
            ("no", "Broken", '{"x":1}', False, "application"),
        ),
        (activity_failure("no"), ("no", None, None, True, "application")),
        (cancellation("enough"), ("canceled: enough", "Cancelled", None, False, "application")),
        (
            Failure(kind=InfrastructureFailure(operation="read", message="gone", retryable=True)),
            ("infrastructure:read: gone", None, None, True, "infrastructure"),
        ),
        (
            nondeterminism("changed"),
            ("nondeterministic: changed", None, None, False, "configuration"),
        ),
        (
            Failure(
                kind=PoisonFailure(
                    attempt_count=11,
                    max_attempts=10,
                    subject=PoisonedActivity(
                        instance_id="i", execution_id=1, activity_name="act", activity_id=2
                    ),
                )
            ),
            ("poison: activity act#2 exceeded 11 attempts (max 10)", None, None, False, "poison"),
        ),
    ],
)
@pytest.mark.parametrize(
    ("schedule", "cls", "name"),
    [(ACTIVITY, ActivityError, "act"), (CHILD, SubOrchestrationError, "kid")],
)
def test_code_sees_all_that_a_failure_says(
    schedule: Any, cls: type[Any], name: str, details: Failure, seen: tuple[Any, ...]
) -> None:
    error: Any = error_of(details, schedule)
    assert type(error) is cls
    assert error.name == name
    told = (str(error), error.error_type, error.data, error.retryable, error.category)
    assert told == seen


# Results.


def test_an_exact_text_is_delivered_as_it_is() -> None:
    async def code(ctx: OrchestrationContext) -> str:
        text = await ctx.call("act", raw_input=" not json ")
        return f"<{text}>"

    answer = work.ActivityCompletion(instance="i", execution_id=1, id=2, result=' {"a": 1}')
    assert turn(code, answer).output == '"< {\\"a\\": 1}>"'


@pytest.mark.parametrize(
    "again",
    [
        work.ActivityCompletion(instance="i", execution_id=1, id=2, result="2"),
        work.ActivityFailure(
            instance="i", execution_id=1, id=2, details=activity_failure("after all")
        ),
    ],
)
def test_an_answer_that_comes_again_or_otherwise_is_not_recorded(again: work.Inbound) -> None:
    async def code(ctx: OrchestrationContext) -> None:
        await ctx.call("act")
        await ctx.wait_event("never")

    first = work.ActivityCompletion(instance="i", execution_id=1, id=2, result="1")
    result = turn(code, first, again)
    assert [i.reason for i in result.ignored] == [IgnoreReason.NOT_OPEN]
    assert sum(isinstance(e.kind, history.ActivityCompleted) for e in result.events) == 1
    assert not any(isinstance(e.kind, history.ActivityFailed) for e in result.events)


# Events and messages.


def message(data: str) -> work.Inbound:
    return work.QueueMessage(instance="i", name="n", data=data)


def event(data: str) -> work.Inbound:
    return work.ExternalRaised(instance="i", name="n", data=data)


def test_a_read_that_was_cancelled_takes_no_message() -> None:
    async def code(ctx: OrchestrationContext) -> list[int]:
        queue = ctx.queue("n", int)
        dropped, kept = queue.get(), queue.get()
        dropped.cancel()
        return [await kept, await queue.get()]

    assert turn(code, message("1"), message("2")).output == "[1,2]"


def test_a_wait_that_was_cancelled_takes_no_event() -> None:
    async def code(ctx: OrchestrationContext) -> list[int]:
        dropped, kept = ctx.wait_event("n", int), ctx.wait_event("n", int)
        dropped.cancel()
        return [await kept, await ctx.wait_event("n", int)]

    assert turn(code, event("1"), event("2")).output == "[1,2]"


@pytest.mark.parametrize(("buffered", "output"), [(False, "2"), (True, "1")])
def test_an_event_that_came_early_is_for_a_buffered_wait_only(buffered: bool, output: str) -> None:
    async def code(ctx: OrchestrationContext) -> int:
        await ctx.wait_event("go")
        return await ctx.wait_event("n", int, buffered=buffered)

    go = work.ExternalRaised(instance="i", name="go", data="null")
    definition = define_orchestration(code, name="o")
    run = Run.start(definition, INFO, now_ms=0)
    result = run.apply([event("1"), go, event("2")], 0)
    assert result.output == output
