"""Fan out, fan in: count the words of many texts at once, then add them up.

A failed part does not sink the rest: `return_exceptions` puts it among the results.
"""

import asyncio

from duroxide import (
    ActivityError,
    OrchestrationContext,
    Registry,
    RetryPolicy,
    activity,
    orchestration,
)
from duroxide.client import AsyncClient
from duroxide.providers.memory import MemoryProvider
from duroxide.runtime.runtime import AsyncRuntime


@activity(retry=RetryPolicy(max_attempts=3))
def count_words(text: str) -> int:
    if not text:
        raise ActivityError("an empty text has no words to count", retryable=False)
    return len(text.split())


@orchestration
async def word_count(ctx: OrchestrationContext, texts: list[str]) -> dict[str, int]:
    counts = await ctx.gather(
        *(ctx.call(count_words, text) for text in texts), return_exceptions=True
    )
    failed = [count for count in counts if isinstance(count, ActivityError)]
    words = sum(count for count in counts if isinstance(count, int))
    return {"words": words, "failed": len(failed)}


REGISTRY = Registry().add(count_words, word_count)
TEXTS = ["to be or not to be", "", "that is the question", *["one two three"] * 20]


async def scenario(client: AsyncClient) -> dict[str, int]:
    instance = await client.start(word_count, TEXTS, instance_id="words-1")
    return await client.result(instance, word_count)


async def main() -> None:
    provider = MemoryProvider()
    async with AsyncRuntime(provider, REGISTRY), AsyncClient(provider) as client:
        print(await scenario(client))


if __name__ == "__main__":
    asyncio.run(main())
