"""A poll returns at once, or waits as long as it was told and no longer than needed."""

from __future__ import annotations

import asyncio
from typing import Any

from duroxide.providers.base import MessageKind
from duroxide.state import SetCustomStatus
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
)

SOON_S = 5.0  # far more than a waiting poll needs to notice; a failing one takes as long


async def stays_pending(poll: asyncio.Task[Any], store: StoreDriver, for_ms: int) -> None:
    """Let the time pass of which a poll may not yet tire, in three steps."""
    for step in (1, for_ms // 2, for_ms - for_ms // 2 - 1):
        await asyncio.wait((poll,), timeout=0.02)
        assert not poll.done(), "the poll has not waited as long as it was told"
        store.clock.advance(step)
    await asyncio.wait((poll,), timeout=0.02)
    assert not poll.done(), "the poll has not waited as long as it was told"


class PollingSuite(SuiteBase):
    async def test_short_poll_returns_immediately(self, store: StoreDriver) -> None:
        async with asyncio.timeout(SOON_S):
            assert await store.poll(wait_ms=0) == ()

    async def test_short_poll_work_item_returns_immediately(self, store: StoreDriver) -> None:
        async with asyncio.timeout(SOON_S):
            assert await store.poll_activities(wait_ms=0) == ()

    async def test_a_poll_that_wants_nothing_takes_nothing(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        await store.send("i1", "more")
        assert await store.poll(0) == ()
        assert await store.poll_activities(0) == ()
        assert (await store.lease_activity()).attempt_count == 1
        assert (await store.lease("i1")).attempt_count == 1

    async def test_who_wants_more_than_there_can_be_gets_what_there_is(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        await store.send("i1", "more")
        (turn,) = (await store.provider.poll_turns(worker="w", want=2**63, lease_ms=LEASE_MS)).turns
        (leased,) = (
            await store.provider.poll_activities(worker="w", want=2**63, lease_ms=LEASE_MS)
        ).activities
        assert (turn.instance_id, leased.activity_id) == ("i1", 2)

    async def test_a_poll_says_what_time_it_is(self, store: StoreDriver) -> None:
        turns = await store.provider.poll_turns(worker="w", want=1, lease_ms=LEASE_MS)
        activities = await store.provider.poll_activities(worker="w", want=1, lease_ms=LEASE_MS)
        assert (turns.now_ms, activities.now_ms) == (store.now_ms(), store.now_ms())

    async def test_a_poll_says_how_long_what_it_leases_has_been_due(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        await store.send("i1", "first")
        store.clock.advance(250)
        await store.send("i1", "second")
        store.clock.advance(100)
        assert (await store.lease("i1")).waited_ms == 350
        assert (await store.lease_activity()).waited_ms == 350

    async def test_a_waiting_poll_sees_a_new_message(self, store: StoreDriver) -> None:
        poll = asyncio.create_task(store.poll(wait_ms=60_000))
        await asyncio.sleep(0.01)
        await store.start("i1")
        async with asyncio.timeout(SOON_S):
            turns = await poll
        assert [bodies(turn) for turn in turns] == [["start"]]

    async def test_a_waiting_poll_sees_a_new_activity(self, store: StoreDriver) -> None:
        poll = asyncio.create_task(store.poll_activities(wait_ms=60_000))
        await asyncio.sleep(0.01)
        await store.schedule(activity("i1", 2))
        async with asyncio.timeout(SOON_S):
            leased = await poll
        assert [a.activity_id for a in leased] == [2]

    async def test_long_poll_waits_for_timeout(self, store: StoreDriver) -> None:
        poll = asyncio.create_task(store.poll(wait_ms=500))
        await stays_pending(poll, store, 499)
        store.clock.advance(1)
        async with asyncio.timeout(SOON_S):
            assert await poll == ()

    async def test_long_poll_work_item_waits_for_timeout(self, store: StoreDriver) -> None:
        poll = asyncio.create_task(store.poll_activities(wait_ms=500))
        await stays_pending(poll, store, 499)
        store.clock.advance(1)
        async with asyncio.timeout(SOON_S):
            assert await poll == ()

    @confirms("test_fetch_respects_timeout_upper_bound")
    async def test_a_waiting_poll_ends_when_its_time_is_over(self, store: StoreDriver) -> None:
        poll = asyncio.create_task(store.poll(wait_ms=500))
        activities = asyncio.create_task(store.poll_activities(wait_ms=500))
        await asyncio.sleep(0.01)
        store.clock.advance(300)
        store.clock.advance(200)
        async with asyncio.timeout(SOON_S):
            assert await poll == ()
            assert await activities == ()

    async def test_a_woken_poll_returns_with_nothing(self, store: StoreDriver) -> None:
        poll = asyncio.create_task(store.poll(wait_ms=60_000))
        activities = asyncio.create_task(store.poll_activities(wait_ms=60_000))
        await asyncio.sleep(0.01)
        store.provider.wake(turns=True, activities=True)
        async with asyncio.timeout(SOON_S):
            assert await poll == ()
            assert await activities == ()

    async def test_a_poll_says_when_the_next_message_is_due(self, store: StoreDriver) -> None:
        await store.running("i1")
        due_ms = store.now_ms() + 1_234
        await store.send("i1", "timer", kind=MessageKind.TIMER, visible_at_ms=due_ms)
        answer = await store.provider.poll_turns(worker="w", want=1, lease_ms=LEASE_MS)
        expected = due_ms if store.provider.capabilities.next_due else None
        assert answer.next_due_ms in (expected, due_ms)

    async def test_waiting_for_a_change_ends_by_a_change(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "more")
        leased = await store.lease("i1")
        change = asyncio.create_task(store.provider.wait_for_change(["i1"], wait_ms=60_000))
        await asyncio.sleep(0.01)
        await store.commit_turn(leased, custom_status=SetCustomStatus(status="changed"))
        if not store.provider.capabilities.change_feed:
            change.cancel()
            return
        async with asyncio.timeout(SOON_S):
            await change
