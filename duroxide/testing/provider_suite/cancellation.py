"""Activities that nobody waits for any more."""

from __future__ import annotations

from typing import Any

from duroxide.providers.base import CommitCode, MessageKind
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
)
from duroxide.testing.provider_suite.leases import renew


async def next_turn(store: StoreDriver, instance_id: str = "i1", **more: Any) -> None:
    await store.send(instance_id, "more")
    await store.commit_turn(await store.lease(instance_id), **more)


class CancellationSuite(SuiteBase):
    # The queue does not look at the state of the instance.

    async def test_fetch_returns_running_state_for_active_orchestration(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        assert (await store.lease_activity()).activity_id == 2

    async def test_fetch_returns_terminal_state_when_orchestration_completed(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        await next_turn(store, status=ExecutionStatus.COMPLETED, output="x")
        assert (await store.lease_activity()).activity_id == 2

    async def test_fetch_returns_terminal_state_when_orchestration_failed(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        await next_turn(store, status=ExecutionStatus.FAILED, output="x")
        assert (await store.lease_activity()).activity_id == 2

    async def test_fetch_returns_terminal_state_when_orchestration_continued_as_new(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        await next_turn(store, status=ExecutionStatus.CONTINUED_AS_NEW, output="x")
        assert (await store.lease_activity()).activity_id == 2

    async def test_fetch_returns_missing_state_when_instance_deleted(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        await store.admin.delete_instances(["i1"], force=True)
        assert await store.poll_activities() == (), "deleting an instance deletes its activities"

    async def test_renew_returns_running_when_orchestration_active(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        assert await renew(store, await store.lease_activity()) == frozenset()

    async def test_renew_returns_terminal_when_orchestration_completed(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        await next_turn(store, status=ExecutionStatus.COMPLETED, output="x")
        assert await renew(store, leased) == frozenset()

    async def test_renew_returns_missing_when_instance_deleted(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        await store.admin.delete_instances(["i1"], force=True)
        assert await renew(store, leased) == {leased.token}

    # Ending without an answer.

    async def test_ack_work_item_none_deletes_without_enqueue(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        assert await store.finish(await store.lease_activity(), None) is CommitCode.APPLIED
        store.clock.advance(LEASE_MS)
        assert await store.poll_activities() == ()
        assert await store.poll() == ()

    # Cancelling.

    async def test_cancelled_activities_deleted_from_worker_queue(self, store: StoreDriver) -> None:
        await store.schedule(*(activity("i1", number) for number in (2, 3, 4)))
        await next_turn(store, cancelled_activities=(2, 3))
        assert [a.activity_id for a in await store.poll_activities()] == [4]

    async def test_ack_work_item_fails_when_entry_deleted(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        await next_turn(store, cancelled_activities=(2,))
        assert await store.finish(leased) is CommitCode.LEASE_LOST
        assert await store.poll() == (), "no completion was enqueued"

    async def test_renew_fails_when_entry_deleted(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        await next_turn(store, cancelled_activities=(2,))
        assert await renew(store, leased) == {leased.token}

    async def test_abandoning_a_cancelled_activity_does_not_bring_it_back(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        await next_turn(store, cancelled_activities=(2,))
        assert await store.abandon_activity(leased) is CommitCode.LEASE_LOST
        store.clock.advance(LEASE_MS)
        assert await store.poll_activities() == ()

    async def test_cancelling_nonexistent_activities_is_idempotent(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        await next_turn(store, cancelled_activities=(2, 77))
        await next_turn(store, cancelled_activities=(2, 77))
        assert await store.poll_activities() == ()

    async def test_batch_cancellation_deletes_multiple_activities(self, store: StoreDriver) -> None:
        await store.schedule(*(activity("i1", number) for number in range(2, 7)))
        await next_turn(store, cancelled_activities=(2, 3, 4, 5, 6))
        assert await store.poll_activities() == ()

    async def test_same_activity_in_worker_items_and_cancelled_is_noop(
        self, store: StoreDriver
    ) -> None:
        await store.start("i1")
        await store.commit_turn(
            await store.lease("i1"),
            activities=(activity("i1", 2), activity("i1", 3)),
            cancelled_activities=(2,),
        )
        assert [a.activity_id for a in await store.poll_activities()] == [3]

    async def test_only_this_instance_and_execution_are_cancelled(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2), activity("i2", 2))
        await store.send("i1", "again", kind=MessageKind.CONTINUE_AS_NEW)
        leased = await store.lease("i1")
        await store.commit_turn(
            leased,
            execution_id=2,
            first_event_id=1,
            activities=(activity("i1", 2, execution_id=2), activity("i1", 3, execution_id=2)),
            cancelled_activities=(2,),
        )
        left = [
            (a.instance_id, a.execution_id, a.activity_id) for a in await store.poll_activities()
        ]
        assert sorted(left) == [("i1", 1, 2), ("i1", 2, 3), ("i2", 1, 2)]

    async def test_orphan_activity_after_instance_force_deletion(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        await store.admin.delete_instances(["i1"], force=True)
        await store.schedule(activity("i2", 2))
        assert [a.instance_id for a in await store.poll_activities()] == ["i2"]

    async def test_a_completion_that_came_before_the_cancellation_stays(
        self, store: StoreDriver
    ) -> None:
        await store.schedule(activity("i1", 2))
        await store.finish(await store.lease_activity(), "in time")
        turn = await store.lease("i1")
        assert bodies(turn) == ["in time"]
        await store.commit_turn(turn, cancelled_activities=(2,))
        assert await store.poll() == ()
