"""Seeded trouble around a runtime: latency, lost replies, failures and crashes, in virtual time.

    async def scenario(world: World) -> None:
        client = await world.client()
        async with world.worker(registry):
            await client.start(order, instance_id="i1")
            await client.wait("i1")

    simulate(scenario, seed=7)

The same seed gives the same schedule, so a failure is repeated by its seed.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from duroxide.client import AsyncClient
from duroxide.errors import ProviderError
from duroxide.providers.base import (
    ActivityPoll,
    CommitItem,
    CommitResult,
    EagerDispatch,
    Renewal,
    TurnPoll,
)
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import Registry
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.testing.virtualtime import LoopClock, run_virtual

T = TypeVar("T")

PATIENCE_S = 30 * 24 * 3600.0  # of virtual time


class UnreliableProvider(MemoryProvider):
    """A connection to a store that may fail before a call is made, or after it was.

    Args:
        store: whose data it works on.
        draw: decides everything.
        failure_rate: of the calls; half of those that fail have nevertheless happened.
        latency_s: the longest.
    """

    def __init__(
        self,
        store: MemoryProvider,
        draw: random.Random,
        *,
        failure_rate: float = 0.05,
        latency_s: float = 0.02,
    ) -> None:
        self.__dict__.update(store.__dict__)  # the same tables, the same waiting
        self._behind = store
        self._draw = draw
        self.failure_rate = failure_rate
        self._latency_s = latency_s
        self.is_cut_off = False

    async def _unreliably(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        await asyncio.sleep(self._draw.uniform(0, self._latency_s))
        if self.is_cut_off or self._draw.random() < self.failure_rate / 2:
            raise ProviderError(operation, "connection refused", retryable=True)
        answer = await call()
        await asyncio.sleep(self._draw.uniform(0, self._latency_s))
        if self.is_cut_off or self._draw.random() < self.failure_rate / 2:
            raise ProviderError(operation, "connection lost", retryable=True)
        return answer

    async def poll_turns(self, **question: Any) -> TurnPoll:
        return await self._unreliably("poll_turns", lambda: self._behind.poll_turns(**question))

    async def poll_activities(self, **question: Any) -> ActivityPoll:
        return await self._unreliably(
            "poll_activities", lambda: self._behind.poll_activities(**question)
        )

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        return await self._unreliably("commit", lambda: self._behind.commit(batch, eager=eager))

    async def renew(self, **tokens: Any) -> Renewal:
        return await self._unreliably("renew", lambda: self._behind.renew(**tokens))

    def wake(self, *, turns: bool = False, activities: bool = False) -> None:
        self._behind.wake(turns=turns, activities=activities)


class World:
    """One store, and workers that come and go."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        tokens = itertools.count(1)
        self.store = MemoryProvider(LoopClock(), new_token=lambda: f"token-{next(tokens)}")
        self._workers = itertools.count(1)

    async def client(self) -> AsyncClient:
        """A client whose own calls are reliable."""
        return AsyncClient(self.store)

    def connection(self, *, failure_rate: float = 0.05) -> UnreliableProvider:
        return UnreliableProvider(
            self.store, random.Random(self.draw.random()), failure_rate=failure_rate
        )

    @asynccontextmanager
    async def worker(
        self, registry: Registry, *, failure_rate: float = 0.05, **options: Any
    ) -> AsyncIterator[AsyncRuntime]:
        """A runtime that drains at the end."""
        runtime = self.runtime(registry, failure_rate=failure_rate, **options)
        async with runtime:
            yield runtime

    def runtime(
        self, registry: Registry, *, failure_rate: float = 0.05, **options: Any
    ) -> AsyncRuntime:
        name = f"worker-{next(self._workers)}"
        seeds = random.Random(self.draw.random())
        return AsyncRuntime(
            self.connection(failure_rate=failure_rate),
            registry,
            RuntimeOptions(**{"worker_node_id": name, **options}),
            new_seed=lambda: f"{seeds.getrandbits(128):032x}",
            draw=seeds,
        )

    async def crash(self, runtime: AsyncRuntime) -> None:
        """End a runtime as SIGKILL would: nothing more of it reaches the store."""
        connection = runtime.provider
        assert isinstance(connection, UnreliableProvider)
        connection.is_cut_off = True
        await runtime.stop()


def simulate(scenario: Callable[[World], Coroutine[Any, Any, None]], seed: int) -> None:
    """Run the scenario; a failure says which seed repeats it.

    Raises:
        AssertionError: it failed, or did not end in a month of virtual time.
    """

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scenario(World(seed))

    try:
        run_virtual(run())
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
