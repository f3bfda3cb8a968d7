"""Activities on a Dask cluster: the workflow stays here, the computing happens on other machines.

Any `concurrent.futures.Executor` will do; Dask's is one. If a machine of the cluster dies, Dask moves
the work; if this process dies, the next one that starts carries on with what is not recorded yet.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from distributed import Client, LocalCluster

from duroxide import (
    AsyncClient,
    AsyncRuntime,
    OrchestrationContext,
    OrchestrationDef,
    Registry,
    SqliteProvider,
    orchestration,
)
from duroxide.registry import define_activity


def count_primes(first: int, last: int) -> tuple[int, int]:
    """How many primes there are in a range, and which process has counted them."""
    primes = sum(
        all(number % divisor for divisor in range(2, int(number**0.5) + 1))
        for number in range(max(first, 2), last)
    )
    return primes, os.getpid()


def build(executor: Executor) -> tuple[Registry, OrchestrationDef[..., Any]]:
    count: Callable[..., Any] = define_activity(
        count_primes, name="count_primes", executor=executor
    )

    @orchestration
    async def primes_below(ctx: OrchestrationContext, limit: int) -> list[int]:
        """The number of primes, and of the processes that took part."""
        step = limit // 8
        parts = await ctx.gather(
            *(ctx.call(count, first, first + step) for first in range(0, limit, step))
        )
        return [sum(primes for primes, _ in parts), len({process for _, process in parts})]

    return Registry().add(count, primes_below), primes_below


async def main() -> None:
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as dask:
        registry, primes_below = build(dask.get_executor())
        provider = SqliteProvider.in_memory()
        async with AsyncRuntime(provider, registry), AsyncClient(provider) as client:
            primes, processes = await client.result(await client.start(primes_below, 80_000))
        await provider.close()
    print(f"{primes} primes below 80000, counted by {processes} processes")


if __name__ == "__main__":
    asyncio.run(main())
