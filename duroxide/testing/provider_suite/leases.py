"""A lease lives until its end by the store's clock, unless it is renewed or given back."""

from __future__ import annotations

import dataclasses

from duroxide.ids import ActivityToken, TurnToken
from duroxide.providers.base import CommitCode, LeasedActivity, LeasedTurn
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
)


async def renew(
    store: StoreDriver, *leased: LeasedTurn | LeasedActivity, lease_ms: int = LEASE_MS
) -> frozenset[str]:
    """Renew and return what was reported as lost."""
    answer = await store.provider.renew(
        turns=[item.token for item in leased if isinstance(item, LeasedTurn)],
        turn_lease_ms=lease_ms,
        activities=[item.token for item in leased if isinstance(item, LeasedActivity)],
        activity_lease_ms=lease_ms,
    )
    assert answer.now_ms == store.now_ms()
    return frozenset((*answer.lost_turns, *answer.lost_activities))


class LeaseSuite(SuiteBase):
    async def test_a_lease_says_when_it_ends(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        assert (await store.lease_activity()).expires_at_ms == store.now_ms() + LEASE_MS
        await store.send("i1", "more")
        assert (await store.lease("i1")).expires_at_ms == store.now_ms() + LEASE_MS

    async def test_lock_expires_after_timeout(self, store: StoreDriver) -> None:
        await store.start("i1")
        old = await store.lease("i1")
        store.clock.advance(LEASE_MS)
        new = await store.lease("i1")
        assert await store.code(store.turn(old)) is CommitCode.LEASE_LOST
        assert await store.code(store.turn(new)) is CommitCode.APPLIED

    async def test_abandon_releases_lock_immediately(self, store: StoreDriver) -> None:
        await store.start("i1")
        assert await store.abandon(await store.lease("i1")) is CommitCode.APPLIED
        assert bodies(await store.lease("i1")) == ["start"]

    async def test_an_abandoned_turn_is_delayed(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.abandon(await store.lease("i1"), delay_ms=500)
        store.clock.advance(499)
        assert await store.poll() == ()
        store.clock.advance(1)
        assert bodies(await store.lease("i1")) == ["start"]

    @confirms("abandon_touches_what_was_delivered")
    async def test_abandon_delays_only_what_was_delivered(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        await store.send("i1", "late")
        await store.abandon(leased, delay_ms=500)
        late = await store.lease("i1")
        assert bodies(late) == ["late"]
        assert late.attempt_count == 1

    async def test_an_expired_turn_cannot_be_abandoned(self, store: StoreDriver) -> None:
        await store.start("i1")
        old = await store.lease("i1")
        store.clock.advance(LEASE_MS)
        new = await store.lease("i1")
        assert await store.abandon(old) is CommitCode.LEASE_LOST
        assert await store.poll() == ()
        assert await store.code(store.turn(new)) is CommitCode.APPLIED

    async def test_lock_renewal_on_ack(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        await store.send("i1", "meanwhile")
        await store.commit_turn(leased)
        assert bodies(await store.lease("i1")) == ["meanwhile"]

    async def test_concurrent_lock_attempts_respect_expiration(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.lease("i1")
        for _ in range(4):
            store.clock.advance(LEASE_MS // 5)
            assert await store.poll() == ()
        store.clock.advance(LEASE_MS // 5)
        await store.lease("i1")

    async def test_a_renewed_turn_stays_leased(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        store.clock.advance(LEASE_MS - 1)
        assert await renew(store, leased) == frozenset()
        store.clock.advance(LEASE_MS - 1)
        assert await store.poll() == ()
        assert await store.code(store.turn(leased)) is CommitCode.APPLIED

    async def test_orchestration_lock_renewal_after_expiration(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        store.clock.advance(LEASE_MS)
        assert await renew(store, leased) == {leased.token}
        await store.lease("i1")

    async def test_worker_lock_renewal_success(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        for _ in range(3):
            store.clock.advance(LEASE_MS - 1)
            assert await renew(store, leased) == frozenset()
            assert await store.poll_activities() == ()
        assert await store.finish(leased) is CommitCode.APPLIED

    async def test_worker_lock_renewal_invalid_token(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        bogus = dataclasses.replace(leased, token=ActivityToken("bogus/i1/2"))
        assert await renew(store, bogus) == {bogus.token}

    async def test_worker_lock_renewal_after_expiration(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        store.clock.advance(LEASE_MS)
        assert await renew(store, leased) == {leased.token}

    async def test_worker_lock_renewal_extends_timeout(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        store.clock.advance(LEASE_MS * 6 // 10)
        assert await renew(store, leased) == frozenset()
        store.clock.advance(LEASE_MS * 6 // 10)
        assert await store.poll_activities() == ()

    async def test_worker_lock_renewal_after_ack(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        await store.finish(leased)
        assert await renew(store, leased) == {leased.token}

    async def test_a_turn_that_was_committed_is_reported_as_gone(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        await store.commit_turn(leased)
        assert await renew(store, leased) == {leased.token}

    async def test_one_renewal_serves_many_leases(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2), activity("i1", 3))
        await store.start("i2")
        kept, lost = await store.poll_activities()
        turn = await store.lease("i2")
        await store.finish(lost, None)
        bogus = dataclasses.replace(turn, token=TurnToken("bogus/i2"))
        assert await renew(store, kept, lost, turn, bogus) == {lost.token, bogus.token}
        store.clock.advance(LEASE_MS - 1)
        assert await store.finish(kept) is CommitCode.APPLIED
        assert await store.code(store.turn(turn)) is CommitCode.APPLIED

    async def test_abandon_work_item_releases_lock(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        first = await store.lease_activity()
        assert await store.abandon_activity(first) is CommitCode.APPLIED
        assert (await store.lease_activity()).token != first.token

    async def test_a_token_of_an_earlier_delivery_is_worth_nothing(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        first = await store.lease_activity()
        await store.abandon_activity(first)
        second = await store.lease_activity()
        assert await store.abandon_activity(first) is CommitCode.LEASE_LOST
        assert await store.finish(first) is CommitCode.LEASE_LOST
        assert await renew(store, first) == {first.token}
        assert await store.finish(second) is CommitCode.APPLIED

    async def test_abandon_work_item_with_delay(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        await store.abandon_activity(await store.lease_activity(), delay_ms=500)
        store.clock.advance(499)
        assert await store.poll_activities() == ()
        store.clock.advance(1)
        await store.lease_activity()

    async def test_worker_ack_fails_after_lock_expiry(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        old = await store.lease_activity()
        store.clock.advance(LEASE_MS)
        assert await store.finish(old) is CommitCode.LEASE_LOST
        assert await store.abandon_activity(old) is CommitCode.LEASE_LOST
        assert await store.poll() == (), "no completion was enqueued"
        new = await store.lease_activity()
        assert await store.finish(old) is CommitCode.LEASE_LOST
        assert await store.finish(new) is CommitCode.APPLIED

    @confirms("clock_going_back_ends_nothing")
    async def test_a_clock_that_goes_back_ends_no_lease(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        store.clock.advance(-60_000)
        assert await store.poll() == ()
        assert await store.code(store.turn(leased)) is CommitCode.APPLIED

    @confirms("clock_going_back_ends_nothing")
    async def test_a_clock_that_goes_back_loses_no_activity(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        store.clock.advance(-60_000)
        assert await store.poll_activities() == ()
        assert await renew(store, leased) == frozenset()
        store.clock.advance(60_000)
        assert await store.finish(leased) is CommitCode.LEASE_LOST, "renewed in the time set back"
        assert (await store.lease_activity()).attempt_count == 2

    @confirms("clock_going_back_ends_nothing")
    async def test_what_is_given_back_after_the_clock_went_back_is_there_at_once(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        store.clock.advance(-LEASE_MS // 2)
        assert await store.abandon_activity(leased) is CommitCode.APPLIED
        assert (await store.admin.queue_depths()).worker_queue == 1
        assert (await store.lease_activity()).attempt_count == 2
