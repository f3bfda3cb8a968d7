"""Work items: the messages on the two queues, between clients, orchestrations and activities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from duroxide.failures import Failure
from duroxide.ids import EventId, ExecutionId, InstanceId

# To an orchestration.


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOrchestration:
    instance: InstanceId
    orchestration: str
    input: str
    version: str | None = None  # None: the registry's policy decides when it starts
    parent_instance: InstanceId | None = None
    parent_id: EventId | None = None
    parent_execution_id: ExecutionId | None = None
    execution_id: ExecutionId = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinueAsNew:
    instance: InstanceId
    orchestration: str
    input: str
    version: str | None = None
    carry_forward_events: tuple[tuple[str, str], ...] = ()  # (queue, data), oldest first
    initial_custom_status: str | None = None
    parent_instance: InstanceId | None = None
    parent_id: EventId | None = None
    parent_execution_id: ExecutionId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCompletion:
    """JSON tag `ActivityCompleted`."""

    instance: InstanceId
    execution_id: ExecutionId
    id: EventId  # of the ActivityScheduled
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityFailure:
    """JSON tag `ActivityFailed`."""

    instance: InstanceId
    execution_id: ExecutionId
    id: EventId
    details: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerDue:
    """JSON tag `TimerFired`; becomes visible at `fire_at_ms`."""

    instance: InstanceId
    execution_id: ExecutionId
    id: EventId
    fire_at_ms: int  # Unix epoch, the store's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalRaised:
    instance: InstanceId
    name: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueMessage:
    instance: InstanceId
    name: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildCompleted:
    """JSON tag `SubOrchCompleted`."""

    parent_instance: InstanceId
    parent_execution_id: ExecutionId
    parent_id: EventId
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFailed:
    """JSON tag `SubOrchFailed`."""

    parent_instance: InstanceId
    parent_execution_id: ExecutionId
    parent_id: EventId
    details: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelInstance:
    instance: InstanceId
    reason: str


# To an activity worker.


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityExecute:
    instance: InstanceId
    execution_id: ExecutionId
    id: EventId
    name: str
    input: str
    session_id: str | None = None
    tag: str | None = None
    orchestration: str | None = None  # name and version of the caller, so that no one reads
    version: str | None = None  # its history just to tell the activity who asked


Inbound: TypeAlias = (
    ActivityCompletion
    | ActivityFailure
    | TimerDue
    | ExternalRaised
    | QueueMessage
    | ChildCompleted
    | ChildFailed
    | CancelInstance
)

OrchestratorItem: TypeAlias = StartOrchestration | ContinueAsNew | Inbound

WorkItem: TypeAlias = OrchestratorItem | ActivityExecute


def target(item: WorkItem) -> InstanceId:
    """The instance that a work item is for."""
    match item:
        case ChildCompleted(parent_instance=instance) | ChildFailed(parent_instance=instance):
            return instance
        case _:
            return item.instance
