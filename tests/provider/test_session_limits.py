"""More sessions than a worker may have in flight, on each of the stores."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from duroxide import (
    AsyncClient,
    AsyncRuntime,
    NoBackoff,
    OrchestrationContext,
    Registry,
    RetryPolicy,
    RuntimeOptions,
    activity,
    orchestration,
)
from duroxide.providers.base import Provider
from duroxide_pg.wakeups import SAFETY_S
from tests.provider.postgres_store import installed_dsn
from tests.provider.test_client_features import client, store

__all__ = ["client", "installed_dsn", "store"]


async def test_sessions_that_are_put_off_begin_as_soon_as_there_is_room(
    store: Provider, client: AsyncClient
) -> None:
    """Each is held idle between its attempts, and one at a time may be in flight."""
    seen: list[int] = []

    @activity
    async def visit(number: int) -> int:
        seen.append(number)
        if seen.count(number) < 3:
            raise ValueError("not yet")
        return number

    @orchestration
    async def visiting(ctx: OrchestrationContext, number: int) -> int:
        retry = RetryPolicy(max_attempts=3, backoff=NoBackoff())
        return await ctx.call(visit, number, session=f"s{number % 3}", retry=retry)

    options = RuntimeOptions(max_sessions_per_runtime=1)
    async with AsyncRuntime(store, Registry().add(visiting, visit), options):
        ids = [await client.start(visiting, number) for number in range(9)]
        async with asyncio.timeout(SAFETY_S):  # a poll that nobody wakes looks that seldom
            results = [await client.result(i, timeout=timedelta(minutes=1)) for i in ids]
    assert results == list(range(9))
