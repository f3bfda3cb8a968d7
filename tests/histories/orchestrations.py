"""One orchestration for each kind of thing that an orchestration can do.

What is recorded of them must replay for ever, so none of them is ever changed: a new thing gets a new
orchestration, and `python -m tests.histories.record VERSION` adds the files of a release.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from duroxide import (
    DurableTimeout,
    OrchestrationCancelled,
    OrchestrationContext,
    RetryPolicy,
    SubOrchestrationError,
    orchestration,
)
from duroxide.registry import OrchestrationDef
from duroxide.testing.world import HOLD, Handle, World
from tests.histories import generators, structures


@dataclass
class Order:
    sku: str
    amount: int


@orchestration
async def activities(ctx: OrchestrationContext, order: Order) -> list[str]:
    first = await ctx.call("plain", order.sku, result=str)
    second = await ctx.call("tagged", order.amount, tag="gpu", session="s1", result=str)
    try:
        await ctx.call("fails")
    except Exception as error:
        return [first, second, str(error)]
    return []


@orchestration
async def timers(ctx: OrchestrationContext) -> str:
    await ctx.sleep(seconds=1)
    try:
        async with ctx.timeout(2):
            await ctx.call("held")
    except DurableTimeout as error:
        return str(error)
    return ""


@orchestration
async def retries(ctx: OrchestrationContext) -> Any:
    policy = RetryPolicy(
        max_attempts=3,
        timeout=timedelta(seconds=5),
        total_timeout=timedelta(minutes=1),
        jitter=0.5,
    )
    return await ctx.call("flaky", retry=policy)


@orchestration
async def events(ctx: OrchestrationContext) -> list[Any]:
    first = await ctx.wait_event("e")
    early = await ctx.wait_event("early", buffered=True)
    won = await ctx.select(event=ctx.wait_event("never"), message=ctx.queue("q").get())
    return [first, early, won.key, won.value, await ctx.queue("q").get()]


@orchestration
async def children(ctx: OrchestrationContext) -> list[Any]:
    ctx.start("child", 7, id="detached-7")
    ok = await ctx.call_child("child", 1)
    dropped = ctx.call_child("waits", id="dropped")
    dropped.cancel()
    try:
        await ctx.call_child("child", -1, id="named", version="1.0.0")
    except SubOrchestrationError as error:
        return [ok, str(error)]
    return []


@orchestration
async def child(ctx: OrchestrationContext, n: int) -> int:
    if n < 0:
        raise ValueError("negative")
    return n * 2


@orchestration
async def waits(ctx: OrchestrationContext) -> None:
    await ctx.wait_event("never")


@orchestration
async def state(ctx: OrchestrationContext) -> dict[str, Any]:
    ctx.set_custom_status("one")
    ctx.set_kv_value("a", 1)
    ctx.set_kv_value("b", 2)
    ctx.clear_kv_value("a")
    await ctx.sleep(1)
    pruned = ctx.prune_kv_values_updated_before(ctx.journal.now_ms)
    ctx.clear_all_kv_values()
    ctx.reset_custom_status()
    return {
        "pruned": pruned,
        "patched": ctx.patched("p"),
        "uuid": str(ctx.uuid()),
        "roll": ctx.random.randint(1, 6),
        "now": ctx.now().isoformat(),
    }


@orchestration
async def continues(ctx: OrchestrationContext, n: int) -> int:
    n += await ctx.queue("n", int).get()
    if n < 10:
        ctx.continue_as_new(n)
    return n


@orchestration(cancel_grace=timedelta(seconds=5))
async def cleans_up(ctx: OrchestrationContext) -> None:
    try:
        await ctx.call("held")
    except OrchestrationCancelled:
        await ctx.call("undo")
        raise


@orchestration
async def is_cancelled(ctx: OrchestrationContext) -> None:
    await ctx.gather(
        ctx.call("held"),
        ctx.sleep(100),
        ctx.wait_event("never"),
        ctx.queue("q").get(),
        ctx.call_child("waits"),
    )


@orchestration
def generated(ctx: OrchestrationContext, n: int) -> Generator[Any, Any, Any]:
    one = yield ctx.schedule_activity("plain", n)
    both = yield ctx.all([ctx.schedule_activity("plain", 1), ctx.schedule_activity("fails", 2)])
    won = yield ctx.race(ctx.wait_for_event("e"), ctx.schedule_timer(1000))
    child_ = yield ctx.schedule_sub_orchestration("child", 4)
    return [one, both, won, child_]


DEFINITIONS: list[OrchestrationDef[..., Any]] = [
    activities, timers, retries, events, children, child, waits, state, continues, cleans_up,
    is_cancelled, generated, *structures.DEFINITIONS, *generators.DEFINITIONS,
]  # fmt: skip


def world() -> World:
    found = World(*DEFINITIONS, structures.weigh)
    found.answer("plain", lambda x: f"<{x}>")
    found.answer("tagged", lambda x: f"[{x}]")
    found.answer("fails", raises=ValueError("no"))
    found.answer("held", lambda: HOLD)
    found.answer("undo", returns=None)
    attempts = iter((ValueError("not yet"), ValueError("still not"), None))

    def flaky() -> str:
        error = next(attempts)
        if error is not None:
            raise error
        return "done"

    found.answer("flaky", flaky)
    return found


def play() -> dict[str, Handle]:
    """Every orchestration, played to its end."""
    found: dict[str, Handle] = {}

    def start(definition: OrchestrationDef[..., Any], *args: Any) -> tuple[World, Handle]:
        stage = world()
        handle = stage.start(definition, *args, instance_id=definition.name)
        found[definition.name] = handle
        return stage, handle

    start(activities, Order("x", 3))
    start(children)
    for definition in (timers, retries, state):
        stage, _ = start(definition)
        stage.advance(seconds=20)
    _, handle = start(events)
    handle.raise_event("early", "was early")
    handle.raise_event("e", {"x": 1})
    handle.enqueue("q", "first")
    handle.enqueue("q", "second")
    _, handle = start(continues, 1)
    for n in (2, 3, 4):
        handle.enqueue("n", n)
    for definition in (cleans_up, is_cancelled):
        _, handle = start(definition)
        handle.cancel("enough")
    stage, handle = start(generated, 1)
    stage.advance(seconds=1)
    for code in structures.DEFINITIONS:
        if code is not structures.versioned_1:  # a start means the latest
            stage, _ = start(code)
            stage.advance(seconds=2)
    for code in (generators.every_activity, generators.every_child):
        stage, _ = start(code)
        stage.advance(seconds=20)
    stage, handle = start(generators.every_wait)
    stage.advance(seconds=1)
    for data in (1, "text"):
        handle.raise_event("e", data)
        handle.enqueue("q", data)
    stage, _ = start(generators.every_combination)
    stage.advance(seconds=1)
    start(generators.every_end, 0)
    return found
