"""Lists, pages and measures."""

from __future__ import annotations

import pytest

from duroxide.errors import ProviderError
from duroxide.providers.base import InstanceQuery, MessageKind
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import StoreDriver, SuiteBase, activity
from duroxide.testing.provider_suite.pasts import (
    child_of,
    ended,
    execution_ids,
    listed,
    pages,
    several_executions,
)


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
