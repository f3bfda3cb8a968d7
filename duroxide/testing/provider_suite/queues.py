"""What is delivered, when, and in which order."""

from __future__ import annotations

from duroxide.providers.base import CommitCode, MessageKind
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
    message,
)


class QueueSuite(SuiteBase):
    async def test_worker_queue_fifo_ordering(self, store: StoreDriver) -> None:
        await store.schedule(*(activity("i1", number) for number in range(2, 7)))
        order = [(await store.lease_activity()).activity_id for _ in range(5)]
        assert order == [2, 3, 4, 5, 6]

    async def test_a_poll_takes_no_more_activities_than_it_wants(self, store: StoreDriver) -> None:
        await store.schedule(*(activity("i1", number) for number in range(2, 7)))
        assert [a.activity_id for a in await store.poll_activities(2)] == [2, 3]
        assert [a.activity_id for a in await store.poll_activities(9)] == [4, 5, 6]

    async def test_worker_peek_lock_semantics(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        assert await store.poll_activities() == ()
        await store.finish(leased)
        store.clock.advance(LEASE_MS)
        assert await store.poll_activities() == ()

    async def test_worker_ack_atomicity(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        assert await store.finish(await store.lease_activity(), "result") is CommitCode.APPLIED
        turn = await store.lease("i1")
        assert bodies(turn) == ["result"]
        assert [received.kind for received in turn.messages] == [MessageKind.ACTIVITY]

    async def test_an_activity_is_finished_once(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        assert await store.finish(leased) is CommitCode.APPLIED
        assert await store.finish(leased) is CommitCode.LEASE_LOST
        assert len((await store.lease("i1")).messages) == 1

    async def test_an_activity_keeps_what_was_scheduled(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        assert (leased.instance_id, leased.execution_id, leased.activity_id) == ("i1", 1, 2)
        assert (leased.body, leased.tag, leased.session_id) == ("i1#2", None, None)

    async def test_timer_delayed_visibility(self, store: StoreDriver) -> None:
        await store.running("i1")
        due_ms = store.now_ms() + 5_000
        await store.send("i1", "timer", kind=MessageKind.TIMER, visible_at_ms=due_ms)
        assert await store.poll() == ()
        await store.send("i1", "event")
        now = await store.lease("i1")
        assert bodies(now) == ["event"]
        await store.commit_turn(now)
        store.clock.advance(4_999)
        assert await store.poll() == ()
        store.clock.advance(1)
        assert bodies(await store.lease("i1")) == ["timer"]

    async def test_a_timer_in_the_past_is_due_at_once(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send(
            "i1", "timer", kind=MessageKind.TIMER, visible_at_ms=store.now_ms() - 5_000
        )
        assert bodies(await store.lease("i1")) == ["timer"]

    async def test_a_cancelled_timer_never_comes(self, store: StoreDriver) -> None:
        await store.start("i1")
        due_ms = store.now_ms() + 1_000

        def timer(event_id: int) -> object:
            return message(
                "i1",
                f"timer {event_id}",
                kind=MessageKind.TIMER,
                visible_at_ms=due_ms,
                timer=(1, event_id),
            )

        await store.commit_turn(await store.lease("i1"), 3, messages=(timer(2), timer(3)))
        await store.send("i1", "event")
        await store.commit_turn(await store.lease("i1"), cancelled_timers=(2, 99))
        store.clock.advance(1_000)
        assert bodies(await store.lease("i1")) == ["timer 3"]

    async def test_a_timer_of_an_earlier_execution_is_not_cancelled_by_its_number(
        self, store: StoreDriver
    ) -> None:
        await store.start("i1")
        first = message(
            "i1",
            "first",
            kind=MessageKind.TIMER,
            visible_at_ms=store.now_ms() + 1_000,
            timer=(1, 2),
        )
        leased = await store.lease("i1")
        await store.commit_turn(leased, 2, messages=(first,))
        await store.send("i1", "next", kind=MessageKind.CONTINUE_AS_NEW)
        leased = await store.lease("i1")
        await store.commit_turn(leased, 2, execution_id=2, first_event_id=1, cancelled_timers=(2,))
        store.clock.advance(1_000)
        assert bodies(await store.lease("i1")) == ["first"]

    async def test_lost_lock_token_handling(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        await store.lease_activity()
        store.clock.advance(LEASE_MS - 1)
        assert await store.poll_activities() == ()
        store.clock.advance(1)
        assert (await store.lease_activity()).activity_id == 2

    async def test_worker_item_immediate_visibility(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        await store.lease_activity()

    async def test_worker_delayed_visibility_skips_future_items(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2), activity("i1", 3))
        first = await store.lease_activity()
        await store.abandon_activity(first, delay_ms=1_000)
        assert (await store.lease_activity()).activity_id == 3
        assert await store.poll_activities() == ()
        store.clock.advance(1_000)
        assert (await store.lease_activity()).activity_id == 2

    @confirms("orphans_block_nobody")
    async def test_messages_for_nobody_do_not_block_others(self, store: StoreDriver) -> None:
        kinds = (MessageKind.EVENT, MessageKind.QUEUE, MessageKind.CANCEL, MessageKind.TIMER)
        for number, kind in enumerate(kinds):
            await store.send(f"orphan{number}", "lost", kind=kind)
        await store.start("i1")
        assert "i1" in [turn.instance_id for turn in await store.poll(10)]

    async def test_messages_sent_before_the_start_come_with_it(self, store: StoreDriver) -> None:
        await store.send("i1", "early", kind=MessageKind.QUEUE)
        early = await store.lease("i1")
        assert (early.execution_id, early.next_event_id, early.name) == (1, 1, None)
        await store.abandon(early, delay_ms=100, count_attempt=False)
        store.clock.advance(100)
        await store.start("i1")
        turn = await store.lease("i1")
        assert bodies(turn) == ["early", "start"]
        assert turn.attempt_count == 1

    async def test_instances_are_taken_by_their_oldest_message(self, store: StoreDriver) -> None:
        for name in ("b", "a", "c"):
            await store.start(name)
            store.clock.advance(1)
        await store.send("b", "more")
        assert [turn.instance_id for turn in await store.poll()] == ["b", "a", "c"]

    @confirms("pending_timers_cost_nothing")
    async def test_many_pending_timers_do_not_hide_what_is_due(self, store: StoreDriver) -> None:
        await store.start("sleeper")
        leased = await store.lease("sleeper")
        later_ms = store.now_ms() + 3_600_000
        timers = tuple(
            message("sleeper", "zzz", kind=MessageKind.TIMER, visible_at_ms=later_ms, timer=(1, n))
            for n in range(2, 1_002)
        )
        await store.commit_turn(leased, 1_001, messages=timers)
        await store.start("i1")
        assert [turn.instance_id for turn in await store.poll()] == ["i1"]
