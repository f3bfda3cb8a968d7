"""What no store can keep is refused to the code that asks for it, or shown without what can't be kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duroxide import Limits, OrchestrationContext, work
from duroxide.codec import encode_event
from duroxide.engine.result import StartInfo, TurnResult
from duroxide.engine.turn import run_turn
from duroxide.history import TimerCreated
from duroxide.registry import define_orchestration
from duroxide.state import ExecutionStatus
from duroxide.storable import flaw_of, readable
from duroxide.testing.replay import assert_replays

ANY_TEXT = st.text(st.characters(exclude_categories=()))
BAD = ("a\0b", "a\ud800b")


def turn(body: Callable[[OrchestrationContext], Any], *inbound: work.Inbound) -> TurnResult:
    async def code(ctx: OrchestrationContext, value: Any = None) -> Any:
        result = body(ctx)
        return await result if hasattr(result, "__await__") else result

    definition = define_orchestration(code, name="o")
    info = StartInfo(
        instance_id="i",
        execution_id=1,
        name="o",
        version="1.0.0",
        input="null",
        seed="00",
        limits=Limits(),
    )
    result = run_turn(definition, (), inbound, now_ms=1_000, start=info)
    assert_replays(result.events, definition)
    return result


@given(ANY_TEXT)
def test_what_has_no_flaw_can_be_written_and_is_shown_as_it_is(text: str) -> None:
    is_fine = "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
    assert (flaw_of(text) is None) is is_fine
    assert flaw_of(readable(text)) is None
    assert len(readable(text)) == len(text)
    assert (readable(text) == text) is is_fine


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("asks", "what"),
    [
        (lambda ctx, bad: ctx.call("a", session=bad), "Session id"),
        (lambda ctx, bad: ctx.call("a", tag=bad), "Tag of activity 'a'"),
        (lambda ctx, bad: ctx.call_child(bad), "Orchestration name"),
        (lambda ctx, bad: ctx.call_child("c", version=bad), "Orchestration version"),
        (lambda ctx, bad: ctx.call_child("c", id=bad), "Instance id"),
        (lambda ctx, bad: ctx.start("c", id=bad), "Instance id"),
        (lambda ctx, bad: ctx.set_custom_status(bad), "Custom status"),
        (lambda ctx, bad: ctx.set_kv_value(bad, "v"), "KV key"),
        (lambda ctx, bad: ctx.set_kv_value("k", bad), "KV value for key 'k'"),
        (lambda ctx, bad: ctx.clear_kv_value(bad), "KV key"),
        (lambda ctx, bad: ctx.continue_as_new(1, version=bad), "Orchestration version"),
    ],
)
def test_a_text_that_goes_into_a_column_is_refused_at_the_call(
    asks: Callable[[OrchestrationContext, str], Any], what: str, bad: str
) -> None:
    caught: set[str] = set()

    def careful(ctx: OrchestrationContext) -> str:
        with pytest.raises(ValueError) as refused:
            asks(ctx, bad)
        caught.add(str(refused.value))
        return "went on"

    result = turn(careful)
    assert result.output == '"went on"'
    assert len(result.events) == 2
    [words] = caught
    assert words.startswith(f"{what} contains a ")
    assert words.endswith("no store can keep it")


@pytest.mark.parametrize(
    ("asks", "words"),
    [
        (lambda ctx: ctx.queue(None).get(), "Queue name is None"),
        (lambda ctx: ctx.dequeue_event(5), "Queue name is 5"),
        (lambda ctx: ctx.wait_event(None), "Event name is None"),
        (lambda ctx: ctx.schedule_activity(None), "Activity name is None"),
        (lambda ctx: ctx.call("a", session=5), "Session id is 5"),
        (lambda ctx: ctx.call("a", tag=5), "Tag of activity 'a' is 5"),
        (lambda ctx: ctx.schedule_sub_orchestration(None), "Orchestration name is None"),
        (lambda ctx: ctx.call_child("c", id=5), "Instance id is 5"),
        (lambda ctx: ctx.call_child("c", version=2), "Orchestration version is 2"),
        (lambda ctx: ctx.start("c", id=None), "Instance id is None"),
        (lambda ctx: ctx.clear_kv_value(None), "KV key is None"),
        (lambda ctx: ctx.patched(None), "Patch id is None"),
        (lambda ctx: ctx.continue_as_new(1, version=2), "Orchestration version is 2"),
    ],
)
def test_a_name_that_is_no_text_is_refused_before_it_is_in_a_history(
    asks: Callable[[Any], Any], words: str
) -> None:
    caught: set[str] = set()  # a replay refuses it as well

    def careful(ctx: OrchestrationContext) -> str:
        with pytest.raises(TypeError) as refused:
            asks(ctx)
        caught.add(str(refused.value))
        return "went on"

    result = turn(careful)
    assert result.output == '"went on"'
    assert len(result.events) == 2
    assert caught == {f"{words}: it has to be a str"}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("ends", ["raises", "is cancelled", "continues as new"])
def test_a_failure_with_such_a_text_ends_the_instance_all_the_same(bad: str, ends: str) -> None:
    def body(ctx: OrchestrationContext) -> Any:
        match ends:
            case "raises":
                raise ValueError(bad)
            case "continues as new":
                return ctx.continue_as_new(bad)
            case _:
                return ctx.wait_event("never")

    inbound = [work.CancelInstance(instance="i", reason=bad)] if ends == "is cancelled" else []
    result = turn(body, *inbound)
    assert result.status is not ExecutionStatus.RUNNING
    assert result.output is not None
    assert flaw_of(result.output) is None
    assert "\\u" in encode_event(result.events[-1])  # the event has the exact text, escaped


@pytest.mark.parametrize("bad", BAD)
def test_an_output_that_no_store_can_keep_fails_the_orchestration(bad: str) -> None:
    class Raw:
        def encode(self, value: Any, annotation: Any = None) -> str:
            return str(value)

        def decode(self, text: str, annotation: Any = None) -> Any:
            return text

    async def code(ctx: OrchestrationContext, value: Any = None) -> str:
        return bad

    definition = define_orchestration(code, name="o", codec=Raw())
    info = StartInfo(
        instance_id="i",
        execution_id=1,
        name="o",
        version="1.0.0",
        input="null",
        seed="00",
        limits=Limits(),
    )
    result = run_turn(definition, (), (), now_ms=0, start=info)
    assert result.status is ExecutionStatus.FAILED
    assert "Output contains a " in str(result.output)


@pytest.mark.parametrize(
    "asks", [lambda ctx: ctx.call_child("c", id=""), lambda ctx: ctx.start("c", id="")]
)
def test_an_empty_id_is_refused(asks: Callable[[OrchestrationContext], Any]) -> None:
    assert "Instance id is empty" in str(turn(asks).output)


def test_an_empty_tag_is_refused() -> None:
    assert "has an empty tag" in str(turn(lambda ctx: ctx.call("a", tag="")).output)


@given(st.floats(min_value=0, max_value=1e13))
def test_a_timer_of_part_of_a_millisecond_is_rounded(delay: float) -> None:
    result = turn(lambda ctx: ctx.journal.timer(delay))
    kind = result.events[1].kind
    assert isinstance(kind, TimerCreated)
    assert (kind.fire_at_ms, kind.delay_ms) == (1_000 + round(delay), round(delay))
    assert isinstance(kind.fire_at_ms, int)


@pytest.mark.parametrize("delay", [math.inf, math.nan, 10**18, 2**63, 10**30, 1e300, -1, -1.0])
def test_a_timer_that_no_store_can_keep_is_refused(delay: float) -> None:
    result = turn(lambda ctx: ctx.journal.timer(delay))
    assert str(result.output).startswith("ValueError: a timer of ")


@pytest.mark.parametrize("delay", ["x", None, [1]])
def test_a_timer_of_something_else_is_refused(delay: Any) -> None:
    assert str(turn(lambda ctx: ctx.journal.timer(delay)).output).startswith(
        "TypeError: a timer of "
    )
