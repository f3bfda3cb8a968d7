"""Activities: values, failures, retries, sessions, tags and what they see of their call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from duroxide import RuntimeOptions, TagFilter
from tests.sdk.app import App, boom, echo

Steps = Generator[Any, Any, Any]

VALUES = [None, 1, 1.5, "s", "5", "null", "", "é", {"a": [1]}, [1, 2], True, 10**20]


def both_ways(ctx: Any, value: Any) -> Steps:
    plain = yield ctx.schedule_activity("echo", value["v"])
    typed = yield ctx.schedule_activity_typed("echo", value["v"])
    return [plain, typed]


def everything_twice(ctx: Any, _: Any) -> Steps:
    results = []
    for value in VALUES:
        results.append((yield from both_ways(ctx, {"v": value})))
    return results


def test_values_come_back_as_they_went_and_typed_texts_are_read_as_json(app: App) -> None:
    app.activities(echo).orchestrations(everything_twice).start()
    read = {"5": 5, "null": None}
    expected = [[v, read.get(v, v) if isinstance(v, str) else v] for v in VALUES]
    assert app.output("everything_twice") == expected


class Odd(Exception):
    def __str__(self) -> str:
        return ""


def raises(ctx: Any, kind: str) -> Any:
    match kind:
        case "odd":
            raise Odd
        case "key":
            raise KeyError("k")
        case "number":
            raise ValueError(5)
        case "lines":
            raise ValueError("a\nb")
        case "cause":
            raise RuntimeError("outer") from ZeroDivisionError("inner")
        case "object":
            return object()
        case "nan":
            return float("nan")
        case _:
            return {1: (2, 3)}


def collects_errors(ctx: Any, kinds: list[str]) -> Steps:
    seen: list[Any] = []
    for kind in kinds:
        try:
            seen.append(repr((yield ctx.schedule_activity("raises", kind))))
        except Exception as error:
            seen.append([type(error).__name__, *error.args])
    return seen


def test_failures_have_the_words_of_the_sdk(app: App) -> None:
    app.activities(raises).orchestrations(collects_errors).start()
    kinds = ["odd", "key", "number", "lines", "cause", "object", "nan", "keys"]
    prefix = "Activity 'raises' call failed: "
    assert app.output("collects_errors", kinds) == [
        ["Exception", prefix + "Odd: "],
        ["Exception", prefix + "KeyError: 'k'"],
        ["Exception", prefix + "ValueError: 5"],
        ["Exception", prefix + "ValueError: a\nb"],
        ["Exception", prefix + "RuntimeError: outer"],
        ["Exception", prefix + "TypeError: Object of type object is not JSON serializable"],
        "nan",
        "{'1': [2, 3]}",
    ]


class Flaky:
    """Fails until it was called for the n-th time with one name."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def __call__(self, ctx: Any, value: Any) -> int:
        name = value["name"]
        self.calls[name] = self.calls.get(name, 0) + 1
        if self.calls[name] < value["good"]:
            raise ValueError(f"try {self.calls[name]}")
        return self.calls[name]


def slow(ctx: Any, value: Any) -> str:
    time.sleep(0.5)
    return "slow"


def retries(ctx: Any, _: Any) -> Steps:
    def flaky(name: str, good: int) -> dict[str, Any]:
        return {"name": name, "good": good}

    text = '{"name": "e", "good": 2}'
    tasks = [
        ctx.schedule_activity_with_retry("flaky", flaky("a", 2), {"max_attempts": 3}),
        ctx.schedule_activity_with_retry(
            "flaky", flaky("b", 9), {"maxAttempts": 2, "backoff": "none"}
        ),
        ctx.schedule_activity_with_retry("flaky", flaky("c", 3), {}),
        ctx.schedule_activity_with_retry_on_session("flaky", flaky("d", 2), {}, "s"),
        ctx.schedule_activity_with_retry_typed("flaky", text, {"max_attempts": 2}),
        ctx.schedule_activity_with_retry("slow", None, {"max_attempts": 3, "timeout_ms": 100}),
        ctx.schedule_activity_with_retry("slow", None, {"totalTimeoutMs": 100}),
    ]
    seen = []
    for task in tasks:
        try:
            seen.append((yield task))
        except Exception as error:
            seen.append(str(error))
    return seen


def test_retries_and_timeouts(app: App) -> None:
    flaky = Flaky()
    app.runtime.register_activity("flaky", flaky)
    app.activities(slow).orchestrations(retries).start()
    assert app.output("retries") == [
        2,
        "Activity 'flaky' call failed: ValueError: try 2",
        3,
        2,
        2,
        "timeout: activity timed out",
        "timeout: activity timed out",
    ]
    assert flaky.calls == {"a": 2, "b": 2, "c": 3, "d": 2, "e": 2}


def looks(ctx: Any, _: Any) -> Any:
    for trace in (ctx.trace_info, ctx.trace_warn, ctx.trace_error, ctx.trace_debug):
        trace("100 %s")
    client = ctx.get_client()
    return {
        "ids": [ctx.instance_id, ctx.execution_id],
        "names": [ctx.orchestration_name, ctx.orchestration_version, ctx.activity_name],
        "where": [ctx.session_id, ctx.tag(), ctx.is_cancelled(), isinstance(ctx.worker_id, str)],
        "client": [client.get_status(ctx.instance_id).status, client.get_status("no").status],
    }


def looks_around(ctx: Any, _: Any) -> Steps:
    plain = yield ctx.schedule_activity("looks")
    owned = yield ctx.schedule_activity("looks", None, "session-1")
    same = yield ctx.schedule_activity_on_session("looks", None, "session-1")
    tagged = yield ctx.schedule_activity("looks").with_tag("gpu")
    assert owned == same
    return [plain, owned["where"], tagged["where"]]


def test_an_activity_sees_its_call(app_with: Callable[[RuntimeOptions], App]) -> None:
    app = app_with(RuntimeOptions(worker_tag_filter=TagFilter.default_and(["gpu"])))
    app.activities(looks).orchestrations(looks_around).start()
    assert app.output("looks_around") == [
        {
            "ids": ["i", 1],
            "names": ["looks_around", "1.0.0", "looks"],
            "where": [None, None, False, True],
            "client": ["Running", "NotFound"],
        },
        ["session-1", None, False, True],
        [None, "gpu", False, True],
    ]


def tagged(ctx: Any, tag: str | None) -> Steps:
    task = ctx.schedule_activity("echo", tag)
    result = yield task.with_tag(tag) if tag else task
    return result


def runs(app: App, tag: str | None) -> bool:
    name = f"with {tag}"
    app.client.start_orchestration(name, "tagged", tag)
    try:
        return bool(app.client.wait_for_orchestration(name, 400).status == "Completed")
    except RuntimeError:
        return False


def test_tag_filters_choose_activities(app_with: Callable[[RuntimeOptions], App]) -> None:
    app = app_with(RuntimeOptions(worker_tag_filter=TagFilter.tags(["gpu"])))
    app.activities(echo).orchestrations(tagged).start()
    assert not runs(app, None)
    assert runs(app, "gpu")
    assert not runs(app, "cpu")


def test_without_a_filter_only_untagged_activities_run(app: App) -> None:
    app.activities(echo).orchestrations(tagged).start()
    assert runs(app, None)
    assert not runs(app, "gpu")


cancelled = threading.Event()


def patient(ctx: Any, _: Any) -> str:
    for _ in range(500):
        if ctx.is_cancelled():
            cancelled.set()
            return "cancelled"
        time.sleep(0.02)
    return "never"


def gives_up(ctx: Any, _: Any) -> Steps:
    result = yield ctx.race(ctx.schedule_activity("patient"), ctx.schedule_timer(50))
    return result


def holds(ctx: Any, _: Any) -> Steps:
    ctx.set_custom_status("holding")
    yield ctx.schedule_activity("patient")


def test_an_activity_hears_of_its_cancellation(
    app_with: Callable[[RuntimeOptions], App],
) -> None:
    app = app_with(RuntimeOptions(worker_lock_timeout_ms=2_000))
    app.activities(patient).orchestrations(gives_up, holds).start()
    cancelled.clear()
    assert app.output("gives_up") == {"index": 1, "value": None}
    assert cancelled.wait(10)
    cancelled.clear()
    app.client.start_orchestration("held", "holds")
    app.until_status("held", "holding")
    app.client.cancel_instance("held", "enough")
    result = app.client.wait_for_orchestration("held")
    assert (result.status, result.error) == ("Failed", "canceled: enough")


def test_a_failing_activity_ends_the_orchestration_that_does_not_catch(app: App) -> None:
    def careless(ctx: Any, _: Any) -> Steps:
        yield ctx.schedule_activity("boom", "x")

    app.activities(boom).orchestrations(careless).start()
    result = app.run("careless")
    assert (result.status, result.output) == ("Failed", None)
    assert "Traceback (most recent call last):" in result.error
    assert "in careless" in result.error
    assert "Exception: Activity 'boom' call failed: ValueError: x" in result.error
