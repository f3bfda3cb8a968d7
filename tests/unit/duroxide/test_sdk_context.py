"""The official SDK's methods: exact descriptors, exact result shapes, in both styles."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from duroxide import OrchestrationContext, parse_result
from duroxide.registry import define_orchestration
from duroxide.testing.world import HOLD, Handle, World

CTX = OrchestrationContext(
    {
        "instanceId": "i",
        "executionId": 2,
        "orchestrationName": "o",
        "orchestrationVersion": "1.2.3",
    }
)
RETRY = {"max_attempts": 2}
WRITTEN = {"maxAttempts": 2, "timeoutMs": None, "totalTimeoutMs": None, "backoff": None}


@pytest.mark.parametrize(
    ("descriptor", "expected"),
    [
        (
            CTX.schedule_activity("a", {"x": 1}),
            {"type": "activity", "name": "a", "input": '{"x": 1}'},
        ),
        (
            CTX.schedule_activity("a", "s", "id"),
            {"type": "activityWithSession", "name": "a", "input": '"s"', "sessionId": "id"},
        ),
        (
            CTX.schedule_activity_typed("a", "raw"),
            {"type": "activity", "name": "a", "input": "raw", "_typed": True},
        ),
        (
            CTX.schedule_activity_on_session("a", 1, "id"),
            {"type": "activityWithSession", "name": "a", "input": "1", "sessionId": "id"},
        ),
        (
            CTX.schedule_activity_on_session_typed("a", "r", "id"),
            {
                "type": "activityWithSession",
                "name": "a",
                "input": "r",
                "sessionId": "id",
                "_typed": True,
            },
        ),
        (
            CTX.schedule_activity_with_retry("a", 1, RETRY),
            {"type": "activityWithRetry", "name": "a", "input": "1", "retry": WRITTEN},
        ),
        (
            CTX.schedule_activity_with_retry_typed("a", "r", RETRY),
            {
                "type": "activityWithRetry",
                "name": "a",
                "input": "r",
                "retry": WRITTEN,
                "_typed": True,
            },
        ),
        (
            CTX.schedule_activity_with_retry_on_session("a", 1, RETRY, "id"),
            {
                "type": "activityWithRetryOnSession",
                "name": "a",
                "input": "1",
                "retry": WRITTEN,
                "sessionId": "id",
            },
        ),
        (CTX.schedule_timer(5), {"type": "timer", "delayMs": 5}),
        (CTX.wait_for_event("e"), {"type": "waitEvent", "name": "e"}),
        (CTX.dequeue_event("q"), {"type": "dequeueEvent", "queueName": "q"}),
        (
            CTX.schedule_sub_orchestration("c", 1),
            {"type": "subOrchestration", "name": "c", "input": "1"},
        ),
        (
            CTX.schedule_sub_orchestration_typed("c", "r"),
            {"type": "subOrchestration", "name": "c", "input": "r", "_typed": True},
        ),
        (
            CTX.schedule_sub_orchestration_with_id("c", "id", 1),
            {"type": "subOrchestrationWithId", "name": "c", "instanceId": "id", "input": "1"},
        ),
        (
            CTX.schedule_sub_orchestration_versioned("c", "1.0.0", 1),
            {"type": "subOrchestrationVersioned", "name": "c", "version": "1.0.0", "input": "1"},
        ),
        (
            CTX.schedule_sub_orchestration_versioned_with_id("c", None, "id"),
            {
                "type": "subOrchestrationVersionedWithId",
                "name": "c",
                "version": None,
                "instanceId": "id",
                "input": "null",
            },
        ),
        (
            CTX.start_orchestration("c", "id", 1),
            {"type": "orchestration", "name": "c", "instanceId": "id", "input": "1"},
        ),
        (
            CTX.start_orchestration_versioned_typed("c", "1.0.0", "id", "r"),
            {
                "type": "orchestrationVersioned",
                "name": "c",
                "version": "1.0.0",
                "instanceId": "id",
                "input": "r",
            },
        ),
        (CTX.new_guid(), {"type": "newGuid"}),
        (CTX.utc_now(), {"type": "utcNow"}),
        (CTX.continue_as_new_typed("r"), {"type": "continueAsNew", "input": "r"}),
        (
            CTX.continue_as_new_versioned(1, "2.0.0"),
            {"type": "continueAsNewVersioned", "input": "1", "version": "2.0.0"},
        ),
        (CTX.all([{"type": "newGuid"}]), {"type": "join", "tasks": [{"type": "newGuid"}]}),
        (CTX.race({"a": 1}, {"b": 2}), {"type": "select", "tasks": [{"a": 1}, {"b": 2}]}),
    ],
)
def test_a_descriptor_is_the_dict_that_the_sdk_makes(
    descriptor: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert isinstance(descriptor, dict)
    assert descriptor == expected


def test_a_tag_is_set_on_the_same_object() -> None:
    task = CTX.schedule_activity("a")
    assert task.with_tag("gpu") is task
    assert task["tag"] == "gpu"


def test_a_context_made_by_hand_answers_and_does_nothing() -> None:
    CTX.set_custom_status("x")
    CTX.reset_custom_status()
    CTX.set_kv_value("a", 1)
    CTX.clear_kv_value("a")
    CTX.clear_all_kv_values()
    CTX.trace_info("silent")
    assert CTX.get_custom_status() is None
    assert CTX.get_kv_value("a") is None
    assert (CTX.get_kv_all_values(), CTX.get_kv_all_keys(), CTX.get_kv_length()) == ({}, [], 0)
    assert CTX.prune_kv_values_updated_before(1) == 0
    assert (CTX.instance_id, CTX.execution_id, CTX.orchestration_version) == ("i", 2, "1.2.3")


Code = Callable[..., Any]


def play(code: Code, value: Any = None, *others: Any) -> tuple[World, Handle]:
    definition = define_orchestration(code, name="o")
    world = World(definition, *others)
    world.answer("ok", lambda x=None: x)
    world.answer("boom", raises=ValueError("bad"))
    world.answer("held", lambda x=None: HOLD)
    return world, world.start(definition, value)


def child(ctx: OrchestrationContext, n: int) -> Generator[Any, Any, int]:
    yield ctx.schedule_timer(0)
    return n * 2


CHILD = define_orchestration(child)


def everything(ctx: OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
    log: list[Any] = []
    log.append((yield ctx.schedule_activity("ok", {"a": value})))
    nested = ctx.all([ctx.schedule_activity("ok", 1), ctx.schedule_timer(0)])
    log.append((yield ctx.all([nested, ctx.new_guid(), {"type": "unheard"}])))
    log[-1][0], log[-1][1] = log[-1][0]["ok"], "guid" if len(log[-1][1]["ok"]) == 36 else "?"
    log[-1][2] = "Invalid generator step" in log[-1][2]["err"]
    log.append((yield ctx.all_typed([ctx.schedule_activity("ok", 2)])))
    log.append(
        (yield ctx.race(ctx.wait_for_event("e"), ctx.schedule_timer(1), ctx.utc_now()))["index"]
    )
    log.append((yield ctx.schedule_sub_orchestration("child", 4)))
    log.append((yield ctx.start_orchestration("child", "detached", 1)))
    log.append((yield ctx.get_kv_value_from_instance("nobody", "k")))
    log.append((yield from sub_steps(ctx)))
    try:
        yield ctx.race(ctx.schedule_activity("boom"), ctx.schedule_timer(1000))
    except Exception as error:
        log.append([type(error).__name__, str(error)])
    return log


def sub_steps(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    return (yield ctx.schedule_activity_with_retry("ok", "helper", {"backoff": "fixed"}))


def test_yielded_descriptors_give_the_shapes_of_the_sdk() -> None:
    world, run = play(everything, 5, CHILD)
    world.advance(1)
    assert run.output == [
        {"a": 5},
        [[{"ok": 1}, {"ok": None}], "guid", True],
        [2],
        2,
        8,
        None,
        None,
        "helper",
        ["Exception", "Activity 'boom' call failed: ValueError: bad"],
    ]
    run.assert_replays()


def inert(ctx: OrchestrationContext, value: Any) -> Generator[Any, Any, str]:
    ctx.schedule_activity("ok", "never yielded")
    yield ctx.schedule_timer(0)
    return "done"


def test_a_descriptor_that_is_not_yielded_schedules_nothing() -> None:
    world, run = play(inert)
    assert run.output == "done"
    assert world.calls == []


def unknown(ctx: OrchestrationContext, value: Any) -> Generator[Any, Any, None]:
    yield 42


def test_yielding_something_unknown_fails_with_the_words_of_the_sdk() -> None:
    _, run = play(unknown)
    assert "Invalid generator step result: 42" in str(run.error)


def incomplete(ctx: OrchestrationContext, value: Any) -> Generator[Any, Any, None]:
    yield {"type": "activity"}


def test_yielding_a_descriptor_that_lacks_something_says_what() -> None:
    _, run = play(incomplete)
    assert "Invalid generator step result: {'type': 'activity'} has no 'name'" in str(run.error)


def fails(ctx: OrchestrationContext, value: Any) -> Generator[Any, Any, None]:
    yield ctx.schedule_timer(0)
    raise ValueError("at the end")


def test_a_failure_says_what_and_where() -> None:
    _, run = play(fails)
    assert str(run.error).startswith("ValueError: at the end\n\nTraceback")
    assert "test_sdk_context.py" in str(run.error)


def counts(ctx: OrchestrationContext, n: int) -> Generator[Any, Any, int]:
    ctx.set_kv_value("n", n)
    if n < 3:
        yield ctx.continue_as_new(n + 1)
    return n


def test_continue_as_new_is_a_descriptor_and_key_values_stay() -> None:
    _, run = play(counts, 0)
    assert run.output == 3
    assert len(run.executions) == 4
    assert run.key_values == {"n": "3"}


async def native(ctx: OrchestrationContext, value: Any) -> list[Any]:
    first = ctx.schedule_activity("ok", 1)
    timer = ctx.schedule_timer(1000)
    both = await ctx.all([first, ctx.schedule_activity("boom")])
    won = await ctx.race(ctx.schedule_activity("ok", 2), timer)
    guid = await ctx.new_guid()
    return [await first, both[0], won, len(guid), await ctx.run(sub_steps(ctx))]


def test_the_same_methods_can_be_awaited_in_a_coroutine() -> None:
    world, run = play(native)
    assert run.output == [1, {"ok": 1}, {"index": 0, "value": 2}, 36, "helper"]
    assert [name for name, _ in world.calls][:2] == ["ok", "boom"]
    assert world.stage.next_timer_ms() is None
    run.assert_replays()


async def coroutine_beside(ctx: OrchestrationContext, n: int) -> Any:
    """Written as a coroutine, whoever runs it: every call is made at once."""
    unawaited = ctx.schedule_activity("ok", "at once")
    await ctx.schedule_timer(0)
    async with ctx.timeout(60):
        if n < 2:
            ctx.continue_as_new(n + 1)
    return await unawaited


def generator_beside(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    """Written as a generator, whoever runs it: nothing happens before the yield."""
    ctx.schedule_activity("ok", "never")
    return (yield ctx.schedule_activity("ok", "yielded"))


def generator_around(ctx: OrchestrationContext, n: int) -> Generator[Any, Any, Any]:
    ctx.schedule_activity("ok", "never")
    found = yield ctx.spawn(coroutine_beside(ctx, n))
    ctx.schedule_activity("ok", "never")
    return [found, (yield from generator_beside(ctx))]


async def coroutine_around(ctx: OrchestrationContext, n: int) -> Any:
    found = await ctx.spawn(coroutine_beside(ctx, n))
    return [found, await ctx.run(generator_beside(ctx))]


@pytest.mark.parametrize("code", [generator_around, coroutine_around])
def test_a_helper_keeps_its_own_style_in_an_orchestration_of_the_other(code: Code) -> None:
    world, run = play(code, 0)
    assert run.output == ["at once", "yielded"]
    assert len(run.executions) == 3
    assert {value for _, value in world.calls} == {"at once", "yielded"}
    run.assert_replays()


def test_parse_result_unwraps_and_raises() -> None:
    assert parse_result([{"ok": 1}, {"err": "x"}, 3]) == [1, {"err": "x"}, 3]
    assert parse_result({"ok": 2}) == 2
    assert parse_result("plain") == "plain"
    with pytest.raises(Exception, match="no"):
        parse_result({"err": "no"})


def cancelled(ctx: OrchestrationContext, value: Any) -> Generator[Any, Any, None]:
    yield ctx.schedule_activity("held")


def test_a_cancelled_generator_leaves_nothing_running() -> None:
    world, run = play(cancelled)
    run.cancel("stop")
    assert run.error == "canceled: stop"
    assert world.held == []
    run.assert_replays()
