"""How often something was delivered, which is what poison handling goes by."""

from __future__ import annotations

from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
)


class AttemptSuite(SuiteBase):
    async def test_orchestration_attempt_count_starts_at_one(self, store: StoreDriver) -> None:
        await store.start("i1")
        assert (await store.lease("i1")).attempt_count == 1

    async def test_worker_attempt_count_starts_at_one(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        assert (await store.lease_activity()).attempt_count == 1

    async def test_orchestration_attempt_count_increments_on_refetch(
        self, store: StoreDriver
    ) -> None:
        await store.start("i1")
        for attempt in (1, 2, 3):
            leased = await store.lease("i1")
            assert leased.attempt_count == attempt
            await store.abandon(leased)

    async def test_orchestration_attempt_count_increments_on_lock_expiry(
        self, store: StoreDriver
    ) -> None:
        await store.start("i1")
        for attempt in (1, 2, 3):
            assert (await store.lease("i1")).attempt_count == attempt
            store.clock.advance(LEASE_MS)

    async def test_worker_attempt_count_increments_on_lock_expiry(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        for attempt in (1, 2, 3):
            assert (await store.lease_activity()).attempt_count == attempt
            store.clock.advance(LEASE_MS)

    async def test_worker_attempt_count_increments_on_abandon(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        for attempt in (1, 2, 3):
            leased = await store.lease_activity()
            assert leased.attempt_count == attempt
            await store.abandon_activity(leased)

    async def test_attempt_count_is_per_message(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2), activity("i1", 3))
        first = await store.lease_activity()
        await store.abandon_activity(first, delay_ms=1_000)
        assert (await store.lease_activity()).attempt_count == 1
        store.clock.advance(1_000)
        assert (await store.lease_activity()).attempt_count == 2

    async def test_abandon_work_item_ignore_attempt_decrements(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        await store.abandon_activity(await store.lease_activity())
        second = await store.lease_activity()
        assert second.attempt_count == 2
        await store.abandon_activity(second, count_attempt=False)
        assert (await store.lease_activity()).attempt_count == 2

    async def test_abandon_orchestration_item_ignore_attempt_decrements(
        self, store: StoreDriver
    ) -> None:
        await store.start("i1")
        await store.abandon(await store.lease("i1"))
        second = await store.lease("i1")
        assert second.attempt_count == 2
        await store.abandon(second, count_attempt=False)
        assert (await store.lease("i1")).attempt_count == 2

    async def test_ignore_attempt_never_goes_negative(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        await store.send("i1", "more")
        for _ in range(3):
            leased = await store.lease_activity()
            assert leased.attempt_count == 1
            await store.abandon_activity(leased, count_attempt=False)
            turn = await store.lease("i1")
            assert turn.attempt_count == 1
            await store.abandon(turn, count_attempt=False)

    async def test_max_attempt_count_across_message_batch(self, store: StoreDriver) -> None:
        await store.start("i1")
        for _ in range(2):
            await store.abandon(await store.lease("i1"))
        await store.send("i1", "fresh")
        leased = await store.lease("i1")
        assert bodies(leased) == ["start", "fresh"]
        assert leased.attempt_count == 3

    async def test_what_was_not_delivered_is_not_counted(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        await store.send("i1", "late")
        await store.commit_turn(leased)
        late = await store.lease("i1")
        assert late.attempt_count == 1

    async def test_an_attempt_starts_anew_with_the_next_message(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.abandon(await store.lease("i1"))
        await store.commit_turn(await store.lease("i1"))
        await store.send("i1", "next")
        assert (await store.lease("i1")).attempt_count == 1

    async def test_what_a_written_turn_leaves_for_later_is_not_counted(
        self, store: StoreDriver
    ) -> None:
        """An execution that continues as new leaves the rest of its batch to the next one."""
        await store.start("i1")
        await store.send("i1", "later")
        first = await store.lease("i1")
        await store.commit_turn(first, consumed=(first.messages[0].message_id,))
        for _ in range(2):
            leased = await store.lease("i1")
            assert (bodies(leased), leased.attempt_count) == (["later"], 1)
            await store.commit_turn(leased, consumed=())
        await store.abandon(await store.lease("i1"))
        assert (await store.lease("i1")).attempt_count == 2
