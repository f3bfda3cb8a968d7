"""Activities of a session go to the session's owner."""

from __future__ import annotations

import asyncio

from duroxide.providers.base import CommitCode, LeasedActivity, SessionOwner
from duroxide.testing.provider_suite.driver import LEASE_MS, StoreDriver, SuiteBase, activity

SESSION_MS = 3 * LEASE_MS


def owner(name: str, *, max_new: int = 10, lease_ms: int = SESSION_MS) -> SessionOwner:
    return SessionOwner(owner=name, lease_ms=lease_ms, max_new=max_new)


ANN, BOB = owner("ann"), owner("bob")


async def scheduled(store: StoreDriver, *sessions: str | None) -> None:
    """One activity for each, numbered from 2."""
    await store.schedule(
        *(activity("i1", number, session_id=s) for number, s in enumerate(sessions, 2))
    )


async def take(
    store: StoreDriver, sessions: SessionOwner | None, want: int = 10
) -> list[LeasedActivity]:
    return list(await store.poll_activities(want, sessions=sessions))


async def numbers(store: StoreDriver, sessions: SessionOwner | None, want: int = 10) -> list[int]:
    return [item.activity_id for item in await take(store, sessions, want)]


async def renew(
    store: StoreDriver, name: str, *, idle_ms: int = 10 * SESSION_MS, lease_ms: int = SESSION_MS
) -> int:
    return await store.provider.renew_sessions(owner=name, lease_ms=lease_ms, idle_ms=idle_ms)


class SessionSuite(SuiteBase):
    # Routing.

    async def test_non_session_items_fetchable_by_any_worker(self, store: StoreDriver) -> None:
        await scheduled(store, None, None)
        assert await numbers(store, ANN, 1) == [2]
        assert await numbers(store, BOB, 1) == [3]

    async def test_session_item_claimable_when_no_session(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        (leased,) = await take(store, ANN)
        assert leased.session_id == "s"

    async def test_session_affinity_same_worker(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "s")
        assert await numbers(store, ANN, 1) == [2]
        assert await numbers(store, ANN, 1) == [3]

    async def test_session_affinity_blocks_other_worker(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "s")
        assert await numbers(store, ANN, 1) == [2]
        assert await numbers(store, BOB) == []

    async def test_different_sessions_different_workers(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "t", "s", "t")
        assert await numbers(store, ANN, 1) == [2]
        assert await numbers(store, BOB, 1) == [3]
        assert await numbers(store, ANN) == [4]
        assert await numbers(store, BOB) == [5]

    async def test_mixed_session_and_non_session_items(self, store: StoreDriver) -> None:
        await scheduled(store, "s", None, "s")
        assert await numbers(store, ANN, 1) == [2]
        assert await numbers(store, BOB) == [3]
        assert await numbers(store, ANN) == [4]

    async def test_non_session_items_returned_with_session_config(self, store: StoreDriver) -> None:
        await scheduled(store, None)
        assert await numbers(store, ANN) == [2]

    async def test_shared_worker_id_any_caller_can_fetch_owned_session(
        self, store: StoreDriver
    ) -> None:
        await scheduled(store, "s", "s")
        assert await numbers(store, owner("pod"), 1) == [2]
        assert await numbers(store, owner("pod"), 1) == [3]

    # Modes.

    async def test_none_session_skips_session_items(self, store: StoreDriver) -> None:
        await scheduled(store, "s", None, "t")
        assert await numbers(store, None) == [3]

    async def test_some_session_returns_all_items(self, store: StoreDriver) -> None:
        await scheduled(store, "s", None, "t", None)
        assert await numbers(store, ANN) == [2, 3, 4, 5]

    async def test_session_items_processed_in_order(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "s", "s")
        assert [(await numbers(store, ANN, 1)) for _ in range(3)] == [[2], [3], [4]]

    async def test_a_worker_claims_no_more_new_sessions_than_it_may(
        self, store: StoreDriver
    ) -> None:
        await scheduled(store, "s", "t", "s", None)
        assert await numbers(store, owner("ann", max_new=1)) == [2, 4, 5]
        assert await numbers(store, owner("ann", max_new=0)) == []
        assert await numbers(store, BOB) == [3]

    # Expiry.

    async def test_session_claimable_after_lock_expiry(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "s")
        await take(store, ANN, 1)
        store.clock.advance(SESSION_MS)
        assert await numbers(store, BOB) == [2, 3]

    async def test_session_takeover_after_lock_expiry(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "s", "s")
        await take(store, ANN, 1)
        store.clock.advance(SESSION_MS)
        assert await numbers(store, BOB, 1) == [2]
        assert await numbers(store, ANN) == []
        assert await numbers(store, BOB) == [3, 4]

    async def test_original_worker_reclaims_expired_session(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "s")
        await take(store, ANN, 1)
        store.clock.advance(SESSION_MS)
        assert await numbers(store, ANN, 1) == [2]
        assert await numbers(store, BOB) == []

    async def test_session_lock_expires_same_worker_reacquires(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        (first,) = await take(store, ANN)
        await store.finish(first)
        store.clock.advance(SESSION_MS)
        await store.commit_turn(
            await store.lease("i1"), activities=(activity("i1", 9, session_id="s"),)
        )
        assert await numbers(store, ANN) == [9]

    async def test_a_session_lives_until_its_end_and_not_longer(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "s")
        await take(store, ANN, 1)
        store.clock.advance(SESSION_MS - 1)
        assert await numbers(store, BOB) == []
        store.clock.advance(1)
        assert await numbers(store, BOB) == [2, 3]

    # Renewal.

    async def test_renew_session_lock_active(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "t")
        await take(store, ANN, 1)
        assert await renew(store, "ann") == 1
        await take(store, ANN, 1)
        assert await renew(store, "ann") == 2

    async def test_renew_session_lock_skips_idle(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        await take(store, ANN)
        assert await renew(store, "ann", idle_ms=0) == 0

    async def test_renew_session_lock_no_sessions(self, store: StoreDriver) -> None:
        assert await renew(store, "ann") == 0

    async def test_renew_session_lock_of_others(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        await take(store, ANN)
        assert await renew(store, "bob") == 0

    async def test_renew_session_lock_after_expiry_returns_zero(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        await take(store, ANN)
        store.clock.advance(SESSION_MS)
        assert await renew(store, "ann") == 0

    async def test_session_lock_renewal_extends_past_original_timeout(
        self, store: StoreDriver
    ) -> None:
        await scheduled(store, "s", "s")
        await take(store, ANN, 1)
        store.clock.advance(SESSION_MS - 1)
        assert await renew(store, "ann") == 1
        store.clock.advance(SESSION_MS - 1)
        assert await numbers(store, BOB) == []
        assert await numbers(store, ANN) == [2, 3]

    # Activity, which keeps a session from being idle.

    async def test_ack_updates_session_last_activity(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        (leased,) = await take(store, ANN)
        store.clock.advance(LEASE_MS - 1)
        assert await renew(store, "ann", idle_ms=200) == 0
        await store.finish(leased)
        assert await renew(store, "ann", idle_ms=200) == 1

    async def test_renew_work_item_updates_session_last_activity(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        (leased,) = await take(store, ANN)
        store.clock.advance(LEASE_MS - 1)
        assert await renew(store, "ann", idle_ms=200) == 0
        await store.provider.renew(activities=[leased.token], activity_lease_ms=LEASE_MS)
        assert await renew(store, "ann", idle_ms=200) == 1

    # Cleaning up.

    async def test_cleanup_removes_expired_no_items(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        (leased,) = await take(store, ANN)
        await store.finish(leased)
        store.clock.advance(SESSION_MS)
        assert await store.admin.cleanup_sessions(idle_ms=0) == 1
        assert await store.admin.cleanup_sessions(idle_ms=0) == 0

    async def test_cleanup_keeps_sessions_with_pending_items(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        await take(store, ANN)
        store.clock.advance(SESSION_MS)
        assert await store.admin.cleanup_sessions(idle_ms=0) == 0

    async def test_cleanup_keeps_active_sessions(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        (leased,) = await take(store, ANN)
        await store.finish(leased)
        assert await store.admin.cleanup_sessions(idle_ms=0) == 0

    async def test_cleanup_then_new_item_recreates_session(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        (leased,) = await take(store, ANN)
        await store.finish(leased)
        store.clock.advance(SESSION_MS)
        await store.admin.cleanup_sessions(idle_ms=0)
        await store.commit_turn(
            await store.lease("i1"), activities=(activity("i1", 9, session_id="s"),)
        )
        assert await numbers(store, BOB) == [9]

    # Races.

    async def test_concurrent_session_claim_only_one_wins(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "s")
        ann, bob = await asyncio.gather(take(store, ANN, 1), take(store, BOB, 1))
        assert sorted((len(ann), len(bob))) == [0, 1]

    async def test_abandoned_session_item_retryable(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        (leased,) = await take(store, ANN)
        await store.abandon_activity(leased)
        (again,) = await take(store, ANN)
        assert again.attempt_count == 2

    async def test_abandoned_session_item_ignore_attempt(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        (leased,) = await take(store, ANN)
        await store.abandon_activity(leased, count_attempt=False)
        (again,) = await take(store, ANN)
        assert again.attempt_count == 1

    # A session's lease and an activity's lease end independently.

    async def test_activity_lock_expires_session_lock_valid_same_worker_refetches(
        self, store: StoreDriver
    ) -> None:
        await scheduled(store, "s")
        await take(store, ANN)
        store.clock.advance(LEASE_MS)
        assert await numbers(store, BOB) == []
        (again,) = await take(store, ANN)
        assert again.attempt_count == 2

    async def test_both_locks_expire_different_worker_claims(self, store: StoreDriver) -> None:
        await scheduled(store, "s")
        await take(store, ANN)
        store.clock.advance(SESSION_MS)
        (taken,) = await take(store, BOB)
        assert taken.attempt_count == 2

    async def test_session_lock_expires_activity_lock_valid_ack_succeeds(
        self, store: StoreDriver
    ) -> None:
        await scheduled(store, "s")
        (leased,) = await take(store, owner("ann", lease_ms=LEASE_MS // 2))
        store.clock.advance(LEASE_MS // 2)
        assert await store.finish(leased) is CommitCode.APPLIED

    async def test_session_lock_expires_new_owner_gets_redelivery(self, store: StoreDriver) -> None:
        await scheduled(store, "s", "s")
        first, _ = await take(store, owner("ann", lease_ms=LEASE_MS // 2))
        store.clock.advance(LEASE_MS)
        assert await numbers(store, BOB) == [2, 3]
        assert await store.finish(first) is CommitCode.LEASE_LOST
