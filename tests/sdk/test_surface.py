"""Names, signatures, values and descriptors, without a store."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import duroxide
from duroxide import (
    Client,
    InstanceFilter,
    OrchestrationContext,
    OrchestrationResult,
    PruneOptions,
    Runtime,
    RuntimeOptions,
    TagFilter,
    parse_result,
)

EXPORTED = [
    "SqliteProvider",
    "PostgresProvider",
    "PostgresEntraOptions",
    "Client",
    "Runtime",
    "OrchestrationResult",
    "RuntimeOptions",
    "OrchestrationContext",
    "ActivityContext",
    "ScheduledTask",
    "TagFilter",
    "OrchestrationStatus",
    "SystemMetrics",
    "SystemStats",
    "QueueDepths",
    "InstanceInfo",
    "ExecutionInfo",
    "InstanceTree",
    "DeleteInstanceResult",
    "PruneOptions",
    "PruneResult",
    "InstanceFilter",
    "Event",
    "MetricsSnapshot",
    "init_tracing",
    "parse_result",
    "MAX_WORKER_TAGS",
    "MAX_TAG_NAME_BYTES",
    "MAX_KV_KEYS",
    "MAX_KV_VALUE_BYTES",
]
ALIASED = [
    "RuntimeOptions",
    "OrchestrationStatus",
    "SystemMetrics",
    "SystemStats",
    "QueueDepths",
    "InstanceInfo",
    "ExecutionInfo",
    "InstanceTree",
    "DeleteInstanceResult",
    "PruneOptions",
    "PruneResult",
    "InstanceFilter",
    "Event",
    "MetricsSnapshot",
]


def test_every_name_of_the_sdk_is_exported() -> None:
    assert [name for name in EXPORTED if name not in duroxide.__all__] == []
    assert [name for name in EXPORTED if not hasattr(duroxide, name)] == []


def test_the_deprecated_names_are_the_same_objects() -> None:
    for name in ALIASED:
        assert getattr(duroxide, f"Py{name}") is getattr(duroxide, name)


def test_the_limits_are_those_of_the_sdk() -> None:
    assert (duroxide.MAX_WORKER_TAGS, duroxide.MAX_TAG_NAME_BYTES) == (5, 256)
    assert (duroxide.MAX_KV_KEYS, duroxide.MAX_KV_VALUE_BYTES) == (150, 65_536)


CALLS = {
    Client: """
        cancel_instance(instance_id, reason)
        delete_instance(instance_id, force)
        delete_instance_bulk(filter)
        enqueue_event(instance_id, queue_name, data)
        enqueue_event_typed(instance_id, queue_name, data)
        get_execution_info(instance_id, execution_id)
        get_kv_value_typed(instance_id, key)
        prune_executions(instance_id, options)
        prune_executions_bulk(filter, options)
        raise_event(instance_id, event_name, data)
        raise_event_typed(instance_id, event_name, data)
        read_execution_history(instance_id, execution_id)
        start_orchestration(instance_id, name, input)
        start_orchestration_typed(instance_id, name, input)
        start_orchestration_versioned(instance_id, name, input, version)
        start_orchestration_versioned_typed(instance_id, name, input, version)
        wait_for_kv_value(instance_id, key, timeout_ms)
        wait_for_orchestration(instance_id, timeout_ms)
        wait_for_orchestration_typed(instance_id, timeout_ms)
        wait_for_status_change(instance_id, last_seen_version, poll_interval_ms, timeout_ms)
    """,
    Runtime: """
        register_activity(name, fn)
        register_activity_typed(name, fn)
        register_orchestration(name, fn)
        register_orchestration_typed(name, fn)
        register_orchestration_versioned(name, version, fn)
        register_orchestration_versioned_typed(name, version, fn)
        shutdown(timeout_ms)
    """,
    OrchestrationContext: """
        schedule_activity(name, input, session_id)
        schedule_activity_typed(name, input, result_type)
        schedule_activity_on_session(name, input, session_id)
        schedule_activity_on_session_typed(name, input, session_id)
        schedule_activity_with_retry(name, input, retry)
        schedule_activity_with_retry_typed(name, input, retry)
        schedule_activity_with_retry_on_session(name, input, retry, session_id)
        schedule_activity_with_retry_on_session_typed(name, input, retry, session_id)
        schedule_sub_orchestration(name, input)
        schedule_sub_orchestration_typed(name, input, result_type)
        schedule_sub_orchestration_with_id(name, instance_id, input)
        schedule_sub_orchestration_with_id_typed(name, instance_id, input)
        schedule_sub_orchestration_versioned(name, version, input)
        schedule_sub_orchestration_versioned_with_id(name, version, instance_id, input)
        start_orchestration(name, instance_id, input)
        start_orchestration_typed(name, instance_id, input)
        start_orchestration_versioned(name, version, instance_id, input)
        start_orchestration_versioned_typed(name, version, instance_id, input)
        continue_as_new_typed(input)
        continue_as_new_versioned(input, version)
        get_kv_value_from_instance(instance_id, key)
        prune_kv_values_updated_before(cutoff_ms)
        schedule_timer(delay_ms)
        wait_for_event(name)
        dequeue_event(queue_name)
    """,
}


@pytest.mark.parametrize("owner", list(CALLS))
def test_methods_take_the_arguments_of_the_sdk(owner: type) -> None:
    for line in CALLS[owner].strip().splitlines():
        name, _, rest = line.strip().rstrip(")").partition("(")
        parameters = [*inspect.signature(getattr(owner, name)).parameters][1:]
        assert (name, parameters) == (name, rest.split(", "))


OPTIONS = [
    "orchestration_concurrency",
    "worker_concurrency",
    "dispatcher_poll_interval_ms",
    "worker_lock_timeout_ms",
    "log_format",
    "log_level",
    "service_name",
    "service_version",
    "max_sessions_per_runtime",
    "session_idle_timeout_ms",
    "worker_node_id",
    "worker_tag_filter",
    "orchestrator_lock_timeout_ms",
    "orchestrator_lock_renewal_buffer_ms",
    "max_attempts",
    "worker_lock_renewal_buffer_ms",
    "session_lock_timeout_ms",
    "session_lock_renewal_buffer_ms",
]


def test_options_are_optional_and_in_order() -> None:
    assert [getattr(RuntimeOptions(), name) for name in OPTIONS] == [None] * 18
    values: Any = [1, 2, 3, 4, "json", "info", "s", "1", 5, 6, "n", "any", 7, 8, 9, 10, 11, 12]
    assert [getattr(RuntimeOptions(*values), name) for name in OPTIONS] == values


def test_values_and_their_defaults() -> None:
    result = OrchestrationResult("Completed")
    assert [result.output, result.error, result.custom_status] == [None, None, None]
    assert result.custom_status_version == 0
    result = OrchestrationResult("Failed", 1, "e", "c", 3)
    result.output = 2
    assert (result.status, result.output, result.error) == ("Failed", 2, "e")
    which = InstanceFilter(["a"], 1, 2)
    assert (which.instance_ids, which.completed_before, which.limit) == (["a"], 1, 2)
    assert InstanceFilter().instance_ids is None
    options = PruneOptions(1, 2)
    assert (options.keep_last, options.completed_before) == (1, 2)
    assert PruneOptions().keep_last is None


def test_tag_filters_are_texts() -> None:
    assert (TagFilter.DEFAULT_ONLY, TagFilter.ANY, TagFilter.NONE) == (
        "default_only",
        "any",
        "none",
    )
    assert TagFilter.tags(["a", "b"]) == '{"tags": ["a", "b"]}'
    assert TagFilter.default_and(["a"]) == '{"default_and": ["a"]}'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([{"ok": 1}, {"err": "x"}, 3], [1, {"err": "x"}, 3]),
        ({"ok": 2}, 2),
        ({"ok": 1, "err": 2}, 1),
        ({"index": 0, "value": {"ok": 1}}, {"index": 0, "value": {"ok": 1}}),
        (None, None),
        ("x", "x"),
        ([], []),
    ],
)
def test_parse_result_unwraps(given: Any, expected: Any) -> None:
    assert parse_result(given) == expected


def test_parse_result_raises_a_plain_exception() -> None:
    with pytest.raises(Exception, match=r"^no$") as raised:
        parse_result({"err": "no"})
    assert type(raised.value) is Exception


def test_a_context_can_be_made_by_hand() -> None:
    names = ("instanceId", "executionId", "orchestrationName", "orchestrationVersion")
    ctx: Any = OrchestrationContext(dict(zip(names, ("i", 2, "o", "1.2.3"), strict=True)))
    assert (ctx.instance_id, ctx.execution_id) == ("i", 2)
    assert (ctx.orchestration_name, ctx.orchestration_version) == ("o", "1.2.3")
    ctx.set_custom_status("x")
    ctx.set_kv_value("a", "b")
    ctx.trace_info("x")
    assert (ctx.get_custom_status(), ctx.get_kv_value("a")) == (None, None)
    assert (ctx.get_kv_all_values(), ctx.get_kv_all_keys(), ctx.get_kv_length()) == ({}, [], 0)
    assert ctx.continue_as_new(1) == {"type": "continueAsNew", "input": "1"}
    with pytest.raises(TypeError, match="not JSON serializable"):
        ctx.schedule_activity("a", object())
