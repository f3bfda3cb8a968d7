"""Messages from outside: whether one counts, which event it becomes, and whom that event answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from duroxide import history, work
from duroxide.engine.breadcrumbs import child_instance
from duroxide.engine.futures import State
from duroxide.engine.journal import Journal, ScheduledFuture
from duroxide.engine.result import IgnoreReason
from duroxide.errors import ActivityError, SubOrchestrationError, TaskError
from duroxide.failures import (
    ApplicationFailure,
    ApplicationKind,
    ConfigurationFailure,
    Failure,
    InfrastructureFailure,
    PoisonFailure,
)
from duroxide.history import InboundKind

Accepted: TypeAlias = "InboundKind | IgnoreReason"

_ANSWERS: Mapping[type[Any], type[Any]] = {
    history.ActivityCompleted: history.ActivityScheduled,
    history.ActivityFailed: history.ActivityScheduled,
    history.TimerFired: history.TimerCreated,
    history.SubOrchestrationCompleted: history.SubOrchestrationScheduled,
    history.SubOrchestrationFailed: history.SubOrchestrationScheduled,
}


# From message to event.


def accept(journal: Journal, item: work.Inbound) -> Accepted:
    """The event that a message becomes, or why it becomes none."""
    return _ACCEPT[type(item)](journal, item)


def _find(
    journal: Journal, execution_id: int, schedule_id: int, kind: type[Any]
) -> ScheduledFuture[Any] | IgnoreReason:
    if execution_id != journal.execution_id:
        return IgnoreReason.OTHER_EXECUTION
    future = journal.open.get(schedule_id)
    if future is None:
        known = 1 < schedule_id <= journal.last_id
        return IgnoreReason.NOT_OPEN if known else IgnoreReason.NEVER_SCHEDULED
    return future if isinstance(future.schedule, kind) else IgnoreReason.WRONG_KIND


def _activity_completed(journal: Journal, item: work.ActivityCompletion) -> Accepted:
    found = _find(journal, item.execution_id, item.id, history.ActivityScheduled)
    if isinstance(found, IgnoreReason):
        return found
    return history.ActivityCompleted(source_event_id=item.id, result=item.result)


def _activity_failed(journal: Journal, item: work.ActivityFailure) -> Accepted:
    found = _find(journal, item.execution_id, item.id, history.ActivityScheduled)
    if isinstance(found, IgnoreReason):
        return found
    return history.ActivityFailed(source_event_id=item.id, details=item.details)


def _timer_due(journal: Journal, item: work.TimerDue) -> Accepted:
    found = _find(journal, item.execution_id, item.id, history.TimerCreated)
    if isinstance(found, IgnoreReason):
        return found
    timer = found.schedule
    assert isinstance(timer, history.TimerCreated)
    return history.TimerFired(source_event_id=item.id, fire_at_ms=timer.fire_at_ms)


def _child_completed(journal: Journal, item: work.ChildCompleted) -> Accepted:
    found = _find(
        journal, item.parent_execution_id, item.parent_id, history.SubOrchestrationScheduled
    )
    if isinstance(found, IgnoreReason):
        return found
    return history.SubOrchestrationCompleted(source_event_id=item.parent_id, result=item.result)


def _child_failed(journal: Journal, item: work.ChildFailed) -> Accepted:
    found = _find(
        journal, item.parent_execution_id, item.parent_id, history.SubOrchestrationScheduled
    )
    if isinstance(found, IgnoreReason):
        return found
    return history.SubOrchestrationFailed(source_event_id=item.parent_id, details=item.details)


_ACCEPT: Mapping[type[Any], Callable[[Journal, Any], Accepted]] = {
    work.ActivityCompletion: _activity_completed,
    work.ActivityFailure: _activity_failed,
    work.TimerDue: _timer_due,
    work.ChildCompleted: _child_completed,
    work.ChildFailed: _child_failed,
    work.ExternalRaised: lambda _, item: history.ExternalEvent(name=item.name, data=item.data),
    work.QueueMessage: lambda _, item: history.QueueEventDelivered(name=item.name, data=item.data),
    work.CancelInstance: lambda _, item: history.OrchestrationCancelRequested(reason=item.reason),
}


# From event to whoever waits for it.


def answers_open_schedule(journal: Journal, kind: history.Completion) -> bool:
    """Whether a recorded completion has something to answer; false in a history that is damaged."""
    future = journal.open.get(kind.source_event_id)
    return future is not None and type(future.schedule) is _ANSWERS[type(kind)]


def deliver(journal: Journal, kind: InboundKind) -> None:
    """Settle the future that the event answers, if one waits."""
    _DELIVER[type(kind)](journal, kind)


def _deliver_result(journal: Journal, kind: Any) -> None:
    journal.open.pop(kind.source_event_id).settle_with_text(kind.result)


def _deliver_timer(journal: Journal, kind: history.TimerFired) -> None:
    journal.open.pop(kind.source_event_id).settle(State.DONE)


def _deliver_failure(journal: Journal, kind: Any) -> None:
    future = journal.open.pop(kind.source_event_id)
    schedule = future.schedule
    error = error_of(kind.details, schedule)
    if isinstance(schedule, history.SubOrchestrationScheduled):
        assert isinstance(error, SubOrchestrationError)
        error.instance_id = child_instance(journal.instance_id, schedule.instance)
    future.settle(State.FAILED, error)


def _deliver_event(journal: Journal, kind: history.ExternalEvent) -> None:
    _hand_over(journal, journal.events.deliver(kind.name, kind.data), kind.data)


def _deliver_message(journal: Journal, kind: history.QueueEventDelivered) -> None:
    _hand_over(journal, journal.queues.deliver(kind.name, kind.data), kind.data)


def _hand_over(journal: Journal, reader: object, data: str) -> None:
    if isinstance(reader, ScheduledFuture):
        del journal.open[reader.event_id]
        reader.settle_with_text(data)


_DELIVER: Mapping[type[Any], Callable[[Journal, Any], None]] = {
    history.ActivityCompleted: _deliver_result,
    history.SubOrchestrationCompleted: _deliver_result,
    history.ActivityFailed: _deliver_failure,
    history.SubOrchestrationFailed: _deliver_failure,
    history.TimerFired: _deliver_timer,
    history.ExternalEvent: _deliver_event,
    history.QueueEventDelivered: _deliver_message,
}


def error_of(details: Failure, schedule: history.Schedule) -> TaskError:
    """What the code that waits sees of a failure."""
    kind = details.kind
    cls: type[TaskError] = SubOrchestrationError
    if isinstance(schedule, history.ActivityScheduled):
        cls = ActivityError
    match kind:
        case ApplicationFailure():
            cancelled = kind.kind is ApplicationKind.CANCELLED
            error = cls(
                str(details),
                "Cancelled" if cancelled else kind.error_type,
                kind.data,
                kind.retryable,
            )
        case InfrastructureFailure():
            error = cls(str(details), None, None, kind.retryable, "infrastructure")
        case ConfigurationFailure():
            error = cls(str(details), None, None, False, "configuration")
        case PoisonFailure():
            error = cls(str(details), None, None, False, "poison")
    error.name = getattr(schedule, "name", None)
    return error
