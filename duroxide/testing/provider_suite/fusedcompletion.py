"""Activities that end in the commit of a turn (`fused_completion`)."""

from __future__ import annotations

from duroxide.ids import ActivityToken
from duroxide.providers.base import CommitCode, LeasedActivity, LeasedTurn
from duroxide.testing.provider_suite.capabilities import needs
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
)


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
