"""Deleting and pruning, one by one and by a filter."""

from __future__ import annotations

import pytest

from duroxide.errors import ProviderError
from duroxide.providers.base import CommitCode, InstanceFilter, PruneOptions
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
    new_execution,
)
from duroxide.testing.provider_suite.pasts import (
    child_of,
    ended,
    execution_ids,
    listed,
    several_executions,
)


class DeletionSuite(SuiteBase):
    async def test_delete_terminal_instances(self, store: StoreDriver) -> None:
        await ended(store, "completed")
        await ended(store, "failed", ExecutionStatus.FAILED)
        result = await store.admin.delete_instances(["completed", "failed"])
        assert (result.instances_deleted, result.executions_deleted) == (2, 2)
        assert result.events_deleted == 4
        assert await store.statuses("completed", "failed") == {}
        assert await store.history("completed") == []

    async def test_delete_running_rejected_force_succeeds(self, store: StoreDriver) -> None:
        await store.running("i1")
        with pytest.raises(ProviderError, match="running") as refusal:
            await store.admin.delete_instances(["i1"])
        assert not refusal.value.retryable
        assert set(await store.statuses("i1")) == {"i1"}
        assert (await store.admin.delete_instances(["i1"], force=True)).instances_deleted == 1
        assert await store.statuses("i1") == {}

    async def test_an_instance_between_two_executions_counts_as_running(
        self, store: StoreDriver
    ) -> None:
        await ended(store, "i1", ExecutionStatus.CONTINUED_AS_NEW)
        with pytest.raises(ProviderError, match="running"):
            await store.admin.delete_instances(["i1"])

    async def test_delete_nonexistent_instance(self, store: StoreDriver) -> None:
        with pytest.raises(ProviderError, match="not found") as refusal:
            await store.admin.delete_instances(["nobody"])
        assert not refusal.value.retryable

    async def test_deleting_nothing(self, store: StoreDriver) -> None:
        assert (await store.admin.delete_instances([])).instances_deleted == 0

    async def test_delete_cleans_queues_and_locks(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        await store.send("i1", "more")
        await store.lease("i1")
        result = await store.admin.delete_instances(["i1"], force=True)
        assert result.queue_messages_deleted == 2
        assert await store.poll_activities() == ()
        await store.start("i1", "new life")
        leased = await store.lease("i1")
        assert bodies(leased) == ["new life"]
        assert (leased.name, leased.history, leased.execution_id) == (None, (), 1)
        await store.commit_turn(leased, new=new_execution("Other", "9.9.9"))
        status = await store.status("i1")
        assert (status.name, status.version) == ("Other", "9.9.9")
        assert await store.event_ids("i1") == [1]

    async def test_cascade_delete_hierarchy(self, store: StoreDriver) -> None:
        await ended(store, "root")
        await child_of(store, "root", "child")
        await child_of(store, "child", "grandchild")
        for whom in (["root"], ["root", "child"], ["child"]):
            with pytest.raises(ProviderError, match=r"child|orphan|tree"):
                await store.admin.delete_instances(whom, force=True)
        tree = await store.admin.instance_tree("root")
        result = await store.admin.delete_instances(tree)
        assert (result.instances_deleted, result.events_deleted) == (3, 6)

    async def test_force_delete_prevents_ack_recreation(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "more")
        leased = await store.lease("i1")
        await store.admin.delete_instances(["i1"], force=True)
        assert await store.code(store.turn(leased)) is CommitCode.LEASE_LOST
        assert await store.statuses("i1") == {}
        assert await store.history("i1") == []

    async def test_list_children(self, store: StoreDriver) -> None:
        await ended(store, "root")
        for name in ("b", "a"):
            await child_of(store, "root", name)
        await child_of(store, "a", "grandchild")
        assert sorted(await store.admin.list_children("root")) == ["a", "b"]
        assert list(await store.admin.list_children("a")) == ["grandchild"]
        assert list(await store.admin.list_children("nobody")) == []

    async def test_delete_get_parent_id(self, store: StoreDriver) -> None:
        await ended(store, "root")
        await child_of(store, "root", "child")
        assert (await store.status("child")).parent_instance_id == "root"
        assert (await store.status("root")).parent_instance_id is None

    async def test_delete_get_instance_tree(self, store: StoreDriver) -> None:
        await ended(store, "root")
        await child_of(store, "root", "child")
        await child_of(store, "child", "grandchild")
        tree = list(await store.admin.instance_tree("root"))
        assert tree == ["root", "child", "grandchild"], "parents before their children"
        assert list(await store.admin.instance_tree("grandchild")) == ["grandchild"]

    async def test_a_tree_that_goes_round_in_a_circle_ends(self, store: StoreDriver) -> None:
        """Whose child takes the id of one of its forebears that was deleted meanwhile."""
        await child_of(store, "c", "a")
        await child_of(store, "a", "b")
        await child_of(store, "b", "c")
        assert list(await store.admin.instance_tree("b")) == ["b", "c", "a"]
        await store.admin.delete_instances(["a", "b", "c"], force=True)
        assert list(await store.admin.instance_tree("b")) == ["b"]

    async def test_delete_instances_atomic(self, store: StoreDriver) -> None:
        for name in ("a", "b"):
            await ended(store, name)
        await store.running("c")
        with pytest.raises(ProviderError, match="running"):
            await store.admin.delete_instances(["a", "b", "c"])
        assert set(await store.statuses("a", "b", "c")) == {"a", "b", "c"}

    async def test_delete_instances_atomic_force(self, store: StoreDriver) -> None:
        await ended(store, "a")
        await store.running("b")
        result = await store.admin.delete_instances(["a", "b"], force=True)
        assert result.instances_deleted == 2
        assert await store.statuses("a", "b") == {}

    async def test_delete_instances_atomic_orphan_detection(self, store: StoreDriver) -> None:
        await ended(store, "root")
        await child_of(store, "root", "a")
        await child_of(store, "root", "b")
        with pytest.raises(ProviderError, match=r"child|orphan|tree"):
            await store.admin.delete_instances(["root", "a"])
        assert set(await store.statuses("root", "a", "b")) == {"root", "a", "b"}

    async def test_stale_activity_after_delete_recreate(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2))
        stale = await store.lease_activity()
        await store.admin.delete_instances(["i1"], force=True)
        await store.running("i1")
        assert await store.finish(stale) is CommitCode.LEASE_LOST
        assert await store.poll() == ()


class PruneSuite(SuiteBase):
    async def test_prune_options_combinations(self, store: StoreDriver) -> None:
        await several_executions(store, "i1", 4)
        result = await store.admin.prune_executions("i1", PruneOptions(keep_last=2))
        assert (result.instances_processed, result.executions_deleted) == (1, 2)
        assert result.events_deleted == 4
        assert await execution_ids(store, "i1") == [3, 4]
        await store.admin.prune_executions("i1", PruneOptions())
        assert await execution_ids(store, "i1") == [4]

    async def test_prune_by_age(self, store: StoreDriver) -> None:
        began_ms = store.now_ms()
        await several_executions(store, "i1", 4)
        options = PruneOptions(completed_before_ms=began_ms + 1_500)
        await store.admin.prune_executions("i1", options)
        assert await execution_ids(store, "i1") == [3, 4]

    async def test_prune_criteria_must_all_hold(self, store: StoreDriver) -> None:
        began_ms = store.now_ms()
        await several_executions(store, "i1", 4)
        options = PruneOptions(keep_last=3, completed_before_ms=began_ms + 60_000)
        await store.admin.prune_executions("i1", options)
        assert await execution_ids(store, "i1") == [2, 3, 4]

    @pytest.mark.parametrize("keep_last", [None, 0, 1])
    async def test_prune_safety(self, store: StoreDriver, keep_last: int | None) -> None:
        await several_executions(store, "i1", 3)
        await store.admin.prune_executions("i1", PruneOptions(keep_last=keep_last))
        assert await execution_ids(store, "i1") == [3]
        assert await store.event_ids("i1") == [1, 2]

    @confirms("test_prune_safety")
    async def test_prune_an_unknown_instance(self, store: StoreDriver) -> None:
        with pytest.raises(ProviderError, match="not found"):
            await store.admin.prune_executions("nobody", PruneOptions())

    async def test_prune_bulk(self, store: StoreDriver) -> None:
        for name in ("a", "b", "c"):
            await several_executions(store, name, 3)
        result = await store.admin.prune_executions_by_filter(
            InstanceFilter(instance_ids=("a", "b")), PruneOptions(keep_last=1)
        )
        assert (result.instances_processed, result.executions_deleted) == (2, 4)
        assert await execution_ids(store, "a") == [3]
        assert await execution_ids(store, "c") == [1, 2, 3]

    async def test_prune_bulk_includes_running_instances(self, store: StoreDriver) -> None:
        await several_executions(store, "i1", 3)
        await store.admin.prune_executions_by_filter(InstanceFilter(), PruneOptions())
        assert await execution_ids(store, "i1") == [3]
        assert (await store.status("i1")).status is ExecutionStatus.RUNNING


class BulkDeletionSuite(SuiteBase):
    async def test_delete_instance_bulk_filter_combinations(self, store: StoreDriver) -> None:
        for name in ("a", "b", "c"):
            await ended(store, name)

        async def delete(*ids: str) -> int:
            which = InstanceFilter(instance_ids=ids)
            return (await store.admin.delete_instances_by_filter(which)).instances_deleted

        assert await delete("a") == 1
        assert await delete("nobody") == 0
        assert await delete() == 0
        everything = await store.admin.delete_instances_by_filter(InstanceFilter())
        assert everything.instances_deleted == 2

    async def test_delete_instance_bulk_safety_and_limits(self, store: StoreDriver) -> None:
        await store.running("running")
        for number in range(4):
            await ended(store, f"i{number}")
        counts = [
            (
                await store.admin.delete_instances_by_filter(InstanceFilter(limit=2))
            ).instances_deleted
            for _ in range(3)
        ]
        assert counts == [2, 2, 0]
        assert set(await store.statuses("running")) == {"running"}

    async def test_bulk_deletion_spares_what_goes_on(self, store: StoreDriver) -> None:
        await ended(store, "between", ExecutionStatus.CONTINUED_AS_NEW)
        await ended(store, "root")
        await store.running("child", parent="root")
        result = await store.admin.delete_instances_by_filter(InstanceFilter())
        assert result.instances_deleted == 0
        assert set(await store.statuses("between", "root", "child")) == {"between", "root", "child"}

    async def test_delete_instance_bulk_completed_before_filter(self, store: StoreDriver) -> None:
        await ended(store, "old")
        store.clock.advance(1_000)
        cut_ms = store.now_ms()
        await ended(store, "new")
        which = InstanceFilter(completed_before_ms=cut_ms)
        assert (await store.admin.delete_instances_by_filter(which)).instances_deleted == 1
        assert set(await store.statuses("old", "new")) == {"new"}

    async def test_delete_instance_bulk_cascades_to_children(self, store: StoreDriver) -> None:
        for number in range(3):
            await ended(store, f"root{number}")
        for number in range(4):
            await child_of(store, f"root{number % 3}", f"child{number}")
        result = await store.admin.delete_instances_by_filter(InstanceFilter())
        assert result.instances_deleted == 7
        assert await listed(store) == []

    async def test_children_are_not_deleted_for_themselves(self, store: StoreDriver) -> None:
        await store.running("root")
        await child_of(store, "root", "child")
        which = InstanceFilter(instance_ids=("child",))
        assert (await store.admin.delete_instances_by_filter(which)).instances_deleted == 0

    async def test_deleting_frees_the_lease(self, store: StoreDriver) -> None:
        await ended(store, "i1")
        await store.send("i1", "late")
        leased = await store.lease("i1")
        await store.admin.delete_instances_by_filter(InstanceFilter())
        assert await store.code(store.turn(leased, 0)) is CommitCode.LEASE_LOST
        store.clock.advance(LEASE_MS)
        assert await store.poll() == ()
