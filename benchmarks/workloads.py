"""What is measured: orchestrations that do nothing but be orchestrated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from duroxide import OrchestrationContext, Registry
from duroxide.decorators import activity, orchestration
from duroxide.registry import OrchestrationDef

EVENTS = "events"  # the queue in which they wait, for a client may be faster than the worker


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
async def sleeper(ctx: OrchestrationContext, milliseconds: int) -> float:
    """Returns how late the timer was, in milliseconds: from its due time to the turn that took it."""
    due = ctx.now() + timedelta(milliseconds=milliseconds)
    await ctx.sleep(timedelta(milliseconds=milliseconds))
    return (ctx.now() - due) / timedelta(milliseconds=1)


@orchestration
async def family(ctx: OrchestrationContext, children: int) -> int:
    return sum(await ctx.gather(*(ctx.call_child(fan_out, 1) for _ in range(children))))


@orchestration
async def listener(ctx: OrchestrationContext, events: int) -> int:
    heard = ctx.queue(EVENTS, int)
    return sum([await heard.get() for _ in range(events)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An orchestration, what it is given, and how many events the client sends to it at once."""

    orchestration: OrchestrationDef[..., Any]
    argument: int
    events: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    orchestration: OrchestrationDef[..., Any]
    argument: int
    concurrency: int
    count: int
    records: int  # things that an orchestration has to record: messages, events, results
    returns_latency: bool = False  # milliseconds; else it is what the client sees, start to end
    events: int = 0
    others: tuple[Part, ...] = ()  # take turns with the first

    @property
    def parts(self) -> tuple[Part, ...]:
        first = Part(orchestration=self.orchestration, argument=self.argument, events=self.events)
        return first, *self.others


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
        orchestration=sleeper,
        argument=1_000,
        concurrency=200,
        count=400,
        records=4,
        returns_latency=True,
    ),
    "children": Workload(
        orchestration=family, argument=3, concurrency=100, count=500, records=2 + 3 * 6
    ),
    "events": Workload(
        orchestration=listener, argument=3, concurrency=200, count=1_000, records=2 + 3, events=3
    ),
    "long-history": Workload(
        orchestration=chain, argument=2_000, concurrency=1, count=1, records=4002
    ),
    "mixed": Workload(
        orchestration=fan_out,
        argument=5,
        concurrency=200,
        count=2_000,
        records=10,  # on average
        others=(
            Part(orchestration=chain, argument=3),
            Part(orchestration=family, argument=2),
            Part(orchestration=listener, argument=2, events=2),
            Part(orchestration=sleeper, argument=50),
        ),
    ),
}


def registry() -> Registry:
    known = Registry()
    for definition in (fan_out, chain, sleeper, family, listener):
        known.add_orchestration(definition)
    known.add_activity(echo)
    return known
