"""Code that no longer does what history says is told where, with both sides; the right code goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any

import pytest

from duroxide import (
    DeterminismViolation,
    NonDeterminismError,
    OrchestrationContext,
    orchestration,
    work,
)
from duroxide.engine.futures import DurableFuture
from duroxide.engine.run import Run
from duroxide.engine.turn import StartInfo, run_turn
from duroxide.history import (
    ActivityCompleted,
    Event,
    ExternalEvent,
    OrchestrationStarted,
    TimerFired,
)
from duroxide.registry import OrchestrationDef, define_orchestration
from duroxide.testing.replay import assert_replays

Code = Callable[[OrchestrationContext], Any]
INFO = StartInfo(
    instance_id="i", execution_id=1, name="o", version="1.0.0", input="null", seed="00"
)


@orchestration(name="o")
async def original(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("started")
    await ctx.call("reserve", {"sku": "x"})
    await ctx.sleep(minutes=5)
    ctx.call_child("ship", 1, version="1.0.0")
    await ctx.call("charge", 10)
    return "done"


def history_of(code: OrchestrationDef[..., Any]) -> list[Event]:
    """The part that is recorded after the reservation and the timer were answered."""
    run = Run.start(code, INFO, now_ms=0)
    events = list(run.apply((), 0).events)
    for source in (3, 5):
        event = events[source - 1]
        answer: work.Inbound = (
            work.ActivityCompletion(instance="i", execution_id=1, id=source, result="1")
            if source == 3
            else work.TimerDue(instance="i", execution_id=1, id=source, fire_at_ms=0)
        )
        assert event.event_id == source
        events += run.apply([answer], 1000).events
    run.park()
    return events


async def changed_activity(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("started")
    await ctx.call("reserve", {"sku": "y"})
    return "done"


async def removed_step(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("started")
    await ctx.sleep(minutes=5)
    return "done"


async def early_return(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("started")
    await ctx.call("reserve", {"sku": "x"})
    return "done"


async def changed_timer(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("started")
    await ctx.call("reserve", {"sku": "x"})
    await ctx.sleep(minutes=6)
    return "done"


async def changed_child_version(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("started")
    await ctx.call("reserve", {"sku": "x"})
    await ctx.sleep(minutes=5)
    ctx.call_child("ship", 1, version="2.0.0")
    return "done"


async def changed_status(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("begun")
    return "done"


async def less_at_the_end(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("started")
    await ctx.call("reserve", {"sku": "x"})
    await ctx.sleep(minutes=5)
    ctx.call_child("ship", 1, version="1.0.0")
    await ctx.wait_event("never")
    return "done"


async def more_at_the_end(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("started")
    await ctx.call("reserve", {"sku": "x"})
    await ctx.sleep(minutes=5)
    ctx.call_child("ship", 1, version="1.0.0")
    ctx.call("charge", 10)
    ctx.set_custom_status("charging")
    await ctx.wait_event("never")
    return "done"


@pytest.mark.parametrize(
    ("code", "recorded", "did"),
    [
        (changed_activity, 'ActivityScheduled.*input={"sku":"x"}', 'input={"sku":"y"}'),
        (removed_step, "ActivityScheduled.*'reserve'", "TimerCreated"),
        (early_return, "TimerCreated.*300000", "OrchestrationCompleted"),
        (changed_timer, "delay_ms=300000", "delay_ms=360000"),
        (changed_child_version, "version='1.0.0'", "version='2.0.0'"),
        (changed_status, "status='started'", "status='begun'"),
        (less_at_the_end, "'charge'", "ExternalSubscribed"),
        (more_at_the_end, "nothing more", "status='charging'"),
    ],
)
def test_a_change_shows_both_sides_and_the_line(code: Code, recorded: str, did: str) -> None:
    events = history_of(original)
    with pytest.raises(NonDeterminismError) as caught:
        assert_replays(events, define_orchestration(code, name="o"))
    report = str(caught.value)
    lines = report.splitlines()
    assert lines[0].startswith("execution 1, after event ")
    assert re.search(recorded, lines[1])
    assert did in lines[2]
    assert "test_nondeterminism.py:" in lines[2] or did == "OrchestrationCompleted"


def test_the_right_code_goes_on_after_the_wrong_code_was_refused() -> None:
    events = history_of(original)
    answer = work.ActivityCompletion(instance="i", execution_id=1, id=8, result="1")
    with pytest.raises(NonDeterminismError):
        run_turn(define_orchestration(changed_timer, name="o"), events, [answer], now_ms=2000)
    result = run_turn(original, events, [answer], now_ms=2000)
    assert result.output == '"done"'


def test_key_order_and_white_space_of_a_payload_do_not_matter() -> None:
    async def one(ctx: OrchestrationContext) -> None:
        await ctx.call("a", {"x": 1, "y": [1, 2]})

    async def other(ctx: OrchestrationContext) -> None:
        await ctx.call("a", raw_input='{ "y": [1, 2], "x": 1 }')

    async def different(ctx: OrchestrationContext) -> None:
        await ctx.call("a", {"x": True, "y": [1, 2]})

    events = run_turn(define_orchestration(one, name="o"), (), (), now_ms=0, start=INFO).events
    assert_replays(events, define_orchestration(other, name="o"))
    with pytest.raises(NonDeterminismError):
        assert_replays(events, define_orchestration(different, name="o"))


def test_code_that_depends_on_something_outside_is_told_so() -> None:
    calls = []

    async def moody(ctx: OrchestrationContext) -> None:
        calls.append(1)
        await ctx.call("a" if len(calls) != 2 else "b")

    code = define_orchestration(moody, name="o")
    events = run_turn(code, (), (), now_ms=0, start=INFO).events
    with pytest.raises(NonDeterminismError, match="depends on something outside its history"):
        assert_replays(events, code)


def test_a_loop_that_never_waits_is_stopped() -> None:
    async def endless(ctx: OrchestrationContext) -> None:
        done: DurableFuture[list[Any]] = ctx.gather()
        while True:
            await done

    code = define_orchestration(endless, name="o")
    run = Run(code, history_of(original)[0], steps_per_run=1000)
    with pytest.raises(DeterminismViolation, match="1000 steps"):
        run._begin()
    run.park()


def test_awaiting_a_future_of_another_execution_is_refused() -> None:
    stolen: list[Any] = []

    async def lends(ctx: OrchestrationContext) -> None:
        stolen.append(ctx.sleep(1))
        await stolen[0]

    async def borrows(ctx: OrchestrationContext) -> None:
        await stolen[0]

    run_turn(define_orchestration(lends, name="o"), (), (), now_ms=0, start=INFO)
    with pytest.raises(DeterminismViolation, match="another execution"):
        run_turn(define_orchestration(borrows, name="o"), (), (), now_ms=0, start=INFO)


STARTED = Event(
    event_id=1,
    instance_id="i",
    execution_id=1,
    timestamp_ms=0,
    kind=OrchestrationStarted(name="o", version="1.0.0", input="null", seed="00"),
)


def event(event_id: int, kind: Any) -> Event:
    return Event(event_id=event_id, instance_id="i", execution_id=1, timestamp_ms=0, kind=kind)


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ([], "empty"),
        ([event(1, TimerFired(source_event_id=2, fire_at_ms=0))], "first event must be"),
        (
            [STARTED, event(2, ActivityCompleted(source_event_id=9, result="1"))],
            "completion without open schedule",
        ),
        (
            [
                *history_of(original)[:3],
                event(5, ActivityCompleted(source_event_id=3, result="1")),
            ],
            "has the number 5",
        ),
    ],
)
def test_a_damaged_history_is_refused_and_the_damage_named(
    events: list[Event], complaint: str
) -> None:
    code = original if len(events) > 2 else define_orchestration(_idle, name="o")
    with pytest.raises(NonDeterminismError, match=complaint):
        assert_replays(events, code)


async def _idle(ctx: OrchestrationContext) -> None:
    never: DurableFuture[None] = DurableFuture(ctx.journal.executor)
    await never


async def stops_early(ctx: OrchestrationContext) -> None:
    ctx.set_custom_status("started")
    await ctx.call("reserve", {"sku": "x"})
    await _idle(ctx)


def test_code_that_waits_where_history_goes_on_is_told_where_it_waits() -> None:
    with pytest.raises(NonDeterminismError) as caught:
        assert_replays(history_of(original), define_orchestration(stops_early, name="o"))
    _, recorded, did = str(caught.value).splitlines()
    assert "TimerCreated" in recorded
    assert re.search(r"nothing more +at .*test_nondeterminism\.py:\d+", did)
    assert caught.value.event_id == 5


def generated(ctx: OrchestrationContext) -> Generator[Any, Any, None]:
    yield ctx.schedule_activity("one", "x" * 500)
    yield ctx.schedule_activity("two")


def changed(ctx: OrchestrationContext) -> Generator[Any, Any, None]:
    yield from helper(ctx)


def helper(ctx: OrchestrationContext) -> Generator[Any, Any, None]:
    yield ctx.schedule_activity("other")  # the line that the report names


def test_the_line_of_a_generator_is_that_of_its_yield() -> None:
    code = define_orchestration(generated, name="o")
    events = run_turn(code, (), (), now_ms=0, start=INFO).events
    with pytest.raises(NonDeterminismError) as caught:
        assert_replays(events, define_orchestration(changed, name="o"))
    _, recorded, did = str(caught.value).splitlines()
    assert "(502 characters)" in recorded
    line = helper.__code__.co_firstlineno + 1
    assert did.endswith(f"test_nondeterminism.py:{line}")


def test_an_event_after_the_end_is_damage() -> None:
    async def ends(ctx: OrchestrationContext) -> None:
        pass

    code = define_orchestration(ends, name="o")
    events = list(run_turn(code, (), (), now_ms=0, start=INFO).events)
    events.append(event(3, ExternalEvent(name="e", data="1")))
    with pytest.raises(NonDeterminismError, match="follows the end"):
        assert_replays(events, code)


def test_text_that_is_not_json_is_compared_as_text() -> None:
    async def raw(ctx: OrchestrationContext) -> None:
        await ctx.call("a", raw_input="not json")

    async def other(ctx: OrchestrationContext) -> None:
        await ctx.call("a", raw_input="not json either")

    code = define_orchestration(raw, name="o")
    events = run_turn(code, (), (), now_ms=0, start=INFO).events
    assert_replays(events, code)
    with pytest.raises(NonDeterminismError):
        assert_replays(events, define_orchestration(other, name="o"))


def test_a_status_that_was_cleared_is_not_one_that_was_set() -> None:
    async def clears(ctx: OrchestrationContext) -> None:
        ctx.reset_custom_status()

    async def sets(ctx: OrchestrationContext) -> None:
        ctx.set_custom_status("x")

    code = define_orchestration(clears, name="o")
    events = run_turn(code, (), (), now_ms=0, start=INFO).events
    with pytest.raises(NonDeterminismError, match="status='x'"):
        assert_replays(events, define_orchestration(sets, name="o"))


def test_a_failure_may_move_to_another_line_but_not_say_something_else() -> None:
    async def fails(ctx: OrchestrationContext) -> None:
        raise ValueError("one")

    async def fails_elsewhere(ctx: OrchestrationContext) -> None:
        message = "one"
        raise ValueError(message)

    async def fails_otherwise(ctx: OrchestrationContext) -> None:
        raise ValueError("two")

    code = define_orchestration(fails, name="o")
    events = run_turn(code, (), (), now_ms=0, start=INFO).events
    assert_replays(events, define_orchestration(fails_elsewhere, name="o"))
    with pytest.raises(NonDeterminismError, match="ValueError: two"):
        assert_replays(events, define_orchestration(fails_otherwise, name="o"))
