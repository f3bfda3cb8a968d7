"""Listing, measuring, deleting and pruning."""

from __future__ import annotations

from typing import Any

import pytest

from duroxide.errors import ProviderError
from duroxide.providers.base import (
    CommitCode,
    InstanceFilter,
    InstanceQuery,
    MessageKind,
    PruneOptions,
)
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
    message,
    new_execution,
)


async def ended(
    store: StoreDriver,
    instance_id: str,
    status: ExecutionStatus = ExecutionStatus.COMPLETED,
    **more: Any,
) -> None:
    """An instance that ended in its first turn."""
    await store.start(instance_id)
    await store.commit_turn(await store.lease(instance_id), 2, status=status, output="out", **more)


async def child_of(store: StoreDriver, parent: str, instance_id: str, **more: Any) -> None:
    await ended(store, instance_id, new=new_execution("Child", parent=parent), **more)


async def several_executions(store: StoreDriver, instance_id: str, count: int) -> None:
    """Executions 1 .. count, the last one running; a second passes between them."""
    await store.start(instance_id)
    for number in range(1, count + 1):
        leased = await store.lease(instance_id)
        is_last = number == count
        again = message(instance_id, "again", kind=MessageKind.CONTINUE_AS_NEW)
        await store.commit_turn(
            leased,
            2,
            execution_id=number,
            first_event_id=1,
            status=ExecutionStatus.RUNNING if is_last else ExecutionStatus.CONTINUED_AS_NEW,
            output=None if is_last else "next",
            messages=() if is_last else (again,),
            new=new_execution(),
        )
        store.clock.advance(1_000)


async def execution_ids(store: StoreDriver, instance_id: str) -> list[int]:
    return [info.execution_id for info in await store.admin.list_executions(instance_id)]


async def listed(store: StoreDriver, **which: Any) -> list[str]:
    return [state.instance_id for state in await store.admin.list_instances(**which)]


async def pages(store: StoreDriver, limit: int, **which: Any) -> list[list[str]]:
    """The ids, page by page."""
    found, cursor = [], None
    while True:
        page = await store.admin.list_page(InstanceQuery(**which), limit=limit, cursor=cursor)
        found.append([state.instance_id for state in page.instances])
        cursor = page.next_cursor
        if cursor is None:
            return found


class PagesSuite(SuiteBase):
    async def test_pages_go_on_where_the_last_one_ended(self, store: StoreDriver) -> None:
        for name in ("a", "c", "b"):  # at once: their ids decide
            await store.running(name)
        store.clock.advance(1)
        await store.running("0")
        assert await pages(store, 2) == [["0", "c"], ["b", "a"]]
        assert await pages(store, 3) == [["0", "c", "b"], ["a"]]
        assert await pages(store, 9) == [["0", "c", "b", "a"]]

    async def test_new_and_deleted_instances_disturb_no_page(self, store: StoreDriver) -> None:
        for name in ("a", "b", "c", "d"):
            await ended(store, name)
            store.clock.advance(1)
        first = await store.admin.list_page(InstanceQuery(), limit=2)
        assert [state.instance_id for state in first.instances] == ["d", "c"]
        await store.admin.delete_instances(["c"])
        await store.running("e")
        second = await store.admin.list_page(InstanceQuery(), limit=2, cursor=first.next_cursor)
        assert [state.instance_id for state in second.instances] == ["b", "a"]
        assert second.next_cursor is None

    async def test_pages_show_what_was_asked_for(self, store: StoreDriver) -> None:
        began_ms = store.now_ms()
        await store.running("running")
        store.clock.advance(10)
        await ended(store, "completed")
        await ended(store, "failed", ExecutionStatus.FAILED)
        store.clock.advance(10)
        await child_of(store, "completed", "child")
        both = (ExecutionStatus.RUNNING, ExecutionStatus.FAILED)
        assert await pages(store, 9, statuses=both) == [["failed", "running"]]
        assert await pages(store, 9, statuses=()) == [[]]
        assert await pages(store, 9, names=("Child", "Unheard")) == [["child"]]
        assert await pages(store, 9, parent_instance_id="completed") == [["child"]]
        assert await pages(store, 2, roots_only=True) == [["failed", "completed"], ["running"]]
        middle = {"created_from_ms": began_ms + 10, "created_before_ms": began_ms + 20}
        assert await pages(store, 9, **middle) == [["failed", "completed"]]
        assert await pages(store, 9, names=("Greet",), statuses=both, **middle) == [["failed"]]

    async def test_a_page_is_the_state_of_its_instances(self, store: StoreDriver) -> None:
        await ended(store, "i1")
        (state,) = (await store.admin.list_page(InstanceQuery(), limit=1)).instances
        assert state == await store.status("i1")

    async def test_what_is_no_cursor_is_refused(self, store: StoreDriver) -> None:
        for text in ("", "i1", "x:i1", "-1:i1"):
            with pytest.raises(ProviderError, match="cursor") as refusal:
                await store.admin.list_page(InstanceQuery(), limit=1, cursor=text)
            assert not refusal.value.retryable


class ManagementSuite(SuiteBase):
    async def test_list_instances(self, store: StoreDriver) -> None:
        for name in ("a", "b", "c"):
            await store.running(name)
            store.clock.advance(1)
        assert await listed(store) == ["c", "b", "a"]
        assert await listed(store, limit=2) == ["c", "b"]

    async def test_list_instances_by_status(self, store: StoreDriver) -> None:
        await store.running("running")
        await ended(store, "completed")
        await ended(store, "failed", ExecutionStatus.FAILED)
        assert await listed(store, status="Running") == ["running"]
        assert await listed(store, status="Completed") == ["completed"]
        assert await listed(store, status="Failed") == ["failed"]
        assert await listed(store, status="Unheard") == []

    async def test_list_executions(self, store: StoreDriver) -> None:
        await several_executions(store, "i1", 3)
        assert await execution_ids(store, "i1") == [1, 2, 3]
        assert await execution_ids(store, "nobody") == []

    async def test_get_instance_info(self, store: StoreDriver) -> None:
        await several_executions(store, "i1", 2)
        (state,) = await store.admin.list_instances()
        assert (state.name, state.version, state.execution_id) == ("Greet", "1.0.0", 2)
        assert state == await store.status("i1")

    async def test_get_execution_info(self, store: StoreDriver) -> None:
        began_ms = store.now_ms()
        await several_executions(store, "i1", 2)
        first, second = await store.admin.list_executions("i1")
        assert (first.status, first.output) == (ExecutionStatus.CONTINUED_AS_NEW, "next")
        assert (first.started_at_ms, first.completed_at_ms) == (began_ms, began_ms)
        assert (second.status, second.output) == (ExecutionStatus.RUNNING, None)
        assert (second.started_at_ms, second.completed_at_ms) == (began_ms + 1_000, None)
        assert (first.event_count, second.event_count) == (2, 2)

    async def test_get_system_metrics(self, store: StoreDriver) -> None:
        await store.running("running")
        await ended(store, "completed")
        await ended(store, "failed", ExecutionStatus.FAILED)
        await several_executions(store, "many", 3)
        metrics = await store.admin.system_metrics()
        assert metrics.total_instances == 4
        assert metrics.total_executions == 6
        assert metrics.total_events == 1 + 2 + 2 + 6
        assert (metrics.running_instances, metrics.completed_instances) == (2, 1)
        assert metrics.failed_instances == 1

    async def test_get_queue_depths(self, store: StoreDriver) -> None:
        assert (await store.admin.queue_depths()).orchestrator_queue == 0
        await store.start("i1")
        await store.start("i2")
        assert (await store.admin.queue_depths()).orchestrator_queue == 2
        await store.lease("i1")
        assert (await store.admin.queue_depths()).orchestrator_queue == 1

    @confirms("queue_depth_is_what_is_ready")
    async def test_queue_depths_tell_timers_from_what_is_ready(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2), activity("i1", 3))
        later_ms = store.now_ms() + 60_000
        await store.send("i1", "timer", kind=MessageKind.TIMER, visible_at_ms=later_ms)
        depths = await store.admin.queue_depths()
        assert (depths.orchestrator_queue, depths.worker_queue, depths.timer_queue) == (0, 2, 1)
        await store.abandon_activity(await store.lease_activity())
        await store.lease_activity()
        assert (await store.admin.queue_depths()).worker_queue == 1
        store.clock.advance(60_000)
        depths = await store.admin.queue_depths()
        assert (depths.orchestrator_queue, depths.worker_queue, depths.timer_queue) == (1, 2, 0)

    async def test_instance_stats(self, store: StoreDriver) -> None:
        assert await store.admin.instance_stats("nobody") is None
        await several_executions(store, "i1", 2)
        stats = await store.admin.instance_stats("i1")
        assert stats is not None
        texts = await store.provider.read_history("i1")
        assert stats.history_event_count == 2
        assert stats.history_size_bytes >= sum(len(text.encode()) for text in texts)
        assert (stats.kv_user_key_count, stats.kv_total_value_bytes) == (0, 0)


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
