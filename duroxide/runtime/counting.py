"""Counters of what a runtime has done, for tests and for `Runtime.metrics_snapshot`."""

from __future__ import annotations

from collections import Counter

from duroxide.results import MetricsSnapshot
from duroxide.runtime.telemetry import ActivityRecord, Observer, TurnRecord
from duroxide.state import ExecutionStatus

_ENDS = {
    ExecutionStatus.COMPLETED: "orch_completions",
    ExecutionStatus.FAILED: "orch_failures",
    ExecutionStatus.CONTINUED_AS_NEW: "orch_continue_as_new",
}
_ERRORS = {
    "app_error": "orch_application_errors",
    "infrastructure_error": "orch_infrastructure_errors",
    "config_error": "orch_configuration_errors",
}
_OUTCOMES = {
    "success": "activity_success",
    "finished": "activity_success",
    "failure": "activity_app_errors",
    "lost": "activity_infra_errors",
    "unregistered": "activity_config_errors",
    "poisoned": "activity_poison",
}


class CountingObserver(Observer):
    """Counts each thing once, when it is durable."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def snapshot(self) -> MetricsSnapshot:
        return MetricsSnapshot(**self._counts)

    def turn_committed(self, record: TurnRecord) -> None:
        self._counts["orch_dispatcher_items_fetched"] += 1
        self._counts["orch_starts"] += record.is_first
        if record.status in _ENDS:
            self._counts[_ENDS[record.status]] += 1
            self._counts["suborchestration_calls"] += record.parent is not None
        if record.failure is not None and record.failure.error_type in _ERRORS:
            self._counts[_ERRORS[record.failure.error_type]] += 1

    def activity_started(self, record: ActivityRecord) -> None:
        self._counts["worker_dispatcher_items_fetched"] += 1

    def activity_ended(self, record: ActivityRecord) -> None:
        if record.outcome in _OUTCOMES:
            self._counts[_OUTCOMES[record.outcome]] += 1

    def instance_poisoned(self, instance_id: str, attempts: int) -> None:
        self._counts["orch_poison"] += 1

    def store_failed(self, operation: str, error: Exception) -> None:
        self._counts["provider_errors"] += 1
