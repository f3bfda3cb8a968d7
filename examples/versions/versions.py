"""Changing code while instances run: a new version for a new way, `patched` for a fix in place.

Instances go on with the version that they began with. `ctx.patched` is for a change to code that is
already running: old executions keep the old way, new ones take the new way, and both replay for ever.
"""

import asyncio

from duroxide import OrchestrationContext, Registry, activity, orchestration
from duroxide.client import AsyncClient
from duroxide.providers.memory import MemoryProvider
from duroxide.runtime.runtime import AsyncRuntime


@activity
def ship(order: str) -> str:
    return f"{order} shipped"


@activity
def notify(order: str) -> str:
    return f"{order} notified"


@orchestration(name="deliver", version="1.0.0")
async def deliver_v1(ctx: OrchestrationContext, order: str) -> list[str]:
    await ctx.wait_event("packed")
    done = []
    if ctx.patched("notify-first"):  # added later, while instances of 1.0.0 were waiting
        done.append(await ctx.call(notify, order))
    done.append(await ctx.call(ship, order))
    return done


@orchestration(name="deliver", version="2.0.0")
async def deliver_v2(ctx: OrchestrationContext, order: str) -> list[str]:
    await ctx.wait_event("packed")
    return await ctx.gather(ctx.call(ship, order), ctx.call(notify, order))


REGISTRY = Registry().add(ship, notify, deliver_v1, deliver_v2)


async def scenario(client: AsyncClient) -> list[list[str]]:
    old = await client.start(deliver_v1, "book", instance_id="order-1")
    new = await client.start("deliver", "lamp", instance_id="order-2")  # the latest: 2.0.0
    for instance in (old, new):
        await client.wait_until(instance, lambda state: state.version is not None)
        await client.raise_event(instance, "packed")
    return [await client.result(instance) for instance in (old, new)]


async def main() -> None:
    provider = MemoryProvider()
    async with AsyncRuntime(provider, REGISTRY), AsyncClient(provider) as client:
        for line in await scenario(client):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())
