"""OpenTelemetry metrics and traces of a runtime; needs the extra `opentelemetry`.

Give `RuntimeOptions(observer=OpenTelemetryObserver())`. Span and trace ids are derived from the
instance, so that turns and activities of one workflow meet in one trace, whichever processes ran
them; for the tree to be whole, make the tracer provider with `TracerProvider(id_generator=DurableIds())`.
"""

from __future__ import annotations

import hashlib
from contextvars import ContextVar

from opentelemetry import context, metrics, trace
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from duroxide.clock import Clock, SystemClock
from duroxide.ids import EventId, ExecutionId, InstanceId
from duroxide.runtime.telemetry import ActivityRecord, Observer, TurnRecord
from duroxide.state import ExecutionStatus

CHILD_MARKER = "::sub::"  # children that were given no id of their own belong to their root's trace
NAMESPACE = "duroxide"

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
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._tracer = trace.get_tracer(NAMESPACE, tracer_provider=tracer_provider)
        self._running: dict[tuple[InstanceId, ExecutionId, EventId, int], trace.Span] = {}
        meter = metrics.get_meter(NAMESPACE, meter_provider=meter_provider)
        count, seconds = meter.create_counter, meter.create_histogram
        self._starts = count("duroxide_orchestration_starts_total")
        self._completions = count("duroxide_orchestration_completions_total")
        self._continued = count("duroxide_orchestration_continue_as_new_total")
        self._poison = count("duroxide_orchestration_poison_total")
        self._duration = seconds("duroxide_orchestration_duration_seconds", unit="s")
        self._history_size = seconds("duroxide_orchestration_history_size")
        self._turn = seconds("duroxide_turn_duration_seconds", unit="s")
        self._activities = count("duroxide_activity_executions_total")
        self._activity = seconds("duroxide_activity_duration_seconds", unit="s")
        self._activity_poison = count("duroxide_activity_poison_total")
        self._group = seconds("duroxide_group_commit_size")
        self._commit = seconds("duroxide_provider_operation_duration_seconds", unit="s")
        self._errors = count("duroxide_provider_errors_total")

    # Turns.

    def turn_committed(self, record: TurnRecord) -> None:
        labels = {
            "orchestration_name": record.orchestration_name,
            "version": record.orchestration_version,
        }
        if record.is_first:
            self._starts.add(1, {**labels, "initiated_by": _initiator(record)})
        self._turn.record(record.run_seconds + record.commit_seconds, labels)
        self._trace_turn(record)
        if record.status is ExecutionStatus.RUNNING:
            return
        status = _STATUS[record.status]
        self._completions.add(1, {**labels, "status": status})
        self._continued.add(record.status is ExecutionStatus.CONTINUED_AS_NEW, labels)
        seconds = max(self._clock.now_ms() - record.began_ms, 0) / 1000
        self._duration.record(seconds, {**labels, "status": status})
        self._history_size.record(
            record.history_events, {"orchestration_name": record.orchestration_name}
        )
        self._trace_orchestration(record)

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
        labels = {
            "activity_name": record.activity_name,
            "outcome": record.outcome,
            "tag": record.tag or "default",
        }
        self._activities.add(1, labels)
        self._activity.record(record.seconds, labels)
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
        self._commit.record(seconds, {"operation": "commit", "status": "success"})

    def store_failed(self, operation: str, error: Exception) -> None:
        self._errors.add(1, {"operation": operation, "error_type": type(error).__name__})


_STATUS = {
    ExecutionStatus.COMPLETED: "success",
    ExecutionStatus.FAILED: "failed",
    ExecutionStatus.CONTINUED_AS_NEW: "continuedAsNew",
}


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
