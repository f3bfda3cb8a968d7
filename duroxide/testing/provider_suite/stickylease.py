"""A lease that outlives the commit of its turn (`sticky_lease`)."""

from __future__ import annotations

import dataclasses

from duroxide.providers.base import AbandonTurn, CommitCode, LeasedTurn, MessageKind
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.capabilities import needs
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    bodies,
    message,
    new_execution,
)


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
