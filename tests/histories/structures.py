"""How things are put together, and how they go wrong; never changed, as those in `orchestrations`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from duroxide import (
    ActivityError,
    LimitExceeded,
    OrchestrationContext,
    OrchestrationDef,
    OrchestrationError,
    activity,
    orchestration,
)


class Colour(Enum):
    RED = "red"


@dataclass
class Parcel:
    number: UUID
    sent: datetime
    weight: Decimal
    colour: Colour
    label: bytes
    within: timedelta


@activity(name="weigh")
def weigh(parcel: Parcel, factor: Decimal = Decimal(2)) -> Parcel:
    return Parcel(
        parcel.number,
        parcel.sent,
        parcel.weight * factor,
        parcel.colour,
        parcel.label,
        parcel.within,
    )


@orchestration
async def typed(ctx: OrchestrationContext) -> Parcel:
    parcel = Parcel(
        UUID(int=7),
        datetime(2026, 1, 2, tzinfo=UTC),
        Decimal("1.50"),
        Colour.RED,
        b"x",
        timedelta(1),
    )
    return await ctx.call(weigh, parcel, factor=Decimal(3))


@orchestration
async def scoped(ctx: OrchestrationContext) -> list[Any]:
    """A scope that ends well, one that fails, a shield, a task that is cancelled and cleans up."""
    done: list[Any] = []

    async def cleans_up() -> None:
        try:
            await ctx.wait_event("never")
        finally:
            done.append(await ctx.call("undo"))

    async with ctx.scope() as scope:
        scope.spawn(collect(ctx, done, 1))
        scope.spawn(collect(ctx, done, 2))
    try:
        async with ctx.scope() as scope:
            scope.spawn(cleans_up())
            await ctx.call("fails")
    except ActivityError as error:
        done.append(str(error))
    kept = ctx.call("plain", "kept")
    await ctx.select(ctx.shield(kept), ctx.gather())
    task = ctx.spawn(cleans_up())
    await ctx.sleep(1)
    task.cancel()
    done.append(await kept)
    return done


async def collect(ctx: OrchestrationContext, done: list[Any], number: int) -> None:
    done.append(await ctx.call("plain", number))


@orchestration
async def nested(ctx: OrchestrationContext) -> list[Any]:
    """Combinators in combinators, a failure among results, a gather that its first failure ends."""
    both = ctx.gather(ctx.call("plain", 1), ctx.call("fails"), return_exceptions=True)
    won = await ctx.select(all=both, late=ctx.sleep(hours=1))
    results = [str(r) for r in won.value]
    try:
        await ctx.gather(ctx.call("fails"), ctx.wait_event("never"), ctx.sleep(hours=2))
    except ActivityError as error:
        results.append(str(error))
    return [won.key, *results]


@orchestration
async def refused(ctx: OrchestrationContext) -> list[str]:
    """Limits that are told to the code, which goes on."""
    told = []
    for ask in (
        lambda: ctx.set_custom_status("x" * 300_000),
        lambda: ctx.set_kv_value("k", "x" * 70_000),
        lambda: ctx.call("plain", tag="x" * 300),
    ):
        try:
            ask()
        except LimitExceeded as error:
            told.append(str(error))
    await ctx.call("plain", "after")
    return told


@orchestration
async def fails(ctx: OrchestrationContext) -> None:
    await ctx.sleep(1)
    raise OrchestrationError("out of stock", error_type="NoStock", data='{"sku":"x"}')


@orchestration(version="1.0.0", name="versioned")
async def versioned_1(ctx: OrchestrationContext) -> str:
    await ctx.call("plain", "one")
    return "one"


@orchestration(version="2.0.0", name="versioned")
async def versioned_2(ctx: OrchestrationContext) -> str:
    if ctx.patched("before"):
        await ctx.call("plain", "before")
    await ctx.call("plain", "two")
    return "two"


@orchestration
async def moves_on(ctx: OrchestrationContext, step: int = 0) -> str:
    """Continues as new in another version, with a status, from inside of a timeout and a gather."""
    ctx.set_custom_status(f"step {step}")
    if step == 0:
        async with ctx.timeout(60):
            await ctx.gather(ctx.call("held"), next_step(ctx))
    return ctx.get_custom_status() or ""


async def next_step(ctx: OrchestrationContext) -> None:
    await ctx.sleep(1)
    ctx.continue_as_new(1, version="1.0.0")


@orchestration
async def calls_versions(ctx: OrchestrationContext) -> list[str]:
    return [
        await ctx.call_child("versioned", version="1.0.0", result=str),
        await ctx.call_child("versioned", result=str),
        await ctx.call_child(moves_on, id="moves"),
    ]


DEFINITIONS: list[OrchestrationDef[..., Any]] = [
    typed, scoped, nested, refused, fails, versioned_1, versioned_2, moves_on,
    calls_versions,
]  # fmt: skip
