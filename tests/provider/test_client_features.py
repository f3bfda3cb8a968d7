"""What clients can do, with workers, on each of the stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest

from duroxide import (
    ActivityContext,
    AsyncClient,
    AsyncRuntime,
    ClientError,
    InstanceNotFound,
    MemoryProvider,
    OrchestrationContext,
    OrchestrationFailed,
    Registry,
    RuntimeOptions,
    SqliteProvider,
    activity,
    orchestration,
)
from duroxide.history import OrchestrationStarted
from duroxide.providers.base import InstanceStatus, Provider, TurnPoll
from duroxide_pg.provider import PostgresProvider
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    provider: Provider
    match request.param:
        case "memory":
            provider = MemoryProvider()
        case "sqlite":
            provider = SqliteProvider.in_memory()
        case _:
            dsn = request.getfixturevalue("installed_dsn")
            empty(dsn)
            provider = PostgresProvider(dsn)
    await provider.start()
    yield provider
    await provider.close()


@pytest.fixture
async def client(store: Provider) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(store) as client:
        yield client


def begun(state: InstanceStatus) -> bool:
    return True


class Gated:
    """A worker's way to a store: nothing new comes through while it is shut."""

    def __init__(self, store: Provider) -> None:
        self.store = store
        self.is_shut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def poll_turns(self, **question: Any) -> TurnPoll:
        while True:
            if self.is_shut:
                question["want"] = 0
            answer = await self.store.poll_turns(**{**question, "wait_ms": 0})
            if answer.turns or self.is_shut or not question["wait_ms"]:
                return answer
            await asyncio.sleep(0.01)


class TestLivesOfAnId:
    async def test_what_one_worker_has_in_memory_is_not_taken_for_what_began_at_another(
        self, store: Provider, client: AsyncClient
    ) -> None:
        @orchestration
        async def echo(ctx: OrchestrationContext, word: str) -> str:
            await ctx.wait_event("go")
            return word

        registry = Registry().add(echo)
        ways = [cast("Any", Gated(store)) for _ in range(2)]
        ways[1].is_shut = True
        options = RuntimeOptions(long_poll_ms=50)
        async with (
            AsyncRuntime(ways[0], registry, options),
            AsyncRuntime(ways[1], registry, options),
        ):
            await client.start(echo, "old", instance_id="e")
            await client.wait_until("e", begun)  # the first worker has it in memory
            ways[0].is_shut, ways[1].is_shut = True, False
            await client.delete("e", force=True)
            await client.start(echo, "new", instance_id="e")
            await client.wait_until("e", begun)
            ways[0].is_shut, ways[1].is_shut = False, True
            await client.raise_event("e", "go")
            assert await client.result("e", echo) == "new"
            (first, *_) = await client.history("e")
            assert isinstance(first.kind, OrchestrationStarted)
            assert first.kind.input == '"new"'


class TestHeartbeats:
    async def test_another_worker_goes_on_where_the_first_one_stopped(
        self, store: Provider, client: AsyncClient
    ) -> None:
        seen: list[Any] = []
        half_way = asyncio.Event()

        @activity
        async def copy(ctx: ActivityContext) -> int:
            seen.append(ctx.last_heartbeat)
            if ctx.last_heartbeat is None:
                ctx.heartbeat({"done": 5, "name": "naïve \\ \n ☃"})
                half_way.set()
                await ctx.cancelled()
            return 10 - int(ctx.last_heartbeat["done"] if ctx.last_heartbeat else 0)

        @orchestration
        async def job(ctx: OrchestrationContext) -> int:
            return await ctx.call(copy)

        registry = Registry().add(job, copy)
        await client.start(job, instance_id="j")
        first = AsyncRuntime(store, registry)
        await first.start()
        await half_way.wait()
        await first.stop()
        async with AsyncRuntime(store, registry):
            assert await client.result("j", job) == 5
        assert seen == [None, {"done": 5, "name": "naïve \\ \n ☃"}]


class TestSuspending:
    async def test_what_comes_meanwhile_is_there_on_resume_in_order(
        self, store: Provider, client: AsyncClient
    ) -> None:
        @orchestration
        async def collects(ctx: OrchestrationContext) -> list[int]:
            mine = ctx.queue("numbers")
            return [int(await mine.get()) for _ in range(3)]

        await client.start(collects, instance_id="c")
        async with AsyncRuntime(store, Registry().add(collects)):
            await client.wait_until("c", begun)
            await client.enqueue("c", "numbers", 1)
            assert await client.suspend("c")
            assert not await client.suspend("c")
            await client.enqueue("c", "numbers", 2)
            await client.enqueue("c", "numbers", 3)
            await client.start(collects, instance_id="other")
            await client.wait_until("other", begun)  # workers are at work
            state = await client.wait_until("c", lambda s: s.suspended_at_ms is not None)
            assert not state.status.is_terminal
        async with AsyncRuntime(store, Registry().add(collects)):  # another one, later
            await client.cancel("other")
            await client.wait("other")
            assert await client.status("c") == state
            assert await client.resume("c")
            assert not await client.resume("c")
            assert await client.result("c", collects) == [1, 2, 3]
            with pytest.raises(ClientError, match="'c' can't be suspended: it has ended"):
                await client.suspend("c")
            for call in (client.suspend, client.resume):
                with pytest.raises(InstanceNotFound, match="'unknown'"):
                    await call("unknown")

    async def test_a_timer_and_an_activity_that_end_meanwhile(
        self, store: Provider, client: AsyncClient
    ) -> None:
        gate, ended = asyncio.Event(), asyncio.Event()

        @activity
        async def slow() -> str:
            await gate.wait()
            ended.set()
            return "done"

        @orchestration
        async def both(ctx: OrchestrationContext) -> str:
            work = ctx.call(slow)
            await ctx.sleep(timedelta(milliseconds=10))
            return await work

        async with AsyncRuntime(store, Registry().add(slow, both)):
            await client.start(both, instance_id="b")
            await client.wait_until("b", begun)
            await client.suspend("b")
            before = await client.history("b")
            gate.set()
            await ended.wait()
            await client.start(both, instance_id="other")
            await client.result("other", both)
            assert await client.history("b") == before
            await client.resume("b")
            assert await client.result("b", both) == "done"

    async def test_cancelling_what_is_suspended_ends_it(
        self, store: Provider, client: AsyncClient
    ) -> None:
        @orchestration
        async def waits(ctx: OrchestrationContext) -> None:
            await ctx.wait_event("never")

        async with AsyncRuntime(store, Registry().add(waits)):
            await client.start(waits, instance_id="w")
            await client.wait_until("w", begun)
            await client.suspend("w")
            await client.cancel("w", "no need")
            with pytest.raises(OrchestrationFailed, match="no need"):
                await client.result("w")
