"""SQL steps as an activity of the engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from duroxide.activity_context import (
    ALREADY_FINISHED,
    ActivityContext,
    AlreadyFinished,
    FinishedAs,
    Foreseen,
    LeaseLost,
)
from duroxide.errors import ActivityError
from duroxide.registry import ActivityDef, define_activity
from duroxide.runtime.tasks import end
from pg_durable.leaves import EXECUTE_SQL
from pg_durable.sqloptions import SqlOptions
from pg_durable.steps.failures import StepFailed
from pg_durable.steps.headstart import EarlyStep
from pg_durable.steps.sql import SqlSteps
from pg_durable.steps.step import LeaseGone, SqlStep

T = TypeVar("T")


def sql_activity(steps: SqlSteps, *, concurrency: int) -> ActivityDef[Any, Any]:
    """The activity `execute-sql`; its input is what `walk` writes."""

    async def execute_sql(ctx: ActivityContext, request_text: str) -> AlreadyFinished | FinishedAs:
        early = ctx.head_start
        assert early is None or isinstance(early, EarlyStep)
        step = read_step(ctx, request_text) if early is None else early.step
        step = replace(step, token=ctx.token)
        try:
            await while_wanted(ctx, steps.run(step, early))
        except LeaseGone as gone:
            raise LeaseLost(str(gone)) from gone
        except StepFailed as failure:
            data = failure.data(node_id=step.node_id, query=step.query)
            raise ActivityError(
                failure.message, error_type="StepFailed", data=data, retryable=False
            ) from failure
        return step.record.message or ALREADY_FINISHED

    def begin_early(foreseen: Foreseen) -> EarlyStep | None:
        return steps.begin_early(read_step(foreseen, foreseen.text))

    return define_activity(
        execute_sql,
        name=EXECUTE_SQL,
        takes_context=True,
        raw=True,
        max_concurrency=concurrency,
        head_start=begin_early,
    )


def read_step(of: ActivityContext | Foreseen, request_text: str) -> SqlStep:
    """The step of an activity; it has no token yet."""
    request = json.loads(request_text)
    return SqlStep(
        instance_id=of.instance_id,
        execution_id=of.execution_id,
        activity_id=of.activity_id,
        token="",
        node_id=request["node_id"],
        query=request["query"],
        submitted_by=request["submitted_by"],
        database=request["database"],
        stamp=request["stamp"],
        iteration=request.get("iteration", 0),
        options=SqlOptions.parse(request.get("options") or {}),
    )


async def while_wanted(ctx: ActivityContext, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and interrupt it as soon as nobody waits for it any more.

    Raises:
        LeaseLost: it was interrupted.
    """
    step = asyncio.ensure_future(work)
    cancelled = asyncio.ensure_future(ctx.cancelled())
    try:
        await asyncio.wait((step, cancelled), return_when=asyncio.FIRST_COMPLETED)
    finally:
        cancelled.cancel()
        await end(step)
    if step.cancelled():
        raise LeaseLost(f"activity {ctx.activity_id} of {ctx.instance_id} is not wanted any more")
    return step.result()
