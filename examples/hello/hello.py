"""The smallest durable function: one activity, called by one orchestration.

Run it: python examples/hello/hello.py
"""

import asyncio

from duroxide import OrchestrationContext, Registry, activity, orchestration
from duroxide.client import AsyncClient
from duroxide.providers.memory import MemoryProvider
from duroxide.runtime.runtime import AsyncRuntime


@activity
def greet(name: str) -> str:
    return f"Hello, {name}!"


@orchestration
async def hello(ctx: OrchestrationContext, name: str) -> str:
    return await ctx.call(greet, name)


REGISTRY = Registry().add(greet, hello)


async def scenario(client: AsyncClient) -> str:
    instance = await client.start(hello, "world", instance_id="hello-1")
    return await client.result(instance, hello)


async def main() -> None:
    provider = MemoryProvider()
    async with AsyncRuntime(provider, REGISTRY), AsyncClient(provider) as client:
        print(await scenario(client))


if __name__ == "__main__":
    asyncio.run(main())
