"""Time that survives: a durable sleep, a timeout around an activity, and a race against a timer.

A timer that lost its race leaves nothing behind: its wake-up is taken out of the store.
"""

import asyncio
from datetime import timedelta

from duroxide import (
    DurableTimeout,
    OrchestrationContext,
    Registry,
    activity,
    orchestration,
)
from duroxide.client import AsyncClient
from duroxide.providers.memory import MemoryProvider
from duroxide.runtime.runtime import AsyncRuntime


@activity
async def fetch(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return f"fetched in {seconds} s"


@orchestration
async def timers(ctx: OrchestrationContext, slow: float) -> list[str]:
    log = []
    await ctx.sleep(milliseconds=50)
    log.append("slept")

    try:
        async with ctx.timeout(timedelta(milliseconds=100)):
            await ctx.call(fetch, slow)
    except DurableTimeout:
        log.append("gave up")

    won = await ctx.select(fast=ctx.call(fetch, 0.0), late=ctx.sleep(hours=1))
    log.append(f"{won.key} won")
    return log


REGISTRY = Registry().add(fetch, timers)


async def scenario(client: AsyncClient) -> list[str]:
    instance = await client.start(timers, 3600.0, instance_id="timers-1")
    return await client.result(instance, timers)


async def main() -> None:
    provider = MemoryProvider()
    async with AsyncRuntime(provider, REGISTRY), AsyncClient(provider) as client:
        print(await scenario(client))


if __name__ == "__main__":
    asyncio.run(main())
