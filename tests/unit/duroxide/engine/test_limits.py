"""A limit is refused to the code that asked, nothing is recorded for it, and a replay refuses it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from duroxide import LimitExceeded, Limits, OrchestrationContext, work
from duroxide.engine.run import Run
from duroxide.engine.sizes import event_bytes
from duroxide.engine.turn import StartInfo, TurnResult, run_turn
from duroxide.history import (
    ActivityScheduled,
    Breadcrumb,
    OrchestrationFailed,
    OrchestrationStarted,
    Terminal,
)
from duroxide.registry import define_orchestration
from duroxide.state import ExecutionStatus
from duroxide.testing.replay import assert_replays

LIMITS = Limits(
    payload_bytes=100,
    name_bytes=20,
    history_events=10,
    history_bytes=5_000,
    custom_status_bytes=10,
    tag_bytes=5,
    kv_value_bytes=10,
    kv_keys=2,
    carry_forward_events=1,
)


def turn(body: Callable[[OrchestrationContext], Any], *inbound: work.Inbound) -> TurnResult:
    async def code(ctx: OrchestrationContext, value: Any = None) -> Any:
        return body(ctx)

    definition = define_orchestration(code, name="o")
    info = StartInfo(
        instance_id="i",
        execution_id=1,
        name="o",
        version="1.0.0",
        input="null",
        seed="00",
        limits=LIMITS,
        parent_instance="p",
        parent_id=7,
        parent_execution_id=2,
    )
    result = run_turn(definition, (), inbound, now_ms=0, start=info)
    assert_replays(result.events, definition)
    return result


def keys(ctx: OrchestrationContext) -> None:
    for key in ("a", "b", "c"):
        ctx.set_kv_value(key, "1")


def status_updates(ctx: OrchestrationContext) -> None:
    for _ in range(20):
        ctx.set_custom_status("x")


@pytest.mark.parametrize(
    ("asks", "what"),
    [
        (lambda ctx: ctx.call("a", "x" * 200), "Input of activity 'a'"),
        (lambda ctx: ctx.call("a" * 30), "Activity name"),
        (lambda ctx: ctx.call("a", tag="long tag"), "Activity 'a' tag size"),
        (lambda ctx: ctx.call("a", session="s" * 30), "Session id"),
        (lambda ctx: ctx.wait_event("e" * 30), "Event name"),
        (lambda ctx: ctx.queue("q" * 30).get(), "Queue name"),
        (lambda ctx: ctx.call_child("c", "x" * 200), "Input of sub-orchestration 'c'"),
        (lambda ctx: ctx.call_child("c", id="i" * 30), "Instance id"),
        (lambda ctx: ctx.start("c", "x" * 200, id="d"), "Input of orchestration 'c'"),
        (lambda ctx: ctx.set_custom_status("12345678901"), "Custom status size"),
        (lambda ctx: ctx.set_kv_value("k", "12345678901"), "KV value for key 'k'"),
        (lambda ctx: ctx.set_kv_value("k" * 30, "1"), "KV key"),
        (keys, "KV key count"),
        (status_updates, "History"),
        (lambda ctx: "x" * 200, "Output"),
        (lambda ctx: ctx.continue_as_new("x" * 200), "Input of the next execution"),
    ],
)
def test_each_limit_is_refused_with_its_name_and_the_parent_is_answered(
    asks: Callable[[OrchestrationContext], Any], what: str
) -> None:
    result = turn(asks)
    last = result.events[-1].kind
    assert isinstance(last, OrchestrationFailed)
    assert str(last.details).startswith(f"LimitExceeded: {what}")
    [answer] = result.messages
    assert isinstance(answer, work.ChildFailed)
    assert (answer.parent_instance, answer.parent_execution_id, answer.parent_id) == ("p", 2, 7)


LONG = "n" * 21


@pytest.mark.parametrize(
    ("asks", "text"),
    [
        (lambda ctx: ctx.call(LONG), "Activity name (21 bytes) exceeds limit (20 bytes)"),
        (
            lambda ctx: ctx.call_child(LONG),
            "Orchestration name (21 bytes) exceeds limit (20 bytes)",
        ),
        (
            lambda ctx: ctx.start(LONG, id="d"),
            "Orchestration name (21 bytes) exceeds limit (20 bytes)",
        ),
        (lambda ctx: ctx.start("c", id=LONG), "Instance id (21 bytes) exceeds limit (20 bytes)"),
        (lambda ctx: ctx.clear_kv_value(LONG), "KV key (21 bytes) exceeds limit (20 bytes)"),
        (lambda ctx: ctx.patched(LONG), "Patch id (21 bytes) exceeds limit (20 bytes)"),
        (lambda ctx: ctx.set_kv_value(LONG, ""), "KV key (21 bytes) exceeds limit (20 bytes)"),
        (keys, "KV key count (3) exceeds limit (2)"),
        (status_updates, "History (11 events) exceeds limit (10 events)"),
    ],
)
def test_a_refusal_says_how_much_was_asked_and_how_much_is_allowed(
    asks: Callable[[OrchestrationContext], Any], text: str
) -> None:
    refused: list[str] = []

    def careful(ctx: OrchestrationContext) -> None:
        try:
            asks(ctx)
        except LimitExceeded as error:
            refused.append(str(error))

    turn(careful)
    assert set(refused) == {text}


@pytest.mark.parametrize(
    "asks",
    [
        lambda ctx: ctx.call(LONG[1:], tag="12345", session=LONG[1:]),
        lambda ctx: ctx.start(LONG[1:], id=LONG[1:]),
        lambda ctx: ctx.set_kv_value(LONG[1:], "1234567890"),
        lambda ctx: ctx.clear_kv_value(LONG[1:]),
        lambda ctx: ctx.patched(LONG[1:]),
        lambda ctx: ctx.set_custom_status("1234567890"),
        lambda ctx: [ctx.set_kv_value(key, "1") for key in ("a", "b", "a")],
    ],
)
def test_what_is_just_allowed_is_not_refused(asks: Callable[[OrchestrationContext], Any]) -> None:
    def just(ctx: OrchestrationContext) -> str:
        asks(ctx)
        return "allowed"

    assert turn(just).output == '"allowed"'


def test_code_may_catch_a_refusal_and_go_on() -> None:
    refused: list[tuple[int, int]] = []

    def careful(ctx: OrchestrationContext) -> str:
        try:
            ctx.set_custom_status("12345678901")
        except LimitExceeded as error:
            refused.append((error.actual, error.limit))
        ctx.set_custom_status("short")
        return ctx.get_custom_status() or ""

    result = turn(careful)
    assert result.output == '"short"'
    assert len(result.events) == 3
    assert set(refused) == {(11, 10)}


def test_the_limit_itself_is_allowed_and_counts_bytes() -> None:
    assert turn(lambda ctx: ctx.set_custom_status("é" * 5)).output == "null"
    assert "exceeds limit" in str(turn(lambda ctx: ctx.set_custom_status("é" * 6)).output)


def test_history_bytes_add_up() -> None:
    def heavy(ctx: OrchestrationContext) -> None:
        for _ in range(8):
            ctx.call("a", "x" * 90)

    small = Limits(history_bytes=1_500)

    async def code(ctx: OrchestrationContext) -> None:
        heavy(ctx)

    info = StartInfo(
        instance_id="i", execution_id=1, name="o", version="1.0.0", input="", seed="", limits=small
    )
    result = run_turn(define_orchestration(code), (), (), now_ms=0, start=info)
    assert "History size" in str(result.output)


def test_the_limits_in_force_are_pinned_in_the_first_event() -> None:
    result = turn(lambda ctx: None)
    started = result.events[0].kind
    assert isinstance(started, OrchestrationStarted)
    assert Limits.from_mapping(started.limits) == LIMITS


def test_the_defaults_that_the_engine_mark_stands_for_do_not_change() -> None:
    assert Limits().to_mapping() == {
        "payload_bytes": 3_145_728,
        "name_bytes": 65_536,
        "history_bytes": 52_428_800,
        "history_events": 50_000,
        "custom_status_bytes": 262_144,
        "tag_bytes": 256,
        "kv_value_bytes": 65_536,
        "kv_keys": 150,
        "carry_forward_events": 100_000,
    }


@pytest.mark.parametrize(
    ("unread", "text"),
    [(1, ""), (2, "Unread queue messages (2 messages) exceeds limit (1 messages)")],
)
def test_more_unread_messages_than_may_be_carried_are_refused(unread: int, text: str) -> None:
    async def code(ctx: OrchestrationContext) -> Any:
        await ctx.wait_event("go")
        ctx.continue_as_new()

    definition = define_orchestration(code, name="o")
    info = StartInfo(
        instance_id="i", execution_id=1, name="o", version="1.0.0", input="", seed="", limits=LIMITS
    )
    run = Run.start(definition, info, now_ms=0)
    messages = [work.QueueMessage(instance="i", name="q", data="1") for _ in range(unread)]
    result = run.apply([*messages, work.ExternalRaised(instance="i", name="go", data="1")], 0)
    assert text in str(result.output)
    assert (result.status is ExecutionStatus.CONTINUED_AS_NEW) == (not text)


def test_a_cancel_is_never_refused_however_long_the_history() -> None:
    async def cleans_up(ctx: OrchestrationContext) -> None:
        waiting = ctx.wait_event("never")
        while ctx.history_length < LIMITS.history_events - 1:
            ctx.set_custom_status("x")
        try:
            await waiting
        finally:
            cleaned.append(ctx.history_length)

    cleaned: list[int] = []
    definition = define_orchestration(cleans_up, name="o", cancel_grace_ms=1000)
    info = StartInfo(
        instance_id="i",
        execution_id=1,
        name="o",
        version="1.0.0",
        input="null",
        seed="00",
        limits=LIMITS,
    )
    cancel = work.CancelInstance(instance="i", reason="enough")
    result = run_turn(definition, (), [cancel], now_ms=0, start=info)
    last = result.events[-1].kind
    assert isinstance(last, OrchestrationFailed)
    assert str(last.details) == "canceled: enough"
    assert cleaned[0] > LIMITS.history_events
    assert_replays(result.events, definition)


@pytest.mark.parametrize(("beyond", "told"), [(0, ""), (1, "History size (5001 bytes)")])
def test_a_history_may_be_as_large_as_its_limit_and_not_a_byte_more(beyond: int, told: str) -> None:
    async def fills(ctx: OrchestrationContext) -> str:
        ctx.set_custom_status("counted too")
        empty = event_bytes(ActivityScheduled(name="a", input=""))
        left = limits.history_bytes - ctx.history_size_bytes - empty
        try:
            ctx.call("a", raw_input="x" * (left + beyond))
        except LimitExceeded as error:
            return str(error)
        assert ctx.history_size_bytes == limits.history_bytes
        return ""

    limits = Limits(history_bytes=5_000)
    info = StartInfo(
        instance_id="i",
        execution_id=1,
        name="o",
        version="1.0.0",
        input="null",
        seed="00",
        limits=limits,
    )
    result = run_turn(define_orchestration(fills, name="o"), (), (), now_ms=0, start=info)
    expected = f"{told} exceeds limit (5000 bytes)" if told else ""
    assert result.output == f'"{expected}"'
    asked = [e.kind for e in result.events if not isinstance(e.kind, Breadcrumb | Terminal)]
    assert (sum(map(event_bytes, asked)) == limits.history_bytes) == (not told)


@pytest.mark.parametrize(
    ("asks", "what"),
    [
        (lambda ctx, text: ctx.call("a", raw_input=text), "Input of activity 'a'"),
        (lambda ctx, text: ctx.call_child("c", text[2:]), "Input of sub-orchestration 'c'"),
        (lambda ctx, text: ctx.start("c", text[2:], id="d"), "Input of orchestration 'c'"),
    ],
)
@pytest.mark.parametrize("size", [100, 101])
def test_a_payload_may_be_as_large_as_its_limit(
    asks: Callable[[OrchestrationContext, str], Any], what: str, size: int
) -> None:
    def code(ctx: OrchestrationContext) -> str:
        try:
            asks(ctx, "x" * size)
        except LimitExceeded as error:
            return str(error)
        return ""

    expected = "" if size == 100 else f"{what} (101 bytes) exceeds limit (100 bytes)"
    assert turn(code).output == f'"{expected}"'
