"""How often an idle system asks PostgreSQL, and that it still notices what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from benchmarks.servers import CountingProvider
from benchmarks.workloads import chain, listener, registry
from duroxide.client import AsyncClient
from duroxide.clock import SystemClock
from duroxide.providers.base import Enqueue, LeasedTurn, Message, MessageKind
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.runtime.watching import LOOK_AGAIN_MS
from duroxide.state import ExecutionStatus
from duroxide_pg import wakeups
from duroxide_pg.waiting import SHORTEST_POLL_S
from duroxide_pg.wakeups import PATIENCE_S
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]

LONG_MS = 20_000
SOON_S = 5.0  # long before it would look by itself, and before the end of the poll


@pytest_asyncio.fixture
async def provider(installed_dsn: str) -> AsyncIterator[CountingProvider]:
    empty(installed_dsn)
    provider = CountingProvider(installed_dsn)
    await provider.start()
    async with asyncio.timeout(SOON_S):
        while not provider._wakeups.is_listening:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
    yield provider
    await provider.close()


async def send(provider: CountingProvider, instance_id: str, *, in_ms: int = 0) -> None:
    message = Message(
        instance_id=instance_id,
        kind=MessageKind.START,
        body="start",
        visible_at_ms=SystemClock().now_ms() + in_ms if in_ms else None,
    )
    await provider.commit([Enqueue(message=message)])


async def poll(provider: CountingProvider) -> list[LeasedTurn]:
    answer = await provider.poll_turns(worker="w", want=9, lease_ms=60_000, wait_ms=LONG_MS)
    return list(answer.turns)


async def test_an_instance_of_one_activity_takes_seven_requests(provider: CountingProvider) -> None:
    """Three commits, a poll, two reads of who waits for the end, and telling others of it."""
    counts = []
    async with AsyncRuntime(provider, registry()):
        client = AsyncClient(provider)
        for number in range(30):
            before = provider.requests
            await client.start(chain, 1, instance_id=f"i{number}")
            await client.wait(f"i{number}")
            counts.append(provider.requests - before)
    assert min(counts) <= 7, counts  # a slow machine is told of more, and looks more often


async def test_that_an_instance_has_begun_is_told_also_after_a_rest(
    provider: CountingProvider,
) -> None:
    provider._wakeups.began(["who rests before it is told"])
    await provider.rest()
    await provider.start()
    async with AsyncRuntime(provider, registry()), AsyncClient(provider) as client:
        running = client.wait_until("late", lambda s: s.status is ExecutionStatus.RUNNING)
        waiting = asyncio.create_task(running)
        await asyncio.sleep(0.3)  # by then it waits to be told
        await client.start(listener, 1, instance_id="late")
        async with asyncio.timeout(LOOK_AGAIN_MS / 1000 / 2):
            await waiting


class TestAfterAPollThatLeftNothingBehind:
    @pytest_asyncio.fixture(autouse=True)
    async def _has_been_emptied(self, provider: CountingProvider) -> None:
        waiting = asyncio.create_task(poll(provider))
        await asyncio.sleep(0.1)
        await send(provider, "first")
        assert len(await waiting) == 1

    async def test_the_next_poll_waits_before_it_looks(self, provider: CountingProvider) -> None:
        before = provider.requests
        waiting = asyncio.create_task(poll(provider))
        await asyncio.sleep(PATIENCE_S)
        assert provider.requests == before
        waiting.cancel()

    async def test_a_message_of_this_process_ends_the_wait(
        self, provider: CountingProvider
    ) -> None:
        waiting = asyncio.create_task(poll(provider))
        await asyncio.sleep(0)
        await send(provider, "second")
        async with asyncio.timeout(SOON_S):
            assert [turn.instance_id for turn in await waiting] == ["second"]

    async def test_a_message_between_the_polls_is_noticed(self, provider: CountingProvider) -> None:
        await send(provider, "second")
        async with asyncio.timeout(SOON_S):
            assert [turn.instance_id for turn in await poll(provider)] == ["second"]

    @pytest.mark.parametrize("pause_s", [0, PATIENCE_S / 2, SHORTEST_POLL_S])
    async def test_a_message_of_another_process_is_noticed(
        self, provider: CountingProvider, installed_dsn: str, pause_s: float
    ) -> None:
        other = CountingProvider(installed_dsn)
        await other.start()
        waiting = asyncio.create_task(poll(provider))
        await asyncio.sleep(pause_s)
        await send(other, "second")
        async with asyncio.timeout(SOON_S):
            assert [turn.instance_id for turn in await waiting] == ["second"]
        await other.close()

    async def test_what_becomes_due_is_not_late(self, provider: CountingProvider) -> None:
        await send(provider, "later", in_ms=400)
        assert [turn.instance_id for turn in await poll(provider)] == ["later"]
        await send(provider, "third", in_ms=400)
        await send(provider, "second")
        assert [turn.instance_id for turn in await poll(provider)] == ["second"]
        async with asyncio.timeout(SOON_S):  # from what the last poll said is due
            assert [turn.instance_id for turn in await poll(provider)] == ["third"]

    async def test_a_poll_that_must_not_wait_looks(self, provider: CountingProvider) -> None:
        before = provider.requests
        answer = await provider.poll_turns(worker="w", want=9, lease_ms=60_000)
        assert answer.turns == ()
        assert provider.requests == before + 1


async def test_what_another_process_has_put_off_is_taken_when_it_is_due(
    installed_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one may be gone by then, or be one that can't take it, and put it off again and again."""
    monkeypatch.setattr(wakeups, "SAFETY_S", 1.5)
    empty(installed_dsn)
    idle, other = CountingProvider(installed_dsn), CountingProvider(installed_dsn)
    await idle.start()
    await other.start()
    polling = asyncio.create_task(poll(idle))
    await asyncio.sleep(0.5)
    await send(other, "i1", in_ms=1_500)  # it looks a second from now, and then half a second early
    (turn,) = await polling
    assert turn.waited_ms < 800, "it came when the idle process looked the next time"
    await idle.close()
    await other.close()
