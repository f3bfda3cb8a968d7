"""What history says about something that is given up, and why."""

from __future__ import annotations

from duroxide import history
from duroxide.ids import EventId, InstanceId
from duroxide.state import ExecutionStatus

DROPPED = "dropped_future"
"""The code gave it up: the loser of a select, an explicit cancel, the end of a scope."""

TERMINAL = "orchestration_terminal"
"""It was still open when the execution ended."""

CHILD_MARKER = "sub::"
"""Begins the ids of children that the engine names; `{parent}::` goes before it."""

_TERMINAL_WORD = {
    ExecutionStatus.COMPLETED: "completed",
    ExecutionStatus.FAILED: "failed",
    ExecutionStatus.CONTINUED_AS_NEW: "continued_as_new",
}


def child_instance(parent: InstanceId, recorded: str) -> InstanceId:
    """The full id of a child from what its schedule event says."""
    return f"{parent}::{recorded}" if recorded.startswith(CHILD_MARKER) else recorded


def terminal_reason(schedule: history.Schedule, status: ExecutionStatus) -> str:
    """Why something open is given up at the end; an activity's reason also says which end."""
    if isinstance(schedule, history.ActivityScheduled):
        return f"{TERMINAL}_{_TERMINAL_WORD[status]}"
    return TERMINAL


def breadcrumb(schedule: history.Schedule, source: EventId, reason: str) -> history.Breadcrumb:
    """The event that gives up what `schedule`, event number `source`, asked for."""
    match schedule:
        case history.ActivityScheduled():
            return history.ActivityCancelRequested(source_event_id=source, reason=reason)
        case history.TimerCreated():
            return history.TimerCancelled(source_event_id=source, reason=reason)
        case history.SubOrchestrationScheduled():
            return history.SubOrchestrationCancelRequested(source_event_id=source, reason=reason)
        case history.QueueSubscribed():
            return history.QueueSubscriptionCancelled(source_event_id=source, reason=reason)
        case history.ExternalSubscribed():
            return history.ExternalSubscribedCancelled(source_event_id=source, reason=reason)
        case history.OrchestrationChained():
            raise ValueError("a detached start can't be given up")
