"""The client's methods, their values and their errors, and the runtime's own."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from duroxide import InstanceFilter, PruneOptions
from tests.sdk.app import TIMEOUT_MS, App, boom, echo

Steps = Generator[Any, Any, Any]


def works(ctx: Any, value: Any) -> Steps:
    result = yield ctx.schedule_activity("echo", value)
    return result


def breaks(ctx: Any, value: Any) -> Steps:
    yield ctx.schedule_activity("boom", "x")


def waits(ctx: Any, value: Any) -> Steps:
    ctx.set_custom_status("waiting")
    yield ctx.wait_for_event("never")


@pytest.fixture
def busy(app: App) -> App:
    """Two completed instances, one that failed and one that waits."""
    app.activities(echo, boom).orchestrations(works, breaks, waits).start()
    app.run("works", "A", "a")
    app.run("works", "B", "b")
    app.run("breaks", None, "broken")
    app.client.start_orchestration("waiting", "waits")
    app.until_status("waiting", "waiting")
    return app


def test_statuses(busy: App) -> None:
    client = busy.client
    told = client.get_status("nobody")
    assert [told.status, told.output, told.error] == ["NotFound", None, None]
    assert [told.custom_status, told.custom_status_version] == [None, 0]
    told = client.get_status("waiting")
    assert [told.status, told.output, told.error] == ["Running", None, None]
    assert [told.custom_status, told.custom_status_version] == ["waiting", 1]
    told = client.get_status("a")
    assert [told.status, told.output, told.error] == ["Completed", "A", None]
    assert client.get_status("broken").status == "Failed"
    assert client.wait_for_orchestration_typed("a") == "A"
    with pytest.raises(Exception, match="ValueError: x") as raised:
        client.wait_for_orchestration_typed("broken")
    assert type(raised.value) is Exception
    assert client.wait_for_status_change("a", 7).status == "Completed"


def test_waits_end_with_a_runtime_error(busy: App) -> None:
    client = busy.client
    for wait in (client.wait_for_orchestration, client.wait_for_orchestration_typed):
        for instance_id in ("waiting", "nobody"):
            with pytest.raises(RuntimeError, match=r"^Operation timed out$"):
                wait(instance_id, 30)
    with pytest.raises(RuntimeError, match=r"^Operation timed out$"):
        client.wait_for_status_change("waiting", 1, 10, 30)


def test_lists_and_numbers(busy: App) -> None:
    client = busy.client
    assert sorted(client.list_all_instances()) == ["a", "b", "broken", "waiting"]
    assert sorted(client.list_instances_by_status("Completed")) == ["a", "b"]
    assert client.list_instances_by_status("Failed") == ["broken"]
    assert client.list_instances_by_status("Running") == ["waiting"]
    assert client.list_instances_by_status("ContinuedAsNew") == []
    assert client.list_executions("a") == [1]
    assert client.list_executions("nobody") == []
    metrics = client.get_system_metrics()
    assert (metrics.total_instances, metrics.total_executions) == (4, 4)
    assert (metrics.running_instances, metrics.completed_instances) == (1, 2)
    assert (metrics.failed_instances, metrics.total_events) == (1, 15)
    stats = client.get_orchestration_stats("a")
    assert stats is not None
    assert (stats.history_event_count, stats.queue_pending_count) == (4, 0)
    assert (stats.kv_user_key_count, stats.kv_total_value_bytes) == (0, 0)
    assert stats.history_size_bytes > 400
    assert client.get_orchestration_stats("nobody") is None
    depths = client.get_queue_depths()
    assert (depths.orchestrator_queue, depths.worker_queue, depths.timer_queue) == (0, 0, 0)


def test_facts_of_an_instance(busy: App) -> None:
    info = busy.client.get_instance_info("a")
    assert (info.instance_id, info.orchestration_name) == ("a", "works")
    assert (info.orchestration_version, info.current_execution_id) == ("1.0.0", 1)
    assert (info.status, info.output, info.parent_instance_id) == ("Completed", '"A"', None)
    assert isinstance(info.created_at, int)
    assert isinstance(info.updated_at, int)
    execution = busy.client.get_execution_info("a", 1)
    assert (execution.execution_id, execution.status) == (1, "Completed")
    assert (execution.output, execution.event_count) == ('"A"', 4)
    tree = busy.client.get_instance_tree("a")
    assert (tree.root_id, list(tree.all_ids), tree.size) == ("a", ["a"], 1)
    for ask in (
        busy.client.get_instance_info,
        lambda name: busy.client.get_execution_info(name, 1),
    ):
        with pytest.raises(RuntimeError, match=r"nobody.*not found|not found.*nobody"):
            ask("nobody")


def test_the_history_of_an_execution(busy: App) -> None:
    events = busy.client.read_execution_history("a", 1)
    assert [
        (event.event_id, event.kind, event.source_event_id, event.data) for event in events
    ] == [
        (1, "OrchestrationStarted", None, '{"name":"works","version":"1.0.0","input":"A"}'),
        (2, "ActivityScheduled", None, '{"name":"echo","input":"A"}'),
        (3, "ActivityCompleted", 2, '"A"'),
        (4, "OrchestrationCompleted", None, '"A"'),
    ]
    assert all(event.timestamp_ms > 1_600_000_000_000 for event in events)
    waiting = busy.client.read_execution_history("waiting", 1)
    assert [(event.kind, event.data) for event in waiting[1:]] == [
        ("CustomStatusUpdated", None),
        ("ExternalSubscribed", '{"name":"never"}'),
    ]
    failed = busy.client.read_execution_history("broken", 1)[2]
    assert failed.kind == "ActivityFailed"
    assert str(failed.data).startswith(
        '{"Application":{"kind":"ActivityFailed","message":"Activity '
    )
    assert busy.client.read_execution_history("a", 7) == []
    assert busy.client.read_execution_history("nobody", 1) == []


def test_deleting_and_pruning(busy: App) -> None:
    client = busy.client
    for unfit in ("waiting", "nobody"):
        with pytest.raises(RuntimeError, match=unfit):
            client.delete_instance(unfit)
    pruned = client.prune_executions("a", PruneOptions(keep_last=1))
    assert (pruned.instances_processed, pruned.executions_deleted, pruned.events_deleted) == (
        1,
        0,
        0,
    )
    bulk = client.prune_executions_bulk(InstanceFilter(["a"]), PruneOptions(1))
    assert (bulk.instances_processed, bulk.executions_deleted) == (1, 0)
    with pytest.raises(RuntimeError, match="nobody"):
        client.prune_executions("nobody", PruneOptions(keep_last=1))
    some = client.delete_instance_bulk(InstanceFilter(instance_ids=["a", "nobody", "waiting"]))
    assert (some.instances_deleted, some.executions_deleted, some.events_deleted) == (1, 1, 4)
    assert client.delete_instance("b").queue_messages_deleted == 0
    assert client.delete_instance("waiting", True).instances_deleted == 1
    assert client.delete_instance_bulk().instances_deleted == 1
    assert client.list_all_instances() == []


def test_cancelling(busy: App) -> None:
    client = busy.client
    client.cancel_instance("waiting", "why")
    result = client.wait_for_orchestration("waiting", TIMEOUT_MS)
    assert (result.status, result.output, result.error) == ("Failed", None, "canceled: why")
    client.start_orchestration("other", "waits")
    client.cancel_instance("other")
    assert client.wait_for_orchestration("other", TIMEOUT_MS).error == "canceled: "
    client.cancel_instance("a", "too late")
    assert client.get_status("a").status == "Completed"


def test_starting(busy: App) -> None:
    client = busy.client
    client.start_orchestration("a", "breaks", "again")
    assert client.wait_for_orchestration("a", TIMEOUT_MS).output == "A"
    client.start_orchestration_versioned("c", "works", {"n": 1}, "1.0.0")
    assert client.wait_for_orchestration("c", TIMEOUT_MS).output == {"n": 1}
    client.start_orchestration_typed("d", "works", "5")
    assert client.wait_for_orchestration("d", TIMEOUT_MS).output == "5"
    client.start_orchestration_versioned_typed("e", "works", None, "1.0.0")
    assert client.wait_for_orchestration("e", TIMEOUT_MS).output is None
    for reserved in ("sub::x", "a::sub::1"):
        with pytest.raises(RuntimeError) as raised:
            client.start_orchestration(reserved, "works")
        assert str(raised.value) == (
            f"Invalid input: instance id '{reserved}' uses the reserved sub-orchestration "
            "marker 'sub::'"
        )
    with pytest.raises(TypeError, match="Object of type object is not JSON serializable"):
        client.start_orchestration("f", "works", object())


def test_decorators_return_the_function(app: App) -> None:
    runtime = app.runtime

    @runtime.register_activity("one")
    def one(ctx: Any, value: Any) -> Any:
        return ["one", value]

    @runtime.register_activity_typed("two")
    def two(ctx: Any, value: Any) -> Any:
        return ["two", value]

    @runtime.register_orchestration("inner")
    def inner(ctx: Any, value: Any) -> Steps:
        return [
            (yield ctx.schedule_activity("one", value)),
            (yield ctx.schedule_activity("two", value)),
        ]

    @runtime.register_orchestration_typed("outer")
    def outer(ctx: Any, value: Any) -> Steps:
        return (yield ctx.schedule_sub_orchestration("inner", value))

    @runtime.register_orchestration_versioned("v", "1.2.0")
    def version(ctx: Any, value: Any) -> Steps:
        yield ctx.schedule_timer(0)
        return ctx.orchestration_version

    @runtime.register_orchestration_versioned_typed("w", "1.3.0")
    def another(ctx: Any, value: Any) -> Any:
        return ctx.orchestration_version

    assert one(None, 1) == ["one", 1]
    assert runtime.register_activity("direct", two) is two
    assert runtime.register_activity("__duroxide_syscall:mine", two) is two
    assert runtime.register_orchestration("again", inner) is inner
    app.start()
    assert app.output("outer", 7, "1") == [["one", 7], ["two", 7]]
    assert app.output("v", 7, "2") == "1.2.0"
    assert app.output("w", 7, "3") == "1.3.0"
    assert app.output("again", 7, "4") == [["one", 7], ["two", 7]]


def test_the_runtime_starts_once_and_stops_as_often_as_one_likes(app: App) -> None:
    app.orchestrations(waits).start()
    with pytest.raises(RuntimeError):
        app.runtime.start()
    snapshot = app.runtime.metrics_snapshot()
    assert snapshot is None or snapshot.orch_poison == 0
    app.runtime.shutdown(200)
    app.runtime.shutdown()
