"""Ends that bypass user code: poison, lost storage, code that no longer fits its history.

The same care as for any end: breadcrumbs for all that is open, one terminal event, last, the parent
answered, activities, timers and children cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence

from duroxide import history
from duroxide.engine.breadcrumbs import breadcrumb, terminal_reason
from duroxide.engine.outbox import Outbox, fill
from duroxide.engine.recorded import started_event
from duroxide.engine.result import NewExecutionInfo, StartInfo, TurnResult
from duroxide.failures import Failure
from duroxide.history import Event, EventKind, OrchestrationStarted
from duroxide.ids import EventId, ExecutionId, InstanceId
from duroxide.state import ExecutionStatus


def fail_execution(
    events: Sequence[Event],
    failure: Failure,
    *,
    now_ms: int,
    start: StartInfo | None = None,
) -> TurnResult:
    """End an execution as failed.

    Args:
        events: its history; empty if it never began, and then `start` says what would have begun.

    Raises:
        ValueError: neither history nor `start`, or the execution has ended already.
    """
    if bool(events) == (start is not None):
        raise ValueError("an execution is failed by its history, or by what would have begun it")
    if start is not None:
        first = started_event(start, now_ms)
        return _end([first], [], failure, first=first, now_ms=now_ms, begins=True)
    if isinstance(events[-1].kind, history.Terminal):
        raise ValueError("the execution has ended already")
    return _end(events, open_schedules(events), failure, first=events[0], now_ms=now_ms)


def fail_unreadable(
    failure: Failure,
    *,
    instance_id: InstanceId,
    execution_id: ExecutionId,
    next_event_id: EventId,
    now_ms: int,
    first: Event | None = None,
) -> TurnResult:
    """End an execution whose history can't be read; what is open in it stays unknown.

    Args:
        first: its first event, if at least that can be read: only then can the parent be answered.
    """
    stand_in = Event(
        event_id=next_event_id - 1,
        instance_id=instance_id,
        execution_id=execution_id,
        timestamp_ms=now_ms,
        kind=first.kind if first is not None else _NOBODY,
    )
    return _end([stand_in], [], failure, first=stand_in, now_ms=now_ms)


_NOBODY = OrchestrationStarted(name="", version="", input="")


def open_schedules(events: Sequence[Event]) -> list[tuple[EventId, history.Schedule]]:
    """What was asked for and neither answered nor given up, by event id."""
    found: dict[EventId, history.Schedule] = {}
    waiting = _Waiting()
    for event in events:
        kind = event.kind
        match kind:
            case history.OrchestrationChained():
                pass
            case (
                history.ActivityScheduled()
                | history.TimerCreated()
                | history.SubOrchestrationScheduled()
            ):
                found[event.event_id] = kind
            case history.QueueSubscribed() | history.ExternalSubscribed():
                found[event.event_id] = kind
                waiting.subscribe(event.event_id, kind)
            case history.QueueEventDelivered() | history.ExternalEvent():
                waiting.arrive(kind)
            case _:
                source = getattr(kind, "source_event_id", None)
                if source is not None:
                    found.pop(source, None)
                    waiting.leave(source)
    return [(i, s) for i, s in found.items() if i not in waiting.answered]


class _Waiting:
    """Which reads and waits were answered; history does not say so in words."""

    def __init__(self) -> None:
        self.answered: set[EventId] = set()
        self._lines: dict[tuple[bool, str], list[EventId]] = {}
        self._kept: dict[tuple[bool, str], int] = {}
        self._takers: dict[EventId, tuple[bool, str]] = {}  # take what came earlier

    def subscribe(
        self, event_id: EventId, kind: history.QueueSubscribed | history.ExternalSubscribed
    ) -> None:
        key = (isinstance(kind, history.QueueSubscribed), kind.name)
        takes_earlier = isinstance(kind, history.QueueSubscribed) or kind.buffered
        if takes_earlier:
            self._takers[event_id] = key
        if takes_earlier and self._kept.get(key, 0):
            self._kept[key] -= 1
            self.answered.add(event_id)
        else:
            self._lines.setdefault(key, []).append(event_id)

    def arrive(self, kind: history.QueueEventDelivered | history.ExternalEvent) -> None:
        key = (isinstance(kind, history.QueueEventDelivered), kind.name)
        line = self._lines.get(key)
        if line:
            self.answered.add(line.pop(0))
        else:
            self._kept[key] = self._kept.get(key, 0) + 1

    def leave(self, event_id: EventId) -> None:
        if event_id in self.answered and event_id in self._takers:
            self._give_back(self._takers[event_id])
            return
        for line in self._lines.values():
            if event_id in line:
                line.remove(event_id)

    def _give_back(self, key: tuple[bool, str]) -> None:
        """The loser of a race returned what it had taken."""
        line = self._lines.get(key, [])
        heir = next((i for i in line if i in self._takers), None)
        if heir is None:
            self._kept[key] = self._kept.get(key, 0) + 1
        else:
            line.remove(heir)
            self.answered.add(heir)


def _end(
    events: Sequence[Event],
    still_open: Sequence[tuple[EventId, history.Schedule]],
    failure: Failure,
    *,
    first: Event,
    now_ms: int,
    begins: bool = False,
) -> TurnResult:
    started = first.kind
    assert isinstance(started, OrchestrationStarted)
    last = events[-1]
    kinds: list[EventKind] = [
        breadcrumb(schedule, event_id, terminal_reason(schedule, ExecutionStatus.FAILED))
        for event_id, schedule in still_open
    ]
    kinds.append(history.OrchestrationFailed(details=failure))
    added = [
        Event(
            event_id=event_id,
            instance_id=first.instance_id,
            execution_id=first.execution_id,
            timestamp_ms=max(now_ms, last.timestamp_ms),
            kind=kind,
        )
        for event_id, kind in enumerate(kinds, last.event_id + 1)
    ]
    outbox = Outbox(started, first.instance_id, first.execution_id)
    children = {
        event_id: schedule.instance
        for event_id, schedule in still_open
        if isinstance(schedule, history.SubOrchestrationScheduled)
    }
    fill(outbox, added, children)
    return TurnResult(
        events=tuple([first, *added] if begins else added),
        status=ExecutionStatus.FAILED,
        output=outbox.output,
        messages=outbox.messages(),
        cancelled_activities=tuple(outbox.cancelled_activities),
        cancelled_timers=tuple(outbox.cancelled_timers),
        new_execution=NewExecutionInfo(
            name=started.name,
            version=started.version,
            parent_instance_id=started.parent_instance,
        )
        if begins
        else None,
    )
