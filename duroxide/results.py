"""What the blocking client returns: plain values with the names of the official SDK."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from duroxide import history
from duroxide.codec import encode_event
from duroxide.providers import base
from duroxide.state import ExecutionStatus


def decoded(text: str | None) -> Any:
    """The value of a JSON text; a text that is not JSON is itself the value."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


@dataclass(slots=True)  # not frozen: the official SDK's can be changed too
class OrchestrationResult:
    """`status` is NotFound, Running, Completed or Failed; a cancelled instance is Failed."""

    status: str
    output: Any = None
    error: str | None = None
    custom_status: str | None = None
    custom_status_version: int = 0

    @classmethod
    def of(cls, state: base.InstanceStatus | None) -> OrchestrationResult:
        if state is None:
            return cls("NotFound")
        told = (state.custom_status, state.custom_status_version)
        match state.status:
            case ExecutionStatus.COMPLETED:
                return cls("Completed", decoded(state.output), None, *told)
            case ExecutionStatus.FAILED:
                return cls("Failed", None, state.output, *told)
            case _:
                return cls("Running", None, None, *told)


OrchestrationStatus = OrchestrationResult


@dataclass(frozen=True, slots=True)
class SystemMetrics:
    total_instances: int
    total_executions: int
    running_instances: int
    completed_instances: int
    failed_instances: int
    total_events: int


@dataclass(frozen=True, slots=True)
class SystemStats:
    history_event_count: int
    history_size_bytes: int
    queue_pending_count: int
    kv_user_key_count: int
    kv_total_value_bytes: int


@dataclass(frozen=True, slots=True)
class QueueDepths:
    orchestrator_queue: int
    worker_queue: int
    timer_queue: int


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """Times are Unix milliseconds; `output` is the text as stored."""

    instance_id: str
    orchestration_name: str
    orchestration_version: str
    current_execution_id: int
    status: str
    output: str | None
    created_at: int
    updated_at: int
    parent_instance_id: str | None
    suspended_at: int | None = None

    @classmethod
    def of(cls, state: base.InstanceStatus) -> InstanceInfo:
        return cls(
            state.instance_id,
            state.name,
            state.version or "",
            state.execution_id,
            state.status.value,
            state.output,
            state.created_at_ms,
            state.updated_at_ms,
            state.parent_instance_id,
            state.suspended_at_ms,
        )


@dataclass(frozen=True, slots=True)
class ExecutionInfo:
    execution_id: int
    status: str
    output: str | None
    started_at: int
    completed_at: int | None
    event_count: int

    @classmethod
    def of(cls, info: base.ExecutionInfo) -> ExecutionInfo:
        return cls(
            info.execution_id,
            info.status.value,
            info.output,
            info.started_at_ms,
            info.completed_at_ms,
            info.event_count,
        )


@dataclass(frozen=True, slots=True)
class InstanceTree:
    root_id: str
    all_ids: Sequence[str]

    @property
    def size(self) -> int:
        return len(self.all_ids)


@dataclass(frozen=True, slots=True)
class DeleteInstanceResult:
    instances_deleted: int
    executions_deleted: int
    events_deleted: int
    queue_messages_deleted: int


@dataclass(frozen=True, slots=True)
class PruneOptions:
    keep_last: int | None = None
    completed_before: int | None = None

    def to_base(self) -> base.PruneOptions:
        return base.PruneOptions(
            keep_last=self.keep_last, completed_before_ms=self.completed_before
        )


@dataclass(frozen=True, slots=True)
class PruneResult:
    instances_processed: int
    executions_deleted: int
    events_deleted: int


@dataclass(frozen=True, slots=True)
class InstanceFilter:
    instance_ids: Sequence[str] | None = None
    completed_before: int | None = None
    limit: int | None = None

    def to_base(self) -> base.InstanceFilter:
        return base.InstanceFilter(
            instance_ids=self.instance_ids,  # type: ignore[arg-type]  # made a tuple there
            completed_before_ms=self.completed_before,
            limit=self.limit,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One line of history; `data` is JSON text about it, or None."""

    event_id: int
    kind: str
    source_event_id: int | None
    timestamp_ms: int
    data: str | None

    @classmethod
    def of(cls, event: history.Event) -> Event:
        kind = event.kind
        return cls(
            event.event_id,
            type(kind).__name__,
            getattr(kind, "source_event_id", None),
            event.timestamp_ms,
            _data(event),
        )


def _data(event: history.Event) -> str | None:
    match event.kind:
        case history.OrchestrationStarted(name=name, version=version, input=text):
            return _object(name=name, version=version, input=_Payload(text))
        case history.OrchestrationCompleted(output=text):
            return text
        case (
            history.ActivityCompleted(result=text) | history.SubOrchestrationCompleted(result=text)
        ):
            return text
        case (
            history.OrchestrationFailed()
            | history.ActivityFailed()
            | history.SubOrchestrationFailed()
        ):
            details = json.loads(encode_event(event))["details"]
            return json.dumps(details, separators=(",", ":"))
        case history.ActivityScheduled(name=name, input=text):
            return _object(name=name, input=_Payload(text))
        case history.SubOrchestrationScheduled(name=name, instance=instance, input=text):
            return _object(name=name, instance=instance, input=_Payload(text))
        case history.TimerCreated(fire_at_ms=at_ms) | history.TimerFired(fire_at_ms=at_ms):
            return _object(fireAtMs=at_ms)
        case history.ExternalSubscribed(name=name) | history.QueueSubscribed(name=name):
            return _object(name=name)
        case (
            history.ExternalEvent(name=name, data=text)
            | history.QueueEventDelivered(name=name, data=text)
        ):
            return _object(name=name, data=_Payload(text))
        case _:
            return None


@dataclass(frozen=True, slots=True)
class _Payload:
    text: str

    def __str__(self) -> str:
        """The payload itself if it is JSON, so that the whole can be read at once; else a string."""
        try:
            json.loads(self.text)
        except ValueError:
            return json.dumps(self.text)
        return self.text


def _object(**members: str | int | _Payload) -> str:
    parts = (
        f"{json.dumps(key)}:{value if isinstance(value, _Payload) else json.dumps(value)}"
        for key, value in members.items()
    )
    return "{" + ",".join(parts) + "}"


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """What a runtime has done since it started."""

    orch_starts: int = 0
    orch_completions: int = 0
    orch_failures: int = 0
    orch_application_errors: int = 0
    orch_infrastructure_errors: int = 0
    orch_configuration_errors: int = 0
    orch_poison: int = 0
    activity_success: int = 0
    activity_app_errors: int = 0
    activity_infra_errors: int = 0
    activity_config_errors: int = 0
    activity_poison: int = 0
    orch_dispatcher_items_fetched: int = 0
    worker_dispatcher_items_fetched: int = 0
    orch_continue_as_new: int = 0
    suborchestration_calls: int = 0
    provider_errors: int = 0


class TagFilter:
    """Values for the option `worker_tag_filter`."""

    DEFAULT_ONLY = "default_only"
    ANY = "any"
    NONE = "none"

    @staticmethod
    def tags(names: Sequence[str]) -> str:
        return json.dumps({"tags": list(names)})

    @staticmethod
    def default_and(names: Sequence[str]) -> str:
        return json.dumps({"default_and": list(names)})
