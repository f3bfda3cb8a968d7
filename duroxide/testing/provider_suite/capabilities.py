"""What a store may do beyond the minimum; each is checked only where the store declares it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import pytest

from duroxide.ids import ActivityToken
from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    CommitCode,
    Cursor,
    EagerDispatch,
    HeartbeatStore,
    LeasedActivity,
    LeasedTurn,
    MessageKind,
    TagMode,
    TagSelection,
)
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    WORKER,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
    event,
    message,
    new_execution,
)


def needs(store: StoreDriver, capability: str) -> None:
    if not getattr(store.provider.capabilities, capability):
        pytest.skip(f"the provider does not declare {capability}")


def eager(limit: int, tags: TagSelection | None = None) -> EagerDispatch:
    return EagerDispatch(worker=WORKER, limit=limit, lease_ms=LEASE_MS, tags=tags or TagSelection())


class HistorySuffixSuite(SuiteBase):
    async def waiting(self, store: StoreDriver) -> None:
        """An instance with three events and a message."""
        needs(store, "history_suffix")
        await store.start("i1")
        await store.commit_turn(await store.lease("i1"), 3)
        await store.send("i1", "more")

    async def test_a_known_history_is_not_sent_again(self, store: StoreDriver) -> None:
        await self.waiting(store)
        leased = await store.lease("i1", known={"i1": Cursor(1, 3)})
        assert (leased.history, leased.history_after, leased.next_event_id) == ((), 3, 4)

    async def test_only_what_is_missing_is_sent(self, store: StoreDriver) -> None:
        await self.waiting(store)
        await store.commit_turn(await store.lease("i1"), 2)
        await store.send("i1", "more")
        leased = await store.lease("i1", known={"i1": Cursor(1, 3)})
        assert leased.next_event_id == 6
        if leased.history_after:
            assert (leased.history_after, leased.history) == (3, (event(4), event(5)))
        else:
            assert len(leased.history) == 5

    async def test_a_cursor_of_another_execution_counts_for_nothing(
        self, store: StoreDriver
    ) -> None:
        await self.waiting(store)
        leased = await store.lease("i1", known={"i1": Cursor(2, 3)})
        assert (leased.history_after, len(leased.history)) == (0, 3)

    async def test_a_cursor_ahead_of_the_store_counts_for_nothing(self, store: StoreDriver) -> None:
        await self.waiting(store)
        leased = await store.lease("i1", known={"i1": Cursor(1, 4)})
        assert (leased.history_after, len(leased.history)) == (0, 3)

    async def test_cursors_of_others_do_not_matter(self, store: StoreDriver) -> None:
        await self.waiting(store)
        leased = await store.lease("i1", known={"i2": Cursor(1, 3), "nobody": Cursor(1, 1)})
        assert (leased.history_after, len(leased.history)) == (0, 3)


class StickyLeaseSuite(SuiteBase):
    async def kept(self, store: StoreDriver, keep_ms: int = LEASE_MS) -> LeasedTurn:
        """An instance whose first turn is committed and whose lease is kept."""
        needs(store, "sticky_lease")
        await store.start("i1")
        leased = await store.lease("i1")
        await store.commit_turn(leased, keep_lease_ms=keep_ms)
        return leased

    async def test_what_came_while_a_turn_was_written_comes_once(self, store: StoreDriver) -> None:
        leased = await self.kept(store)
        await store.send("i1", "first")
        (turn,) = await store.poll(held=[leased.token])
        await store.send("i1", "second")
        (meanwhile,) = await store.poll(held=[leased.token])
        assert bodies(meanwhile) == ["second"]
        await store.commit_turn(turn, keep_lease_ms=LEASE_MS)
        assert await store.poll(held=[leased.token]) == ()
        await store.send("i1", "third")
        (last,) = await store.poll(held=[leased.token])
        assert bodies(last) == ["third"]
        both = tuple(m.message_id for m in (*meanwhile.messages, *last.messages))
        after = store.turn(last, first_event_id=3, consumed=both)
        assert await store.code(after) is CommitCode.APPLIED
        store.clock.advance(LEASE_MS)
        assert await store.poll() == ()

    async def test_a_kept_instance_is_not_given_to_others(self, store: StoreDriver) -> None:
        await self.kept(store)
        await store.send("i1", "more")
        assert await store.poll() == ()

    async def test_new_messages_come_under_the_kept_lease(self, store: StoreDriver) -> None:
        leased = await self.kept(store)
        await store.send("i1", "more")
        again = await store.lease("i1", held=[leased.token])
        assert (again.token, bodies(again), again.attempt_count) == (leased.token, ["more"], 1)
        assert again.next_event_id == 2
        assert await store.poll(held=[leased.token]) == (), "each message is given once"
        await store.commit_turn(again, new=None, keep_lease_ms=LEASE_MS)
        assert await store.event_ids("i1") == [1, 2]

    async def test_a_kept_lease_ends_like_any_other(self, store: StoreDriver) -> None:
        leased = await self.kept(store)
        await store.send("i1", "more")
        store.clock.advance(LEASE_MS)
        other = await store.lease("i1")
        assert other.token != leased.token
        late = dataclasses.replace(store.turn(other), token=leased.token)
        assert await store.code(late) is CommitCode.LEASE_LOST

    async def test_keeping_sets_the_length_anew(self, store: StoreDriver) -> None:
        await self.kept(store, 2 * LEASE_MS)
        await store.send("i1", "more")
        store.clock.advance(2 * LEASE_MS - 1)
        assert await store.poll() == ()
        store.clock.advance(1)
        await store.lease("i1")

    async def test_a_kept_lease_can_be_given_back(self, store: StoreDriver) -> None:
        leased = await self.kept(store)
        await store.send("i1", "more")
        give_back = AbandonTurn(instance_id="i1", token=leased.token, count_attempt=False)
        assert await store.code(give_back) is CommitCode.APPLIED
        assert (await store.lease("i1")).attempt_count == 1

    async def test_a_turn_on_a_kept_lease_needs_no_message(self, store: StoreDriver) -> None:
        leased = await self.kept(store)
        turn = store.turn(leased, 2, first_event_id=2, consumed=())
        assert await store.code(turn) is CommitCode.APPLIED
        assert await store.event_ids("i1") == [1, 2, 3]

    async def test_a_repeated_turn_on_a_kept_lease_is_recognised(self, store: StoreDriver) -> None:
        leased = await self.kept(store)
        turn = store.turn(leased, 2, first_event_id=2, consumed=(), keep_lease_ms=LEASE_MS)
        assert await store.code(turn) is CommitCode.APPLIED
        assert await store.code(turn) is CommitCode.REPEATED
        assert await store.event_ids("i1") == [1, 2, 3]

    async def test_an_ended_instance_keeps_no_lease(self, store: StoreDriver) -> None:
        needs(store, "sticky_lease")
        await store.start("i1")
        leased = await store.lease("i1")
        await store.commit_turn(leased, status=ExecutionStatus.COMPLETED, output="x")
        await store.send("i1", "late")
        await store.lease("i1")

    async def test_a_new_execution_after_a_kept_lease(self, store: StoreDriver) -> None:
        needs(store, "sticky_lease")
        await store.start("i1")
        leased = await store.lease("i1")
        again = message("i1", "again", kind=MessageKind.CONTINUE_AS_NEW)
        await store.commit_turn(
            leased,
            status=ExecutionStatus.CONTINUED_AS_NEW,
            output="next",
            messages=(again,),
            keep_lease_ms=LEASE_MS,
        )
        following = await store.lease("i1", held=[leased.token])
        assert (following.token, bodies(following)) == (leased.token, ["again"])
        await store.commit_turn(following, 2, execution_id=2, first_event_id=1, new=new_execution())
        assert await store.event_ids("i1") == [1, 2]
        assert (await store.status("i1")).execution_id == 2


class EagerDispatchSuite(SuiteBase):
    async def test_a_commit_gives_its_own_activities(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("i1")
        turn = store.turn(
            await store.lease("i1"), activities=(activity("i1", 2), activity("i1", 3))
        )
        result = await store.commit(turn, eager=eager(10))
        assert [a.activity_id for a in result.activities] == [2, 3]
        first = result.activities[0]
        assert (first.instance_id, first.execution_id, first.body) == ("i1", 1, "i1#2")
        assert (first.attempt_count, first.expires_at_ms) == (1, store.now_ms() + LEASE_MS)
        assert await store.poll_activities() == ()
        assert await store.finish(first) is CommitCode.APPLIED

    async def test_the_limit_holds_for_the_whole_batch(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("a")
        await store.start("b")
        turns = [
            store.turn(t, activities=tuple(activity(t.instance_id, n) for n in (2, 3)))
            for t in await store.poll()
        ]
        results = await store.provider.commit(turns, eager=eager(3))
        given = [(a.instance_id, a.activity_id) for r in results for a in r.activities]
        assert given == [("a", 2), ("a", 3), ("b", 2)]
        rest = await store.poll_activities()
        assert [(a.instance_id, a.activity_id) for a in rest] == [("b", 3)]

    async def test_tags_decide_and_sessions_are_left_to_the_poll(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("i1")
        turn = store.turn(
            await store.lease("i1"),
            activities=(
                activity("i1", 2),
                activity("i1", 3, tag="gpu"),
                activity("i1", 4, session_id="s"),
            ),
        )
        gpu = TagSelection(TagMode.TAGS, frozenset({"gpu"}))
        result = await store.commit(turn, eager=eager(10, gpu))
        assert [a.activity_id for a in result.activities] == [3]

    async def test_the_room_of_a_tag_holds_for_the_whole_batch(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("a")
        await store.start("b")
        turns = [
            store.turn(
                t,
                activities=(
                    activity(t.instance_id, 2, tag="sql/ann"),
                    activity(t.instance_id, 3, tag="sql/ann"),
                    activity(t.instance_id, 4, tag="sql/bob"),
                    activity(t.instance_id, 5),
                ),
            )
            for t in await store.poll()
        ]

        def room(tag: str) -> Sequence[tuple[str, int]]:
            return ((tag, 1 if tag == "sql/ann" else 9), ("sql", 2))

        offer = dataclasses.replace(eager(10, TagSelection(TagMode.ANY)), room=room)
        results = await store.provider.commit(turns, eager=offer)
        given = [(a.instance_id, a.activity_id) for r in results for a in r.activities]
        assert given == [("a", 2), ("a", 4), ("a", 5), ("b", 5)]

    async def test_an_activity_cancelled_in_the_same_turn_is_not_given(
        self, store: StoreDriver
    ) -> None:
        needs(store, "eager_dispatch")
        await store.start("i1")
        turn = store.turn(
            await store.lease("i1"),
            activities=(activity("i1", 2), activity("i1", 3)),
            cancelled_activities=(2,),
        )
        result = await store.commit(turn, eager=eager(10))
        assert [a.activity_id for a in result.activities] == [3]

    async def test_a_refused_turn_gives_nothing(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("i1")
        turn = store.turn(
            await store.lease("i1"), first_event_id=5, activities=(activity("i1", 2),)
        )
        result = await store.commit(turn, eager=eager(10))
        assert (result.code, result.activities) == (CommitCode.HISTORY_CONFLICT, ())

    async def test_what_was_given_and_lost_comes_by_the_queue(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("i1")
        turn = store.turn(await store.lease("i1"), activities=(activity("i1", 2),))
        await store.commit(turn, eager=eager(1))
        store.clock.advance(LEASE_MS)
        assert (await store.lease_activity()).attempt_count == 2


class FusedCompletionSuite(SuiteBase):
    async def begun(self, store: StoreDriver) -> tuple[LeasedTurn, LeasedActivity]:
        """An instance with two activities, the first one leased, and its next turn leased too."""
        needs(store, "fused_completion")
        await store.schedule(activity("i1", 2), activity("i1", 3))
        leased = await store.lease_activity()
        await store.send("i1", "more")
        return await store.lease("i1"), leased

    async def test_a_turn_ends_activities_and_records_them(self, store: StoreDriver) -> None:
        turn, done = await self.begun(store)
        await store.commit_turn(turn, 2, finished=(done.token,))
        assert await store.event_ids("i1") == [1, 2, 3]
        assert await store.finish(done) is CommitCode.LEASE_LOST
        store.clock.advance(LEASE_MS)
        assert [a.activity_id for a in await store.poll_activities()] == [3]
        assert await store.poll() == (), "no completion message"

    async def test_a_lost_activity_refuses_the_whole_turn(self, store: StoreDriver) -> None:
        turn, done = await self.begun(store)
        await store.finish(done, "by message")
        fused = store.turn(turn, 2, finished=(done.token,))
        assert await store.code(fused) is CommitCode.LEASE_LOST
        assert await store.event_ids("i1") == [1]
        assert await store.abandon(turn) is CommitCode.APPLIED
        assert bodies(await store.lease("i1")) == ["more", "by message"]

    async def test_an_activity_whose_lease_ran_out_refuses_too(self, store: StoreDriver) -> None:
        turn, done = await self.begun(store)
        await store.provider.renew(turns=[turn.token], turn_lease_ms=10 * LEASE_MS)
        store.clock.advance(LEASE_MS)
        fused = store.turn(turn, 2, finished=(done.token,))
        assert await store.code(fused) is CommitCode.LEASE_LOST
        assert len(await store.poll_activities()) == 2

    async def test_one_bad_token_spoils_the_turn_and_spares_the_others(
        self, store: StoreDriver
    ) -> None:
        turn, done = await self.begun(store)
        bogus = ActivityToken("bogus/i1/3")
        fused = store.turn(turn, 2, finished=(done.token, bogus))
        assert await store.code(fused) is CommitCode.LEASE_LOST
        assert await store.finish(done) is CommitCode.APPLIED

    async def test_a_repeated_fused_turn_is_recognised(self, store: StoreDriver) -> None:
        turn, done = await self.begun(store)
        fused = store.turn(turn, 2, finished=(done.token,))
        assert await store.code(fused) is CommitCode.APPLIED
        assert await store.code(fused) is CommitCode.REPEATED
        assert await store.event_ids("i1") == [1, 2, 3]


class HeartbeatSuite(SuiteBase):
    async def leased(self, store: StoreDriver) -> LeasedActivity:
        needs(store, "heartbeats")
        await store.start("i1")
        await store.commit_turn(await store.lease("i1"), 2, activities=(activity("i1", 2),))
        leased = await store.lease_activity()
        assert leased.heartbeat is None
        return leased

    async def beat(self, store: StoreDriver, leased: LeasedActivity, text: str) -> None:
        await cast("HeartbeatStore", store.provider).heartbeat({leased.token: text})

    async def test_the_next_delivery_has_the_last_heartbeat(self, store: StoreDriver) -> None:
        leased = await self.leased(store)
        await self.beat(store, leased, '{"done":1}')
        await self.beat(store, leased, '{"done":2}')
        store.clock.advance(LEASE_MS)
        again = await store.lease_activity()
        assert (again.attempt_count, again.heartbeat) == (2, '{"done":2}')
        await store.provider.commit([AbandonActivity(token=again.token)])
        assert (await store.lease_activity()).heartbeat == '{"done":2}'

    async def test_a_heartbeat_extends_no_lease(self, store: StoreDriver) -> None:
        leased = await self.leased(store)
        store.clock.advance(LEASE_MS - 1)
        await self.beat(store, leased, "1")
        store.clock.advance(1)
        assert (await store.lease_activity()).activity_id == leased.activity_id

    async def test_only_the_holder_is_heard(self, store: StoreDriver) -> None:
        leased = await self.leased(store)
        store.clock.advance(LEASE_MS)
        await self.beat(store, leased, '"too late"')
        again = await store.lease_activity()
        assert again.heartbeat is None
        await self.beat(store, leased, '"of somebody else"')
        store.clock.advance(LEASE_MS)
        assert (await store.lease_activity()).heartbeat is None

    async def test_other_activities_have_other_heartbeats(self, store: StoreDriver) -> None:
        leased = await self.leased(store)
        await self.beat(store, leased, '"of the first"')
        await store.finish(leased)
        await store.commit_turn(await store.lease("i1"), 1, activities=(activity("i1", 3),))
        assert (await store.lease_activity()).heartbeat is None
