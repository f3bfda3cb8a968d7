"""History: what an execution has done and what has happened to it, one event a line.

The JSON form, with its type tags and field names, is documented in docs/reference/history.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from duroxide.failures import Failure
from duroxide.ids import EventId, ExecutionId, InstanceId
from duroxide.version import ENGINE_VERSION

# What begins and ends an execution.


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationStarted:
    name: str
    version: str  # resolved once, here; every later turn uses this version exactly
    input: str
    parent_instance: InstanceId | None = None
    parent_id: EventId | None = None
    parent_execution_id: ExecutionId | None = None
    carry_forward_events: tuple[tuple[str, str], ...] | None = None  # (queue, data), oldest first
    initial_custom_status: str | None = None
    engine: str | None = None  # ENGINE_MARK of the rules that hold for this execution
    seed: str | None = None  # of ctx.random and ctx.uuid(); hexadecimal
    limits: Mapping[str, int] | None = None  # those in force when the execution started


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationCompleted:
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationFailed:
    details: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationContinuedAsNew:
    input: str  # of the next execution


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationCancelRequested:
    reason: str


# What the code asked for. An answer names the event that asked by its id.


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityScheduled:
    name: str
    input: str
    session_id: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerCreated:
    fire_at_ms: int  # Unix epoch; authoritative for firing
    delay_ms: int | None = None  # what the code asked for; compared in replay


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalSubscribed:
    name: str
    buffered: bool = False  # takes an event that arrived before it


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSubscribed:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOrchestrationScheduled:
    name: str
    instance: InstanceId  # an explicit id, or a suffix that starts with "sub::"
    input: str
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationChained:
    """A detached start: nothing ever answers it."""

    name: str
    instance: InstanceId
    input: str
    version: str | None = None


# What came from outside.


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCompleted:
    source_event_id: EventId
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityFailed:
    source_event_id: EventId
    details: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    source_event_id: EventId
    fire_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOrchestrationCompleted:
    source_event_id: EventId
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOrchestrationFailed:
    source_event_id: EventId
    details: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalEvent:
    name: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEventDelivered:
    name: str
    data: str


# What the code gave up. A completion may still be on its way; it is then ignored.


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCancelRequested:
    source_event_id: EventId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerCancelled:
    source_event_id: EventId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOrchestrationCancelRequested:
    source_event_id: EventId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalSubscribedCancelled:
    source_event_id: EventId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSubscriptionCancelled:
    source_event_id: EventId
    reason: str


# What the code said about itself.


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomStatusUpdated:
    status: str | None  # None: cleared


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueSet:
    key: str
    value: str
    last_updated_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueCleared:
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValuesCleared:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchMarked:
    """The code reached `ctx.patched(patch_id)` for the first time, live: the new way is taken."""

    patch_id: str


Terminal: TypeAlias = OrchestrationCompleted | OrchestrationFailed | OrchestrationContinuedAsNew

Schedule: TypeAlias = (
    ActivityScheduled
    | TimerCreated
    | ExternalSubscribed
    | QueueSubscribed
    | SubOrchestrationScheduled
    | OrchestrationChained
)

Completion: TypeAlias = (
    ActivityCompleted
    | ActivityFailed
    | TimerFired
    | SubOrchestrationCompleted
    | SubOrchestrationFailed
)

InboundKind: TypeAlias = (
    Completion | ExternalEvent | QueueEventDelivered | OrchestrationCancelRequested
)

Breadcrumb: TypeAlias = (
    ActivityCancelRequested
    | TimerCancelled
    | SubOrchestrationCancelRequested
    | ExternalSubscribedCancelled
    | QueueSubscriptionCancelled
)

Metadata: TypeAlias = (
    CustomStatusUpdated | KeyValueSet | KeyValueCleared | KeyValuesCleared | PatchMarked
)

CommandKind: TypeAlias = Schedule | Breadcrumb | Metadata
"""Events that code emits; in replay it must emit exactly these again."""

EventKind: TypeAlias = OrchestrationStarted | Terminal | InboundKind | CommandKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of history: appended once, never changed."""

    event_id: EventId  # 1, 2, 3 ... within an execution, no gaps
    instance_id: InstanceId
    execution_id: ExecutionId
    timestamp_ms: int  # Unix epoch; the store's clock at the turn that wrote it
    kind: EventKind
    duroxide_version: str = str(ENGINE_VERSION)
    extra: Mapping[str, object] = field(default_factory=dict)  # fields of a newer writer, kept
