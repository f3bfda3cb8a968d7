"""A child under an id that is taken already: its parent gets an answer, and the other is left alone."""

from __future__ import annotations

import asyncio

from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.errors import SubOrchestrationError
from tests.unit.duroxide.runtime.test_runtime import HOUR, virtually, working


@activity
async def slow(seconds: float) -> None:
    await asyncio.sleep(seconds)


@orchestration
async def works(ctx: OrchestrationContext) -> str:
    await ctx.call(slow, 60)
    return "worked"


@orchestration
async def waits(ctx: OrchestrationContext) -> str:
    return str(await ctx.wait_event("go"))


@orchestration
async def parent(ctx: OrchestrationContext, name: str) -> str:
    try:
        return str(await ctx.call_child(name, id="taken"))
    except SubOrchestrationError as error:
        return error.message


@virtually
async def test_of_an_instance_whose_activities_run_here() -> None:
    async with working(works, parent, slow) as (client, _):
        await client.start(works, instance_id="taken")
        await asyncio.sleep(1)
        answer = await client.result(await client.start(parent, "works"))
        assert "'taken' already exists" in answer
        assert await client.result("taken", timeout=HOUR) == "worked"


@virtually
async def test_of_an_instance_that_waits() -> None:
    async with working(waits, parent) as (client, _):
        await client.start(waits, instance_id="taken")
        await asyncio.sleep(1)
        answer = await client.result(await client.start(parent, "waits"))
        assert "'taken' already exists" in answer
        await client.raise_event("taken", "go", "gone")
        assert await client.result("taken") == "gone"


@virtually
async def test_of_an_instance_that_has_ended() -> None:
    async with working(waits, parent) as (client, _):
        await client.start(waits, instance_id="taken")
        await client.raise_event("taken", "go", "gone")
        await client.result("taken")
        answer = await client.result(await client.start(parent, "waits"))
        assert "'taken' already exists and is terminal" in answer


@virtually
async def test_of_two_parents_at_once_one_gets_the_child() -> None:
    async with working(waits, parent) as (client, _):
        parents = [await client.start(parent, "waits") for _ in range(2)]
        await asyncio.sleep(1)
        await client.raise_event("taken", "go", "gone")
        answers = sorted([await client.result(instance) for instance in parents])
        assert answers[1] == "gone" or answers[0] == "gone"
        assert any("already exists" in answer for answer in answers)
