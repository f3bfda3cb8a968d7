"""Where we differ from the official SDK on purpose; docs/reference/sdk.md gives the reasons."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

import duroxide
from duroxide import RuntimeOptions
from tests.sdk.app import IS_OURS, App, boom, echo

pytestmark = pytest.mark.skipif(not IS_OURS, reason="the official SDK does otherwise")

Steps = Generator[Any, Any, Any]


def attempt(seen: list[Any], task: Any) -> Steps:
    try:
        seen.append((yield task))
    except Exception as error:
        seen.append(str(error))


def nests(ctx: Any, _: Any) -> Steps:
    seen: list[Any] = []
    timer = ctx.schedule_timer
    yield from attempt(seen, ctx.all([ctx.all([timer(0)]), ctx.race(timer(0), timer(60_000))]))
    yield from attempt(seen, ctx.race(timer(60_000), timer(60_000), ctx.all([timer(0)])))
    yield from attempt(seen, ctx.race(timer(0)))
    yield from attempt(seen, 42)
    return seen


def test_combinators_nest_and_take_any_number_and_mistakes_can_be_caught(app: App) -> None:
    app.orchestrations(nests).start()
    nested, third, one, unknown = app.output("nests")
    assert nested == [{"ok": [{"ok": None}]}, {"ok": {"index": 0, "value": None}}]
    assert third == {"index": 2, "value": [{"ok": None}]}
    assert one == "select needs at least 2 tasks, not 1"
    assert unknown.startswith("Invalid generator step result: 42 ")


def stores_much(ctx: Any, _: Any) -> Steps:
    yield ctx.schedule_timer(0)
    try:
        ctx.set_kv_value("big", "x" * 65_537)
    except Exception as error:
        return str(error)


def test_limits_are_told_to_the_code_that_asks(app: App) -> None:
    app.orchestrations(stores_much).start()
    text = "KV value for key 'big' (65537 bytes) exceeds limit (65536 bytes)"
    assert app.output("stores_much") == text


def misses(ctx: Any, _: Any) -> Steps:
    try:
        yield ctx.schedule_activity("nowhere")
    except Exception as error:
        return str(error)


def test_a_poisoned_activity_can_be_caught(provider: Any) -> None:
    app = App(provider, RuntimeOptions(max_attempts=1, unregistered_backoff_ms=(10, 10)))
    app.orchestrations(misses).start()
    assert app.output("misses") == "poison: activity nowhere#2 exceeded 2 attempts (max 1)"
    app.runtime.shutdown()


def gives_a_set(ctx: Any, value: Any) -> Any:
    return {value}


def leaves(ctx: Any, value: Any) -> None:
    raise SystemExit(value)


def calls(ctx: Any, name: str) -> Steps:
    seen: list[Any] = []
    yield from attempt(seen, ctx.schedule_activity(name, 3))
    return seen[0]


def test_more_values_have_a_json_form_and_an_exit_fails_only_the_activity(app: App) -> None:
    app.activities(gives_a_set, leaves).orchestrations(calls).start()
    assert app.output("calls", "gives_a_set", "1") == [3]
    text = "Activity 'leaves' call failed: RuntimeError: the activity called sys.exit(3)"
    assert app.output("calls", "leaves", "2") == text
    assert app.output("calls", "gives_a_set", "3") == [3]


def test_mistakes_of_registration_and_options_are_told_at_once(app: App) -> None:
    app.activities(echo)
    with pytest.raises(duroxide.RegistrationError, match="duplicate activity registration: echo"):
        app.runtime.register_activity("echo", boom)
    with pytest.raises(duroxide.RegistrationError, match=r"not of the form 1\.2\.3"):
        app.runtime.register_orchestration_versioned("o", "1.0", nests)
    with pytest.raises(ValueError, match="worker_tag_filter 'rubbish' is not a tag filter"):
        RuntimeOptions(worker_tag_filter="rubbish")


async def native(ctx: Any, value: int) -> int:
    return int(await ctx.schedule_activity("echo", value)) + 1


def test_an_async_function_is_an_orchestration(app: App) -> None:
    app.activities(echo).orchestrations(native).start()
    assert app.output("native", 1) == 2


def test_a_runtime_can_be_started_again_after_its_end(app: App) -> None:
    app.activities(echo).orchestrations(native).start()
    app.runtime.shutdown()
    app.start()
    assert app.output("native", 2) == 3
