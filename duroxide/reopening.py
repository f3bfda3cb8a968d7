"""How an instance that was given up goes on from where it was: read from its history, purely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from duroxide import history, work
from duroxide.engine.breadcrumbs import TERMINAL, child_instance
from duroxide.failures import Failure, PoisonedActivity, PoisonFailure
from duroxide.history import Event, OrchestrationFailed, OrchestrationStarted
from duroxide.ids import EventId, InstanceId
from duroxide.providers.base import Reopening
from duroxide.routing import activity_of, message_of

_GIVEN_UP = (
    history.ActivityCancelRequested,
    history.TimerCancelled,
    history.SubOrchestrationCancelRequested,
    history.QueueSubscriptionCancelled,
    history.ExternalSubscribedCancelled,
)


@dataclass(frozen=True, slots=True)
class Ending:
    """The last turn of an instance that was given up.

    Args:
        kept: the events before it; none if the execution never began.
        given_up: what was open then, by the event that had asked for it.
        event_count: of the whole history.
    """

    kept: Sequence[Event]
    given_up: Mapping[EventId, history.EventKind]
    event_count: int

    def children(self) -> dict[EventId, InstanceId]:
        """The full ids of the children that were cancelled with it."""
        return {
            event_id: child_instance(self.kept[0].instance_id, kind.instance)
            for event_id, kind in self.given_up.items()
            if isinstance(kind, history.SubOrchestrationScheduled)
        }


def poisoned_ending(events: Sequence[Event]) -> Ending | None:
    """How the execution was given up as poison; None if it was not, or by one of its activities."""
    match events[-1].kind if events else None:
        case OrchestrationFailed(details=Failure(kind=PoisonFailure(subject=subject))):
            if isinstance(subject, PoisonedActivity):
                return None
        case _:
            return None
    cut = len(events) - 1
    given_up: dict[EventId, history.EventKind] = {}
    while cut > 0:
        kind = events[cut - 1].kind
        if not isinstance(kind, _GIVEN_UP) or not kind.reason.startswith(TERMINAL):
            break
        given_up[kind.source_event_id] = events[kind.source_event_id - 1].kind
        cut -= 1
    first = events[0].kind
    if cut == 1 and isinstance(first, OrchestrationStarted) and not first.seed:
        cut = 0  # its start was written only so that there is something that fails
    return Ending(events[:cut], dict(sorted(given_up.items())), len(events))


def reopening(ending: Ending, execution_id: int, ended: Mapping[EventId, Event]) -> Reopening:
    """What puts the instance back.

    Args:
        ended: the last event of each child that has ended, by the event that had asked for it.
    """
    first = ending.kept[0].kind if ending.kept else None
    activities, messages = [], []
    for event_id, kind in ending.given_up.items():
        instance_id = ending.kept[0].instance_id
        match kind:
            case history.ActivityScheduled():
                assert isinstance(first, OrchestrationStarted)
                execute = work.ActivityExecute(
                    instance=instance_id,
                    execution_id=execution_id,
                    id=event_id,
                    name=kind.name,
                    input=kind.input,
                    session_id=kind.session_id,
                    tag=kind.tag,
                    orchestration=first.name,
                    version=first.version,
                )
                activities.append(activity_of(execute))
            case history.TimerCreated():
                due = work.TimerDue(
                    instance=instance_id,
                    execution_id=execution_id,
                    id=event_id,
                    fire_at_ms=kind.fire_at_ms,
                )
                messages.append(message_of(due))
            case history.SubOrchestrationScheduled() if event_id in ended:
                answer = _answer(ended[event_id], instance_id, execution_id, event_id)
                if answer is not None:
                    messages.append(message_of(answer))
            case _:
                pass  # it listens again as soon as its history is cut; a child that runs will answer
    return Reopening(
        execution_id=execution_id,
        event_count=ending.event_count,
        keep_events=len(ending.kept),
        activities=tuple(activities),
        messages=tuple(messages),
    )


def _answer(
    last: Event, parent: InstanceId, execution_id: int, event_id: EventId
) -> work.ChildCompleted | work.ChildFailed | None:
    match last.kind:
        case history.OrchestrationCompleted(output=output):
            return work.ChildCompleted(
                parent_instance=parent,
                parent_execution_id=execution_id,
                parent_id=event_id,
                result=output,
            )
        case OrchestrationFailed(details=details):
            return work.ChildFailed(
                parent_instance=parent,
                parent_execution_id=execution_id,
                parent_id=event_id,
                details=details,
            )
        case _:
            return None
