"""Orchestrations: every descriptor, what yielding it gives, and how a run ends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from typing import Any

import pytest

from tests.sdk.app import TIMEOUT_MS, App, boom, echo

Steps = Generator[Any, Any, Any]


# Inputs and outputs.


def returns(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(0)
    return [value]


@pytest.mark.parametrize("value", [None, 1, "s", "5", "", {"a": 1}, [1, 2], (1, 2), {1: 2}, "é"])
def test_input_and_output_are_json(app: App, value: Any) -> None:
    app.orchestrations(returns).start()
    expected = {(1, 2): [1, 2]}.get(value) if isinstance(value, tuple) else value
    expected = {"1": 2} if expected == {1: 2} else expected
    assert app.output("returns", value) == [expected]


def annotated(ctx: Any, value: int) -> Steps:
    yield ctx.schedule_timer(0)
    return value


def plain(ctx: Any, value: Any) -> Any:
    ctx.schedule_activity("never yielded, so never scheduled")
    return {"plain": value}


def nothing(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(0)


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(ctx: Any, value: Any) -> Any:
        return function(ctx, value)

    return wrapper


def helped(ctx: Any, value: Any) -> Steps:
    first = yield from returns(ctx, value)
    return [first, *(yield from returns(ctx, value))]


def test_functions_of_all_kinds_are_orchestrations(app: App) -> None:
    app.orchestrations(annotated, plain, nothing, helped)
    app.runtime.register_orchestration("wrapped", logged(returns))
    app.runtime.register_orchestration("partial", functools.partial(returns))
    app.start()
    assert app.output("annotated", "not a number", "1") == "not a number"
    assert app.output("plain", 1, "2") == {"plain": 1}
    assert app.output("nothing", 1, "3") is None
    assert app.output("helped", 1, "4") == [[1], 1]
    assert app.output("wrapped", 1, "5") == [1]
    assert app.output("partial", 1, "6") == [1]


def fails_first(ctx: Any, value: Any) -> Steps:
    if ctx.instance_id:
        raise ValueError("first")
    yield


def fails_late(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(0)
    raise KeyError("late")


def fails_plainly(ctx: Any, value: Any) -> Any:
    raise ValueError("plain")


def is_no_json(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(0)
    return object()


def exits(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(0)
    raise SystemExit(3)


def leaves(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(0)
    raise GeneratorExit("left")


def interrupts(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(0)
    raise KeyboardInterrupt


def yields_a_number(ctx: Any, value: Any) -> Steps:
    yield 42


def waits_back(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(-5)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (fails_first, "ValueError: first"),
        (fails_late, "KeyError: 'late'"),
        (fails_plainly, "ValueError: plain"),
        (is_no_json, "TypeError: Object of type object is not JSON serializable"),
        (exits, "SystemExit: 3"),
        (leaves, "GeneratorExit: left"),
        (interrupts, "the orchestration raised KeyboardInterrupt"),
        (yields_a_number, "Invalid generator step result: "),
        (waits_back, "-5"),
    ],
)
def test_a_failure_is_told_and_ends_nothing_else(app: App, code: Any, text: str) -> None:
    app.orchestrations(code, returns).start()
    result = app.run(code.__name__)
    assert (result.status, result.output) == ("Failed", None)
    assert text in result.error
    assert app.output("returns", 1, "another") == [1]


# Together.


def child(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(0)
    if value == "fail":
        raise ValueError("in the child")
    return value


def together(ctx: Any, _: Any) -> Steps:
    results = [(yield ctx.all([]))]
    act = ctx.schedule_activity
    results.append((yield ctx.all([act("echo", 1), act("boom", "b"), ctx.schedule_timer(0)])))
    results.append((yield ctx.all_typed([act("echo", {"ok": 1}), act("boom", "b")])))
    children = [
        ctx.schedule_sub_orchestration("child", 1),
        ctx.schedule_sub_orchestration_with_id("child", "c2", 2),
        ctx.schedule_sub_orchestration_versioned("child", "1.0.0", 3),
        ctx.schedule_sub_orchestration_versioned_with_id("child", None, "c4", 4),
    ]
    results.append((yield ctx.all(children)))
    tried = ctx.schedule_activity_with_retry
    results.append(
        (yield ctx.all([tried("echo", "r", {}), tried("boom", "r", {"max_attempts": 1})]))
    )
    return results


def test_all_gives_an_entry_for_each_and_never_raises(app: App) -> None:
    app.activities(echo, boom).orchestrations(together, child).start()
    failed = {"err": "Activity 'boom' call failed: ValueError: b"}
    assert app.output("together") == [
        [],
        [{"ok": 1}, failed, {"ok": None}],
        [{"ok": 1}, failed],
        [{"ok": 1}, {"ok": 2}, {"ok": 3}, {"ok": 4}],
        [{"ok": "r"}, {"err": "Activity 'boom' call failed: ValueError: r"}],
    ]


def races(ctx: Any, _: Any) -> Steps:
    late = ctx.schedule_timer(60_000)
    results = [
        (yield ctx.race(ctx.schedule_activity("echo", "fast"), late)),
        (yield ctx.race(ctx.wait_for_event("never"), ctx.schedule_timer(1))),
        (yield ctx.race_typed(ctx.schedule_timer(1), ctx.dequeue_event("never"))),
    ]
    for task in (
        ctx.schedule_activity("boom", "lost"),
        ctx.schedule_activity_with_retry("boom", "lost", {"max_attempts": 1}),
    ):
        try:
            yield ctx.race(task, late)
        except Exception as error:
            results.append([type(error).__name__, str(error)])
    return results


def test_race_gives_the_winner_and_raises_its_error(app: App) -> None:
    app.activities(echo, boom).orchestrations(races).start()
    lost = ["Exception", "Activity 'boom' call failed: ValueError: lost"]
    assert app.output("races") == [
        {"index": 0, "value": "fast"},
        {"index": 1, "value": None},
        {"index": 0, "value": None},
        lost,
        lost,
    ]


# Children, and starts that nobody waits for.


def about(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(0)
    return [ctx.instance_id, ctx.orchestration_name, ctx.orchestration_version, value]


def about_two(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_timer(0)
    return ["two", *(yield from about(ctx, value))]


def family(ctx: Any, _: Any) -> Steps:
    tasks = [
        ctx.schedule_sub_orchestration("about", 1),
        ctx.schedule_sub_orchestration_typed("about", "raw"),
        ctx.schedule_sub_orchestration_with_id("about", "id-a", 2),
        ctx.schedule_sub_orchestration_with_id_typed("about", "id-b", "[3]"),
        ctx.schedule_sub_orchestration_versioned("about", "1.0.0", 4),
        ctx.schedule_sub_orchestration_versioned_with_id("about", "1.0.0", "id-c", 5),
        ctx.schedule_sub_orchestration_with_id("about", "id-a", 6),
        ctx.schedule_sub_orchestration_with_id("about", "sub::x", 7),
    ]
    seen: list[Any] = []
    for task in tasks:
        try:
            seen.append((yield task))
        except Exception as error:
            seen.append(str(error))
    return seen


def with_two_versions(app: App, *others: Any) -> App:
    app.runtime.register_orchestration_versioned("about", "1.0.0", about)
    app.runtime.register_orchestration_versioned("about", "2.0.0", about_two)
    return app.orchestrations(*others).start()


def test_children_have_the_ids_and_versions_of_the_sdk(app: App) -> None:
    with_two_versions(app, family)
    output = app.output("family")
    assert output[:6] == [
        ["two", "i::sub::2", "about", "2.0.0", 1],
        ["two", "i::sub::4", "about", "2.0.0", "raw"],
        ["two", "id-a", "about", "2.0.0", 2],
        ["two", "id-b", "about", "2.0.0", [3]],
        ["i::sub::10", "about", "1.0.0", 4],
        ["id-c", "about", "1.0.0", 5],
    ]
    assert output[6] == "sub-orchestration instance id 'id-a' already exists and is terminal"
    assert output[7].startswith(
        "sub-orchestration instance id 'sub::x' starts with the reserved marker 'sub::'"
    )
    tree = app.client.get_instance_tree("i")
    assert (tree.root_id, tree.size) == ("i", 7)
    assert "id-c" in tree.all_ids
    assert app.client.get_instance_info("id-c").parent_instance_id == "i"
    deleted = app.client.delete_instance("i")
    assert (deleted.instances_deleted, deleted.executions_deleted) == (7, 7)


def failing_family(ctx: Any, _: Any) -> Steps:
    try:
        yield ctx.schedule_sub_orchestration("child", "fail")
    except Exception as error:
        return [type(error).__name__, str(error)]


def test_a_failed_child_is_an_exception_with_its_text(app: App) -> None:
    app.orchestrations(failing_family, child).start()
    kind, text = app.output("failing_family")
    assert kind == "Exception"
    assert "ValueError: in the child" in text
    assert "in child" in text


def starter(ctx: Any, _: Any) -> Steps:
    return [
        (yield ctx.start_orchestration("about", "d1", 1)),
        (yield ctx.start_orchestration_typed("about", "d2", "raw")),
        (yield ctx.start_orchestration_versioned("about", "1.0.0", "d3", 3)),
        (yield ctx.start_orchestration_versioned_typed("about", "1.0.0", "d4", "[4]")),
    ]


def test_detached_starts_give_nothing_and_run(app: App) -> None:
    with_two_versions(app, starter)
    assert app.output("starter") == [None] * 4
    wait = app.client.wait_for_orchestration
    assert [wait(f"d{n}", TIMEOUT_MS).output for n in (1, 2, 3, 4)] == [
        ["two", "d1", "about", "2.0.0", 1],
        ["two", "d2", "about", "2.0.0", "raw"],
        ["d3", "about", "1.0.0", 3],
        ["d4", "about", "1.0.0", [4]],
    ]
    assert app.client.get_instance_info("d1").parent_instance_id is None


# Events, queues, time.


def listens(ctx: Any, _: Any) -> Steps:
    seen = []
    for name in ("a", "b", "c"):
        ctx.set_custom_status(f"waiting for {name}")
        task = ctx.wait_for_event_typed(name) if name == "b" else ctx.wait_for_event(name)
        seen.append((yield task))
    ctx.set_custom_status("reading")
    for _ in range(3):
        seen.append((yield ctx.dequeue_event("mail")))
    seen.append((yield ctx.dequeue_event_typed("mail")))
    return seen


def test_events_are_heard_and_queues_are_first_in_first_out(app: App) -> None:
    app.orchestrations(listens).start()
    client = app.client
    client.start_orchestration("i", "listens")
    app.until_status("i", "waiting for a")
    client.enqueue_event("i", "mail", 1)
    client.raise_event("i", "a", {"n": 1})
    app.until_status("i", "waiting for b")
    client.raise_event_typed("i", "b", "text")
    app.until_status("i", "waiting for c")
    client.raise_event("i", "c")
    client.enqueue_event_typed("i", "mail", "5")
    client.enqueue_event("i", "mail")
    client.enqueue_event("i", "mail", [4])
    result = client.wait_for_orchestration("i", TIMEOUT_MS)
    assert result.output == [{"n": 1}, "text", None, 1, "5", None, [4]]
    assert (result.custom_status, result.custom_status_version) == ("reading", 4)


def clock(ctx: Any, _: Any) -> Steps:
    before = yield ctx.utc_now()
    yield ctx.schedule_timer(120)
    after = yield ctx.utc_now()
    guids = [(yield ctx.new_guid()), (yield ctx.new_guid())]
    return [isinstance(before, int), after - before, [len(guid) for guid in guids], *guids]


def test_time_passes_and_guids_differ(app: App) -> None:
    app.orchestrations(clock).start()
    is_int, passed_ms, lengths, first, second = app.output("clock")
    assert is_int
    assert 115 <= passed_ms < 10_000
    assert lengths == [36, 36]
    assert first != second


# Key-values, custom status, the next execution.


def keeps(ctx: Any, _: Any) -> Steps:
    ctx.set_kv_value("b", 1)
    ctx.set_kv_value("a", {"x": 1})
    ctx.set_kv_value(5, None)
    seen: list[Any] = [ctx.get_kv_value("b"), ctx.get_kv_value("no"), ctx.get_kv_all_values()]
    yield ctx.schedule_timer(5)
    seen += [ctx.get_kv_all_keys(), ctx.get_kv_length()]
    ctx.clear_kv_value("b")
    ctx.clear_kv_value("no")
    now = yield ctx.utc_now()
    seen += [ctx.prune_kv_values_updated_before(now + 1_000_000), ctx.get_kv_length()]
    ctx.set_kv_value("gone", "x")
    ctx.clear_all_kv_values()
    ctx.set_kv_value("json", '{"x": 1}')
    ctx.set_kv_value("text", "plain")
    yield ctx.schedule_timer(0)
    for instance_id, key in ((ctx.instance_id, "text"), (ctx.instance_id, "no"), ("no", "text")):
        seen.append((yield ctx.get_kv_value_from_instance(instance_id, key)))
    return seen


def test_key_values_are_texts(app: App) -> None:
    app.orchestrations(keeps).start()
    assert app.output("keeps") == [
        "1",
        None,
        {"a": "{'x': 1}", "5": "None", "b": "1"},
        ["5", "a", "b"],
        3,
        2,
        0,
        "plain",
        None,
        None,
    ]
    client = app.client
    assert [client.get_kv_value("i", key) for key in ("json", "text", "gone")] == [
        '{"x": 1}',
        "plain",
        None,
    ]
    assert client.get_kv_value_typed("i", "json") == {"x": 1}
    assert client.get_kv_value_typed("i", "gone") is None
    assert client.wait_for_kv_value("i", "text") == "plain"
    assert client.wait_for_kv_value_typed("i", "json") == {"x": 1}
    assert client.get_kv_value("nobody", "json") is None
    with pytest.raises(TimeoutError) as raised:
        client.wait_for_kv_value("i", "no", 50)
    assert str(raised.value) == "Timed out waiting for value 'no' on instance 'i'"


def tells(ctx: Any, _: Any) -> Steps:
    seen = [ctx.get_custom_status()]
    ctx.set_custom_status({"a": 1})
    seen.append(ctx.get_custom_status())
    ctx.reset_custom_status()
    seen.append(ctx.get_custom_status())
    yield ctx.schedule_timer(0)
    ctx.set_custom_status("end")
    return seen


def test_a_custom_status_counts_once_a_turn(app: App) -> None:
    app.orchestrations(tells).start()
    result = app.run("tells")
    assert result.output == [None, "{'a': 1}", None]
    assert (result.custom_status, result.custom_status_version) == ("end", 2)


def goes_on(ctx: Any, n: int) -> Steps:
    if n == 0:
        yield ctx.continue_as_new(1)
    if n == 1:
        yield ctx.continue_as_new_typed("2")
    if n == 2:
        yield ctx.continue_as_new_versioned(3)
    if n == 3:
        yield ctx.continue_as_new_versioned(4, "1.0.0")
    return [n, ctx.execution_id]


def test_there_are_four_ways_to_continue_as_new(app: App) -> None:
    app.orchestrations(goes_on).start()
    assert app.output("goes_on", 0) == [4, 5]
    assert app.client.list_executions("i") == [1, 2, 3, 4, 5]


def ends(ctx: Any, n: int) -> Steps:
    yield ctx.schedule_timer(0)
    versions = [ctx.orchestration_version, ctx.execution_id]
    return [n, *versions, ctx.get_custom_status(), ctx.get_kv_all_values()]


def begins(ctx: Any, n: int) -> Steps:
    ctx.set_kv_value("n", n)
    ctx.set_custom_status(f"at {n}")
    yield ctx.continue_as_new_typed(str(n + 1))


def test_a_new_execution_begins_afresh(app: App) -> None:
    app.runtime.register_orchestration_versioned("grows", "1.0.0", begins)
    app.runtime.register_orchestration_versioned("grows", "2.0.0", ends)
    app.start()
    app.client.start_orchestration_versioned("i", "grows", 0, "1.0.0")
    result = app.client.wait_for_orchestration("i", TIMEOUT_MS)
    assert result.output == [1, "2.0.0", 2, "at 0", {"n": "0"}]
    assert app.client.list_executions("i") == [1, 2]
    info = app.client.get_instance_info("i")
    assert (info.current_execution_id, info.orchestration_version) == (2, "2.0.0")
    first = app.client.get_execution_info("i", 1)
    assert (first.status, first.output, first.event_count) == ("ContinuedAsNew", "1", 4)
    kinds = [event.kind for event in app.client.read_execution_history("i", 1)]
    assert kinds == [
        "OrchestrationStarted",
        "KeyValueSet",
        "CustomStatusUpdated",
        "OrchestrationContinuedAsNew",
    ]
