"""Everything that the official SDK has a descriptor for; never changed, as those in `orchestrations`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from duroxide import OrchestrationContext, OrchestrationDef, orchestration

Steps = Generator[Any, Any, Any]
RETRY = {"max_attempts": 3, "backoff": "fixed", "timeout_ms": 5_000, "total_timeout_ms": 60_000}


@orchestration
def every_activity(ctx: OrchestrationContext) -> Steps:
    log = [
        (yield ctx.schedule_activity("plain", {"n": 1}).with_tag("gpu")),
        (yield ctx.schedule_activity_typed("plain", "raw")),
        (yield ctx.schedule_activity_on_session("plain", 2, "s1")),
        (yield ctx.schedule_activity_on_session_typed("plain", "raw", "s1")),
        (yield ctx.schedule_activity_with_retry("flaky", None, RETRY)),
        (yield ctx.schedule_activity_with_retry_typed("plain", "raw", RETRY)),
        (yield ctx.schedule_activity_with_retry_on_session("plain", 3, RETRY, "s1")),
        (yield ctx.schedule_activity_with_retry_on_session_typed("plain", "raw", RETRY, "s1")),
    ]
    try:
        yield ctx.schedule_activity("fails")
    except Exception as error:
        log.append(str(error))
    return log


@orchestration
def every_wait(ctx: OrchestrationContext) -> Steps:
    yield ctx.schedule_timer(1_000)
    log = [(yield ctx.wait_for_event("e")), (yield ctx.wait_for_event_typed("e"))]
    log += [(yield ctx.dequeue_event("q")), (yield ctx.dequeue_event_typed("q"))]
    guid = yield ctx.new_guid()
    now_ms = yield ctx.utc_now()
    return [log, guid, now_ms]


@orchestration
def every_child(ctx: OrchestrationContext) -> Steps:
    yield ctx.start_orchestration("child", "loose-1", 1)
    yield ctx.start_orchestration_typed("child", "loose-2", "2")
    yield ctx.start_orchestration_versioned("child", "1.0.0", "loose-3", 3)
    yield ctx.start_orchestration_versioned_typed("child", None, "loose-4", "4")
    return [
        (yield ctx.schedule_sub_orchestration("child", 1)),
        (yield ctx.schedule_sub_orchestration_typed("child", "2")),
        (yield ctx.schedule_sub_orchestration_with_id("child", "named-1", 3)),
        (yield ctx.schedule_sub_orchestration_with_id_typed("child", "named-2", "4")),
        (yield ctx.schedule_sub_orchestration_versioned("child", "1.0.0", 5)),
        (yield ctx.schedule_sub_orchestration_versioned_with_id("child", None, "named-3", 6)),
    ]


@orchestration
def every_combination(ctx: OrchestrationContext) -> Steps:
    ok, bad = ctx.schedule_activity, ctx.schedule_activity
    inner = ctx.race(ctx.wait_for_event("never"), ok("plain", 1), ctx.schedule_timer(60_000))
    log = [(yield ctx.all([inner, bad("fails"), ctx.new_guid(), ctx.all([])]))]
    log[0][2] = len(log[0][2]["ok"])
    log.append((yield ctx.all_typed([ok("plain", 2), bad("fails")])))
    log.append((yield ctx.race_typed(ctx.dequeue_event("never"), ctx.schedule_timer(5))))
    try:
        yield ctx.race(bad("fails"), ctx.schedule_timer(60_000))
    except Exception as error:
        log.append(str(error))
    log.append((yield from helper(ctx)))
    log.append((yield ctx.get_kv_value_from_instance("nobody", "k")))
    return log


def helper(ctx: OrchestrationContext) -> Steps:
    return (yield ctx.schedule_activity("plain", "helper"))


@orchestration
def every_end(ctx: OrchestrationContext, step: int) -> Steps:
    ctx.set_custom_status(step)
    if step == 0:
        yield ctx.continue_as_new(1)
    if step == 1:
        yield ctx.continue_as_new_typed("2")
    if step == 2:
        yield ctx.continue_as_new_versioned(3, "1.0.0")
    yield ctx.schedule_timer(0)
    return ctx.get_custom_status()


DEFINITIONS: list[OrchestrationDef[..., Any]] = [
    every_activity, every_wait, every_child, every_combination, every_end,
]  # fmt: skip
