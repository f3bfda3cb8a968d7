"""The table of docs/reference/sdk.md says of every name of the official SDK what it is here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SDK = Path(__file__).parents[2] / "docs" / "reference" / "sdk.md"

MODULE = """
    SqliteProvider PostgresProvider PostgresEntraOptions Client Runtime OrchestrationResult RuntimeOptions
    OrchestrationContext ActivityContext ScheduledTask TagFilter OrchestrationStatus SystemMetrics SystemStats
    QueueDepths InstanceInfo ExecutionInfo InstanceTree DeleteInstanceResult PruneOptions PruneResult
    InstanceFilter Event MetricsSnapshot init_tracing parse_result MAX_WORKER_TAGS MAX_TAG_NAME_BYTES MAX_KV_KEYS
    MAX_KV_VALUE_BYTES
    PyRuntimeOptions PyOrchestrationStatus PySystemMetrics PySystemStats PyQueueDepths PyInstanceInfo
    PyExecutionInfo PyInstanceTree PyDeleteInstanceResult PyPruneOptions PyPruneResult PyInstanceFilter PyEvent
    PyMetricsSnapshot
    PySqliteProvider PyPostgresProvider PyPostgresEntraOptions PyClient PyRuntime activity_trace_log
    orchestration_trace_log orchestration_set_custom_status orchestration_reset_custom_status
    orchestration_get_custom_status activity_is_cancelled activity_tag create_generator next_step
    dispose_generator
"""
PROVIDERS = """
    open in_memory connect connect_with_schema connect_with_entra connect_with_schema_and_entra
"""
RUNTIME = """
    register_activity register_activity_typed register_orchestration register_orchestration_typed
    register_orchestration_versioned register_orchestration_versioned_typed start shutdown metrics_snapshot
"""
OPTIONS = """
    orchestration_concurrency worker_concurrency dispatcher_poll_interval_ms worker_lock_timeout_ms log_format
    log_level service_name service_version max_sessions_per_runtime session_idle_timeout_ms worker_node_id
    worker_tag_filter orchestrator_lock_timeout_ms orchestrator_lock_renewal_buffer_ms max_attempts
    worker_lock_renewal_buffer_ms session_lock_timeout_ms session_lock_renewal_buffer_ms
"""
CLIENT = """
    start_orchestration start_orchestration_versioned get_status wait_for_orchestration
    wait_for_orchestration_typed wait_for_status_change cancel_instance raise_event enqueue_event get_kv_value
    get_kv_value_typed wait_for_kv_value wait_for_kv_value_typed start_orchestration_typed
    start_orchestration_versioned_typed raise_event_typed enqueue_event_typed get_system_metrics
    get_orchestration_stats get_queue_depths list_all_instances list_instances_by_status get_instance_info
    get_execution_info list_executions read_execution_history get_instance_tree delete_instance
    delete_instance_bulk prune_executions prune_executions_bulk
"""
ORCHESTRATION = """
    instance_id execution_id orchestration_name orchestration_version
    schedule_activity schedule_activity_typed schedule_activity_on_session schedule_activity_on_session_typed
    schedule_activity_with_retry schedule_activity_with_retry_typed schedule_activity_with_retry_on_session
    schedule_activity_with_retry_on_session_typed schedule_timer wait_for_event wait_for_event_typed
    dequeue_event dequeue_event_typed schedule_sub_orchestration schedule_sub_orchestration_typed
    schedule_sub_orchestration_with_id schedule_sub_orchestration_with_id_typed
    schedule_sub_orchestration_versioned schedule_sub_orchestration_versioned_with_id start_orchestration
    start_orchestration_typed start_orchestration_versioned start_orchestration_versioned_typed new_guid utc_now
    continue_as_new continue_as_new_typed continue_as_new_versioned all race all_typed race_typed
    get_kv_value_from_instance set_custom_status reset_custom_status get_custom_status set_kv_value get_kv_value
    get_kv_all_values get_kv_all_keys get_kv_length clear_kv_value clear_all_kv_values
    prune_kv_values_updated_before trace_info trace_warn trace_error trace_debug with_tag
"""
ACTIVITY = """
    instance_id execution_id orchestration_name orchestration_version activity_name worker_id session_id
    tag is_cancelled get_client trace_info trace_warn trace_error trace_debug
"""


def names_of_the_table() -> set[str]:
    """Those of its first column; `…_typed` stands for each name before it in the cell, so ended."""
    found: set[str] = set()
    for line in SDK.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| "):
            continue
        cell = line.split("|")[1]
        bases: list[str] = []
        for span in re.findall(r"`([^`]+)`", cell):
            name = re.sub(r"\(.*\)", "", span)
            if name.startswith("…"):
                found.update(base + name[1:] for base in bases)
            else:
                bases.append(name.rpartition(".")[2])
                found.add(name.partition(".")[0])
        found.update(bases)
    return found


@pytest.mark.parametrize(
    "names",
    [MODULE, PROVIDERS, RUNTIME, OPTIONS, CLIENT, ORCHESTRATION, ACTIVITY],
    ids=["module", "providers", "runtime", "options", "client", "orchestration", "activity"],
)
def test_every_name_of_the_official_sdk_is_in_the_table(names: str) -> None:
    known = names_of_the_table()
    assert [name for name in names.split() if name not in known] == []
