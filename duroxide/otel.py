"""OpenTelemetry metrics and traces of a runtime; needs the extra `opentelemetry`.

Give `RuntimeOptions(observer=OpenTelemetryObserver())`. Span and trace ids are derived from the
instance, so that turns and activities of one workflow meet in one trace, whichever processes ran
them; for the tree to be whole, make the tracer provider with `TracerProvider(id_generator=DurableIds())`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from contextvars import ContextVar

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
    from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags
except ImportError as error:
    raise ImportError(
        "duroxide.otel needs OpenTelemetry: pip install 'pg-durable[opentelemetry]'"
    ) from error

from duroxide.clock import Clock, SystemClock
from duroxide.ids import EventId, ExecutionId, InstanceId
from duroxide.providers.base import QueueDepths, SystemMetrics
from duroxide.runtime.telemetry import ActivityRecord, FailureLabels, Observer, TurnRecord
from duroxide.state import ExecutionStatus

CHILD_MARKER = "::sub::"  # children that were given no id of their own belong to their root's trace
NAMESPACE = "duroxide"
REMEMBERED = 10_000  # executions that still run

_next_ids: ContextVar[tuple[int, int] | None] = ContextVar("_next_ids", default=None)


class DurableIds(IdGenerator):
    """Gives orchestrations the ids that their turns and activities name as their parent."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()

    def generate_trace_id(self) -> int:
        given = _next_ids.get()
        return self._random.generate_trace_id() if given is None else given[0]

    def generate_span_id(self) -> int:
        given = _next_ids.get()
        return self._random.generate_span_id() if given is None else given[1]


class OpenTelemetryObserver(Observer):
    """A span for each orchestration, turn and activity, and counters and histograms of them.

    The span of an activity is current while its code runs: what is traced inside belongs to it.

    Args:
        gauge_interval_s: how often the store is asked for its gauges, two statements; None: never.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        clock: Clock | None = None,
        gauge_interval_s: float | None = 60.0,
    ) -> None:
        self.gauge_interval_s = gauge_interval_s
        self._clock = clock or SystemClock()
        self._counted = _Counted()
        self._tracer = trace.get_tracer(NAMESPACE, tracer_provider=tracer_provider)
        self._running: dict[tuple[InstanceId, ExecutionId, EventId, int], trace.Span] = {}
        meter = metrics.get_meter(NAMESPACE, meter_provider=meter_provider)
        count = meter.create_counter

        def histogram(name: str, buckets: tuple[float, ...], unit: str = "") -> metrics.Histogram:
            return meter.create_histogram(
                name, unit=unit, explicit_bucket_boundaries_advisory=buckets or None
            )

        self._starts = count("duroxide_orchestration_starts_total")
        self._completions = count("duroxide_orchestration_completions_total")
        self._failures = count("duroxide_orchestration_failures_total")
        self._infrastructure = count("duroxide_orchestration_infrastructure_errors_total")
        self._configuration = count("duroxide_orchestration_configuration_errors_total")
        self._continued = count("duroxide_orchestration_continue_as_new_total")
        self._poison = count("duroxide_orchestration_poison_total")
        self._duration = histogram("duroxide_orchestration_duration_seconds", _LONG, "s")
        self._turns = histogram("duroxide_orchestration_turns", _TURNS)
        self._history_size = histogram("duroxide_orchestration_history_size", _EVENTS)
        self._turn = histogram("duroxide_turn_duration_seconds", _QUICK, "s")
        self._turn_wait = histogram("duroxide_turn_schedule_to_start_seconds", _WAIT, "s")
        self._activity_wait = histogram("duroxide_activity_schedule_to_start_seconds", _WAIT, "s")
        self._turns_fetched = count("duroxide_orchestration_dispatcher_items_fetched")
        self._processing = histogram(
            "duroxide_orchestration_dispatcher_processing_duration_ms", (), "ms"
        )
        self._children = count("duroxide_suborchestration_calls_total")
        self._child_duration = histogram("duroxide_suborchestration_duration_seconds", _CHILD, "s")
        self._activities = count("duroxide_activity_executions_total")
        self._activity = histogram("duroxide_activity_duration_seconds", _ACTIVITY, "s")
        self._activity_infrastructure = count("duroxide_activity_infrastructure_errors_total")
        self._activity_configuration = count("duroxide_activity_configuration_errors_total")
        self._activity_poison = count("duroxide_activity_poison_total")
        self._activities_fetched = count("duroxide_worker_dispatcher_items_fetched")
        self._executing = histogram("duroxide_worker_dispatcher_execution_duration_ms", (), "ms")
        self._hits = count("duroxide_cache_hits_total")
        self._misses = count("duroxide_cache_misses_total")
        self._saved = count("duroxide_cache_replayed_events_saved_total")
        self._evictions = count("duroxide_cache_evictions_total")
        self._entries = meter.create_gauge("duroxide_cache_entries")
        self._group = histogram("duroxide_group_commit_size", ())
        self._operation = histogram("duroxide_provider_operation_duration_seconds", _QUICK, "s")
        self._errors = count("duroxide_provider_errors_total")
        self._active = meter.create_gauge("duroxide_active_orchestrations")
        self._ready_turns = meter.create_gauge("duroxide_orchestrator_queue_depth")
        self._ready_activities = meter.create_gauge("duroxide_worker_queue_depth")
        self._timers = meter.create_gauge("duroxide_timer_backlog")

    # Turns.

    def turn_committed(self, record: TurnRecord) -> None:
        name, version = record.orchestration_name, record.orchestration_version
        labels = {"orchestration_name": name, "version": version}
        seconds = record.run_seconds + record.commit_seconds
        turns = self._counted.turn(record)
        if record.is_first:
            self._starts.add(1, {**labels, "initiated_by": _initiator(record)})
        self._turn.record(seconds, labels)
        self._turn_wait.record(record.waited_s, {"orchestration_name": name})
        self._turns_fetched.add(1)
        self._processing.record(seconds * 1000)
        self._observe_cache(record)
        self._trace_turn(record)
        if record.status is ExecutionStatus.RUNNING:
            return
        status = _STATUS[record.status]
        self._completions.add(
            1, {**labels, "status": status, "final_turn_count": _turn_count(turns)}
        )
        self._continued.add(record.status is ExecutionStatus.CONTINUED_AS_NEW, labels)
        lasted_s = max(self._clock.now_ms() - record.began_ms, 0) / 1000
        self._duration.record(lasted_s, {**labels, "status": status})
        self._turns.record(turns, {"orchestration_name": name})
        self._history_size.record(record.history_events, {"orchestration_name": name})
        if record.failure is not None:
            self._observe_failure(record.failure, labels)
        if record.parent is not None and record.status is not ExecutionStatus.CONTINUED_AS_NEW:
            family = {
                "parent_orchestration": self._counted.name_of(record.parent),
                "child_orchestration": name,
                "outcome": status,
            }
            self._children.add(1, family)
            self._child_duration.record(lasted_s, family)
        self._trace_orchestration(record)

    def _observe_failure(self, failure: FailureLabels, labels: Mapping[str, str]) -> None:
        category = {"error_category": failure.error_category}
        self._failures.add(1, {**labels, "error_type": failure.error_type, **category})
        by_name = {"orchestration_name": labels["orchestration_name"], **category}
        self._infrastructure.add(failure.error_type == "infrastructure_error", by_name)
        self._configuration.add(failure.error_type == "config_error", by_name)

    def _observe_cache(self, record: TurnRecord) -> None:
        if record.is_cached:
            self._hits.add(1)
            self._saved.add(record.history_events - record.event_count)
        elif not record.is_first:
            self._misses.add(1, {"reason": "not_kept"})

    def cache_changed(self, entries: int, evicted: int) -> None:
        self._entries.set(entries)
        self._evictions.add(evicted, {"reason": "capacity"})

    def _trace_turn(self, record: TurnRecord) -> None:
        ended = self._clock.now_ms() * 1_000_000
        seconds = record.run_seconds + record.commit_seconds
        span = self._tracer.start_span(
            f"turn {record.orchestration_name}",
            context=_inside(record.instance_id, record.execution_id),
            start_time=ended - int(seconds * 1_000_000_000),
            attributes={
                "duroxide.instance_id": record.instance_id,
                "duroxide.execution_id": record.execution_id,
                "duroxide.events": record.event_count,
                "duroxide.activities": record.activity_count,
                "duroxide.cached": record.is_cached,
                "duroxide.attempt": record.attempt,
            },
        )
        span.end(ended)

    def _trace_orchestration(self, record: TurnRecord) -> None:
        parent = record.parent
        token = _next_ids.set(_ids(record.instance_id, record.execution_id))
        try:
            span = self._tracer.start_span(
                f"orchestration {record.orchestration_name}",
                context=context.Context() if parent is None else _inside(*parent),
                start_time=record.began_ms * 1_000_000,
                attributes={
                    "duroxide.instance_id": record.instance_id,
                    "duroxide.execution_id": record.execution_id,
                    "duroxide.orchestration_version": record.orchestration_version,
                    "duroxide.status": record.status.value,
                },
            )
        finally:
            _next_ids.reset(token)
        if record.status is ExecutionStatus.FAILED:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def instance_poisoned(self, instance_id: InstanceId, attempts: int) -> None:
        self._poison.add(1)

    # Activities.

    def activity_started(self, record: ActivityRecord) -> None:
        self._activity_wait.record(record.waited_s, {"activity_name": record.activity_name})
        span = self._tracer.start_span(
            f"activity {record.activity_name}",
            context=_inside(record.instance_id, record.execution_id),
            attributes={
                "duroxide.instance_id": record.instance_id,
                "duroxide.execution_id": record.execution_id,
                "duroxide.activity_id": record.activity_id,
                "duroxide.attempt": record.attempt,
            },
        )
        self._running[_key(record)] = span
        context.attach(trace.set_span_in_context(span))  # of the activity's own task, which ends

    def activity_ended(self, record: ActivityRecord) -> None:
        name = {"activity_name": record.activity_name}
        outcome = _OUTCOME.get(record.outcome, record.outcome)
        labels = {**name, "outcome": outcome, "tag": record.tag or "default"}
        self._activities.add(1, {**labels, "retry_attempt": str(record.attempt - 1)})
        self._activity.record(record.seconds, labels)
        self._activities_fetched.add(1)
        self._executing.record(record.seconds * 1000)
        self._activity_infrastructure.add(record.outcome == "lost", name)
        self._activity_configuration.add(record.outcome == "unregistered", name)
        self._activity_poison.add(record.outcome == "poisoned")
        span = self._running.pop(_key(record), None)
        if span is None:
            return
        span.set_attribute("duroxide.outcome", record.outcome)
        if record.outcome == "failure":
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    # The store.

    def batch_committed(self, items: int, seconds: float) -> None:
        self._group.record(items)
        self._operation.record(seconds, {"operation": "commit", "status": "success"})

    def store_failed(self, operation: str, error: Exception) -> None:
        self._errors.add(1, {"operation": operation, "error_type": _error_type(error)})

    def store_measured(self, metrics: SystemMetrics, depths: QueueDepths) -> None:
        self._active.set(metrics.running_instances)
        self._ready_turns.set(depths.orchestrator_queue)
        self._ready_activities.set(depths.worker_queue)
        self._timers.set(depths.timer_queue)


class _Counted:
    """What turns of this process say about executions that still run; the oldest are forgotten."""

    def __init__(self) -> None:
        self._running: OrderedDict[tuple[InstanceId, ExecutionId], tuple[str, int]] = OrderedDict()

    def turn(self, record: TurnRecord) -> int:
        """How many there have been of this execution, with this one."""
        key = record.instance_id, record.execution_id
        _, before = self._running.pop(key, ("", 0))
        if record.status is ExecutionStatus.RUNNING:
            self._running[key] = record.orchestration_name, before + 1
            if len(self._running) > REMEMBERED:
                self._running.popitem(last=False)
        return before + 1

    def name_of(self, execution: tuple[InstanceId, ExecutionId]) -> str:
        return self._running.get(execution, ("unknown", 0))[0]


# Buckets as in the reference system.
_QUICK = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5)
_WAIT = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 3600)
_ACTIVITY = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_CHILD = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 600)
_LONG = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600)
_TURNS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_EVENTS = (10, 50, 100, 500, 1000, 5000, 10000)

_OUTCOME = {"failure": "app_error", "finished": "success"}

_STATUS = {
    ExecutionStatus.COMPLETED: "success",
    ExecutionStatus.FAILED: "failed",
    ExecutionStatus.CONTINUED_AS_NEW: "continuedAsNew",
}


def _turn_count(turns: int) -> str:
    for most, label in ((5, "1-5"), (10, "6-10"), (50, "11-50")):
        if turns <= most:
            return label
    return "50+"


def _error_type(error: Exception) -> str:
    text = str(error).lower()
    for word in ("deadlock", "timeout", "connection"):
        if word in text or (word == "timeout" and "timed out" in text):
            return word
    return "other"


def _initiator(record: TurnRecord) -> str:
    if record.execution_id > 1:
        return "continueAsNew"
    return "client" if record.parent is None else "suborchestration"


def _key(record: ActivityRecord) -> tuple[InstanceId, ExecutionId, EventId, int]:
    return record.instance_id, record.execution_id, record.activity_id, record.attempt


def _ids(instance_id: InstanceId, execution_id: ExecutionId) -> tuple[int, int]:
    """Trace and span of an execution; neither is ever zero, which would mean none."""
    root, _, _ = instance_id.partition(CHILD_MARKER)
    return _hash(root, 16), _hash(f"{instance_id}#{execution_id}", 8)


def _hash(text: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1


def _inside(instance_id: InstanceId, execution_id: ExecutionId) -> context.Context:
    trace_id, span_id = _ids(instance_id, execution_id)
    parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(1))
    return trace.set_span_in_context(NonRecordingSpan(parent), context.Context())
