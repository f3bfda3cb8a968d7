"""The data of a turn: what a new execution has to be told, and what a turn adds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from duroxide import history, work
from duroxide.history import Event
from duroxide.ids import EventId, ExecutionId, InstanceId
from duroxide.limits import Limits
from duroxide.state import ExecutionStatus, KeyValueChange, SetCustomStatus

DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartInfo:
    """What the first turn of an execution has to know; recorded in its first event."""

    instance_id: InstanceId
    execution_id: ExecutionId
    name: str
    version: str  # resolved
    input: str
    seed: str  # hexadecimal; all randomness of the execution comes from it
    parent_instance: InstanceId | None = None
    parent_id: EventId | None = None
    parent_execution_id: ExecutionId | None = None
    carry_forward_events: tuple[tuple[str, str], ...] = ()  # (queue, data), oldest first
    initial_custom_status: str | None = None
    limits: Limits = DEFAULT_LIMITS


class IgnoreReason(Enum):
    """Why a message was acknowledged without being recorded."""

    OTHER_EXECUTION = "for another execution"
    NEVER_SCHEDULED = "for something that was never scheduled"
    NOT_OPEN = "late or repeated: it was answered or given up before"
    WRONG_KIND = "of another kind than what was scheduled"
    EXECUTION_ENDED = "after the end of the execution"
    ALREADY_CANCELLED = "cancellation was requested before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A message that changed nothing; for metrics and logs."""

    reason: IgnoreReason
    item: work.Inbound


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecutionInfo:
    """What the first turn of an execution tells the store about it."""

    name: str
    version: str
    parent_instance_id: InstanceId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """What a turn adds: history, and the work that it implies."""

    events: tuple[Event, ...]  # n + 1, n + 2 ... without gaps; may be empty
    status: ExecutionStatus
    output: str | None  # the result, the failure's text, or the input of the next execution
    activities: tuple[work.ActivityExecute, ...] = ()
    messages: tuple[work.OrchestratorItem, ...] = ()
    cancelled_activities: tuple[EventId, ...] = ()  # of earlier turns
    cancelled_timers: tuple[EventId, ...] = ()  # of earlier turns
    custom_status: SetCustomStatus | None = None  # the last of the turn
    key_values: tuple[KeyValueChange, ...] = ()  # in order
    projections: tuple[str, ...] = ()  # given to ctx.project() by code that ran live; not history
    ignored: tuple[Ignored, ...] = ()
    unawaited: tuple[history.Schedule, ...] = ()
    """What code that completed had asked for and neither awaited nor cancelled: a slip, most likely."""
    unapplied: int = 0
    """How many of the last inbound messages the turn did not look at, because the execution continues
    as new: they are for the next one, so they must stay in the queue, unconsumed."""
    new_execution: NewExecutionInfo | None = None  # only of an execution's first turn
