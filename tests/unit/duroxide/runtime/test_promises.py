"""What a runtime promises while its store answers late, or not at all."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from duroxide import history
from duroxide.activity_context import ActivityContext
from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.errors import ProviderError
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import define_activity
from duroxide.state import ExecutionStatus
from duroxide.testing.virtualtime import LoopClock, run_virtual
from tests.unit.duroxide.runtime.test_residents import KeepsAReply
from tests.unit.duroxide.runtime.test_runtime import working

T = TypeVar("T")

HOUR = timedelta(hours=1)
TURN_LEASE_S, ACTIVITY_LEASE_S = 10, 30


class Outages(MemoryProvider):
    """A store that can't be reached for a while; `is_away` names the operations that fail."""

    is_away: frozenset[str] = frozenset()
    failures = 0

    async def _reach(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        if operation in self.is_away:
            self.failures += 1
            raise ProviderError(operation, "connection refused", retryable=True)
        return await call()

    async def poll_turns(self, **question: Any) -> Any:
        ask = super().poll_turns
        return await self._reach("poll_turns", lambda: ask(**question))

    async def poll_activities(self, **question: Any) -> Any:
        ask = super().poll_activities
        return await self._reach("poll_activities", lambda: ask(**question))

    async def commit(self, batch: Any, **more: Any) -> Any:
        ask = super().commit
        return await self._reach("commit", lambda: ask(batch, **more))

    async def renew(self, **tokens: Any) -> Any:
        ask = super().renew
        return await self._reach("renew", lambda: ask(**tokens))


ALL = frozenset({"poll_turns", "poll_activities", "commit", "renew"})


@pytest.mark.parametrize("away", [ALL, *(frozenset({one}) for one in sorted(ALL))])
def test_an_outage_shorter_than_the_leases_cancels_and_fails_nothing(away: frozenset[str]) -> None:
    attempts: list[int] = []
    heard: list[bool] = []

    @activity
    async def long(ctx: ActivityContext) -> str:
        attempts.append(ctx.attempt)
        await asyncio.sleep(45)
        heard.append(ctx.is_cancelled())
        return "done"

    @activity
    async def short(ctx: ActivityContext) -> str:
        attempts.append(ctx.attempt)
        return "quick"

    @orchestration
    async def both(ctx: OrchestrationContext) -> list[str]:
        slow = ctx.call(long)
        quick = []
        for _ in range(20):
            await ctx.sleep(2)
            quick.append(str(await ctx.call(short)))
        return [*quick, str(await slow)]

    async def scenario() -> None:
        store = Outages(LoopClock())
        async with working(both, long, short, provider=store) as (client, _):
            instance = await client.start(both)
            for _ in range(5):  # five times 5 s of 8: each lease is renewed in between
                await asyncio.sleep(3)
                store.is_away = away
                await asyncio.sleep(5)
                store.is_away = frozenset()
            assert await client.result(instance, timeout=HOUR) == [*["quick"] * 20, "done"]
            assert store.failures > 0
        assert attempts == [1] * 21, "nothing was run again"
        assert heard == [False]

    run_virtual(scenario())


def test_an_outage_that_outlasts_all_leases_fails_nothing_either() -> None:
    @activity
    async def long(ctx: ActivityContext) -> int:
        await asyncio.sleep(20)
        return ctx.attempt

    @orchestration
    async def patient(ctx: OrchestrationContext) -> int:
        return int(await ctx.call(long))

    async def scenario() -> None:
        store = Outages(LoopClock())
        async with working(patient, long, provider=store) as (client, _):
            instance = await client.start(patient)
            await asyncio.sleep(1)
            store.is_away = ALL
            await asyncio.sleep(600)
            store.is_away = frozenset()
            state = await client.wait(instance, HOUR)
            assert state.status is ExecutionStatus.COMPLETED
            events = await client.history(instance)
            assert [event.event_id for event in events] == list(range(1, len(events) + 1))
            done = [e for e in events if isinstance(e.kind, history.ActivityCompleted)]
            assert len(done) == 1

    run_virtual(scenario())


def test_activities_come_with_an_answer_that_outlasted_the_lease_of_its_turn() -> None:
    began: list[tuple[float, int]] = []

    @activity
    async def begin(ctx: ActivityContext) -> str:
        began.append((asyncio.get_running_loop().time(), ctx.attempt))
        return "begun"

    @orchestration
    async def patient(ctx: OrchestrationContext) -> list[str]:
        return [str(text) for text in await ctx.gather(*(ctx.call(begin) for _ in range(3)))]

    async def scenario() -> None:
        store = KeepsAReply(LoopClock())
        async with working(patient, begin, provider=store) as (client, _):
            store.reply = reply = asyncio.Event()
            instance = await client.start(patient)
            await asyncio.sleep(1)
            assert store.holds(reply), "the turn is written, its activities are leased to us"
            store.lose()
            await asyncio.sleep(TURN_LEASE_S)  # the renewal has been told that the lease is gone
            answered = asyncio.get_running_loop().time()
            reply.set()
            assert await client.result(instance, timeout=HOUR) == ["begun"] * 3
            assert [attempt for _, attempt in began] == [1, 1, 1]
            # Not only when their own leases have run out.
            assert max(at for at, _ in began) - answered < 1 < ACTIVITY_LEASE_S - TURN_LEASE_S

    run_virtual(scenario())


def test_tasks_of_a_runtime_are_not_collected_while_they_wait() -> None:
    """asyncio itself refers to tasks only weakly."""
    release: list[asyncio.Event] = []

    @activity
    async def waiting() -> str:
        event = asyncio.Event()
        release.append(event)
        await event.wait()
        return "done"

    @orchestration
    async def several(ctx: OrchestrationContext) -> int:
        return len(await ctx.gather(*(ctx.call(waiting) for _ in range(5))))

    async def scenario() -> None:
        async with working(several, waiting, provider=MemoryProvider(LoopClock())) as (client, _):
            instance = await client.start(several)
            await asyncio.sleep(1)
            known = weakref.WeakSet(asyncio.all_tasks())
            before = len(known)
            gc.collect()
            assert len(known) == before
            assert len(release) == 5
            for event in release:
                event.set()
            assert await client.result(instance) == 5

    run_virtual(scenario())


def exits_hard(number: int) -> int:
    os._exit(number)


def adds_one(number: int) -> int:
    return number + 1


async def test_a_process_that_dies_fails_its_activity_and_not_the_worker() -> None:
    @orchestration
    async def risky(ctx: OrchestrationContext) -> str:
        try:
            await ctx.call(dies, 1)
        except Exception as error:
            return f"{await ctx.call(lives, 1)} after {type(error).__name__}"
        return "it did not die"

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as one, ProcessPoolExecutor(1, spawn) as other:
        dies = define_activity(exits_hard, name="dies", executor=one)
        lives = define_activity(adds_one, name="lives", executor=other)
        async with working(risky, dies, lives, provider=MemoryProvider()) as (client, _):
            assert await client.result(await client.start(risky)) == "2 after ActivityError"
