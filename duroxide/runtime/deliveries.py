"""One delivery of an activity: what its code sees, how it ended, and what is recorded of that."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from duroxide import work
from duroxide.activity_context import ALREADY_FINISHED, ActivityContext, FinishedAs, LeaseLost
from duroxide.failures import Failure
from duroxide.limits import Limits
from duroxide.payload import JSON
from duroxide.providers.base import FinishActivity, LeasedActivity
from duroxide.registry import ActivityDef
from duroxide.routing import message_of
from duroxide.runtime.admission import Gates
from duroxide.runtime.calls import failure_of_activity, result_text
from duroxide.runtime.telemetry import ActivityRecord

Completion: TypeAlias = work.ActivityCompletion | work.ActivityFailure


@dataclass(slots=True, eq=False)
class Delivery:
    """An activity in hand that this process can run."""

    leased: LeasedActivity
    definition: ActivityDef[..., Any]
    context: ActivityContext
    text: str  # its input
    variables: contextvars.Context  # in which the code and its observers run
    gates: Gates = ()  # of the admission
    task: asyncio.Task[Any] | None = None
    began: float = 0.0  # to run or, before that, to wait; by the loop's clock
    waited_s: float = 0.0  # from when it was due to when its code began
    is_let_through: bool = False  # by the admission, which has to be told of its end
    is_concluded: bool = False

    def renewed(self, expires_at_ms: int) -> None:
        self.context.expires_at_ms = expires_at_ms


def outcome_of(
    delivery: Delivery, call: asyncio.Task[Any], limits: Limits
) -> tuple[str, Completion | None]:
    """What to call the end of a call, and what to record.

    The result of a call that ended within its grace period is offered to the store all the
    same: only the store knows whether it is still wanted.
    """
    error: BaseException | None
    if call.cancelled():
        if delivery.context.is_cancelled():
            return "cancelled", None
        error = asyncio.CancelledError("the activity cancelled itself")
    else:
        error = call.exception()
    if isinstance(error, LeaseLost):
        return "lost", None
    if error is None and (
        call.result() is ALREADY_FINISHED or isinstance(call.result(), FinishedAs)
    ):
        return "finished", None
    if error is None:
        try:
            text = result_text(delivery.definition, call.result(), limits)
            return "success", completion_of(delivery.leased, text)
        except Exception as unusable:
            error = unusable
    return "failure", failed(delivery.leased, failure_of_activity(delivery.definition, error))


def record_of(
    leased: LeasedActivity, name: str, outcome: str, seconds: float, waited_s: float
) -> ActivityRecord:
    return ActivityRecord(
        instance_id=leased.instance_id,
        execution_id=leased.execution_id,
        activity_id=leased.activity_id,
        activity_name=name,
        attempt=leased.attempt_count,
        tag=leased.tag,
        outcome=outcome,
        seconds=seconds,
        waited_s=waited_s,
    )


def context_of(
    leased: LeasedActivity,
    execute: work.ActivityExecute,
    worker_id: str,
    beat: Callable[[Any], None] | None,
) -> ActivityContext:
    return ActivityContext(
        instance_id=leased.instance_id,
        execution_id=leased.execution_id,
        activity_id=leased.activity_id,
        activity_name=execute.name,
        orchestration_name=execute.orchestration or "",
        orchestration_version=execute.version or "",
        worker_id=worker_id,
        attempt=leased.attempt_count,
        token=leased.token,
        expires_at_ms=leased.expires_at_ms,
        tag=leased.tag,
        session_id=leased.session_id,
        last_heartbeat=None if leased.heartbeat is None else JSON.decode(leased.heartbeat),
        _beat=beat,
    )


def completion_of(leased: LeasedActivity, result: str) -> work.ActivityCompletion:
    return work.ActivityCompletion(
        instance=leased.instance_id,
        execution_id=leased.execution_id,
        id=leased.activity_id,
        result=result,
    )


def failed(leased: LeasedActivity, details: Failure) -> work.ActivityFailure:
    return work.ActivityFailure(
        instance=leased.instance_id,
        execution_id=leased.execution_id,
        id=leased.activity_id,
        details=details,
    )


def finish_item(leased: LeasedActivity, completion: Completion) -> FinishActivity:
    """Records by message what came of an activity."""
    return FinishActivity(token=leased.token, completion=message_of(completion))
