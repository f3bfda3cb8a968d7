"""What is measured: orchestrations that do nothing but be orchestrated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from duroxide import OrchestrationContext, Registry
from duroxide.decorators import activity, orchestration
from duroxide.registry import OrchestrationDef


@activity
async def echo(value: int) -> int:
    return value


@orchestration
async def fan_out(ctx: OrchestrationContext, width: int) -> int:
    return sum(await ctx.gather(*(ctx.call(echo, number) for number in range(width))))


@orchestration
async def chain(ctx: OrchestrationContext, length: int) -> int:
    total = 0
    for number in range(length):
        total += await ctx.call(echo, number)
    return total


@orchestration
async def sleeper(ctx: OrchestrationContext, milliseconds: int) -> int:
    await ctx.sleep(timedelta(milliseconds=milliseconds))
    return milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    orchestration: OrchestrationDef[..., Any]
    argument: int
    concurrency: int
    count: int
    records: int  # things that an orchestration has to record: messages, events, results
    floor_ms: float = 0.0  # of the latency, by what the workload does; subtracted


WORKLOADS = {
    "fan-out": Workload(
        orchestration=fan_out, argument=5, concurrency=300, count=3_000, records=12
    ),
    "fan-out-20": Workload(
        orchestration=fan_out, argument=5, concurrency=20, count=1_500, records=12
    ),
    "chain": Workload(orchestration=chain, argument=10, concurrency=200, count=1_000, records=22),
    "chain-idle": Workload(orchestration=chain, argument=10, concurrency=1, count=100, records=22),
    "activity-idle": Workload(orchestration=chain, argument=1, concurrency=1, count=200, records=4),
    "timers": Workload(
        orchestration=sleeper, argument=1_000, concurrency=200, count=400, records=4, floor_ms=1_000
    ),
    "long-history": Workload(
        orchestration=chain, argument=2_000, concurrency=1, count=1, records=4002
    ),
}


def registry() -> Registry:
    known = Registry()
    for definition in (fan_out, chain, sleeper):
        known.add_orchestration(definition)
    known.add_activity(echo)
    return known
