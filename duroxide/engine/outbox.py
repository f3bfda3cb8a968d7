"""The work that new events imply: a pure function of them, for live turns and for forced ends alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from duroxide import history, work
from duroxide.engine.breadcrumbs import DROPPED, child_instance
from duroxide.history import Event, OrchestrationStarted
from duroxide.ids import EventId, InstanceId
from duroxide.state import (
    ClearKeyValue,
    ClearKeyValues,
    ExecutionStatus,
    KeyValueChange,
    SetCustomStatus,
    SetKeyValue,
)
from duroxide.storable import readable


@dataclass(slots=True)
class Outbox:
    """What the events of one turn ask of the outside world."""

    started: OrchestrationStarted
    instance_id: InstanceId
    execution_id: int
    activities: dict[EventId, work.ActivityExecute] = field(default_factory=dict)
    scheduled: dict[EventId, work.OrchestratorItem] = field(default_factory=dict)
    others: list[work.OrchestratorItem] = field(default_factory=list)
    cancelled_activities: list[EventId] = field(default_factory=list)
    cancelled_timers: list[EventId] = field(default_factory=list)
    custom_status: SetCustomStatus | None = None
    key_values: list[KeyValueChange] = field(default_factory=list)
    status: ExecutionStatus = ExecutionStatus.RUNNING
    output: str | None = None
    was_cancelled: bool = False

    def messages(self) -> tuple[work.OrchestratorItem, ...]:
        """Timers and starts, then cancellations and answers, each in the order of the events."""
        return (*self.scheduled.values(), *self.others)

    def add(self, event: Event, dropped_children: Mapping[EventId, str]) -> None:
        """Note what one event implies; what is scheduled and given up in one turn nets to nothing."""
        kind = event.kind
        match kind:
            case history.ActivityScheduled():
                self.activities[event.event_id] = self._activity(event.event_id, kind)
            case history.TimerCreated(fire_at_ms=fire_at_ms):
                self.scheduled[event.event_id] = work.TimerDue(
                    instance=self.instance_id,
                    execution_id=self.execution_id,
                    id=event.event_id,
                    fire_at_ms=fire_at_ms,
                )
            case history.SubOrchestrationScheduled():
                self.scheduled[event.event_id] = self._child(event.event_id, kind)
            case history.OrchestrationChained():
                self.scheduled[event.event_id] = work.StartOrchestration(
                    instance=kind.instance,
                    orchestration=kind.name,
                    input=kind.input,
                    version=kind.version,
                )
            case history.ActivityCancelRequested(source_event_id=source):
                if self.activities.pop(source, None) is None:
                    self.cancelled_activities.append(source)
            case history.TimerCancelled(source_event_id=source):
                if self.scheduled.pop(source, None) is None:
                    self.cancelled_timers.append(source)
            case history.SubOrchestrationCancelRequested(source_event_id=source, reason=reason):
                if self.scheduled.pop(source, None) is None:
                    self._cancel_child(dropped_children[source], reason)
            case history.CustomStatusUpdated(status=status):
                self.custom_status = SetCustomStatus(status=status)
            case history.KeyValueSet(key=key, value=value, last_updated_at_ms=at):
                self.key_values.append(SetKeyValue(key=key, value=value, updated_at_ms=at))
            case history.KeyValueCleared(key=key):
                self.key_values.append(ClearKeyValue(key=key))
            case history.KeyValuesCleared():
                self.key_values.append(ClearKeyValues())
            case history.OrchestrationCompleted(output=output):
                self.status, self.output = ExecutionStatus.COMPLETED, output
                self._answer_parent(kind)
            case history.OrchestrationFailed(details=details):
                # The exact text is in the event; this one is for a column, and for people.
                self.status, self.output = ExecutionStatus.FAILED, readable(str(details))
                self._answer_parent(kind)
            case history.OrchestrationContinuedAsNew(input=next_input):
                self.status, self.output = ExecutionStatus.CONTINUED_AS_NEW, readable(next_input)
            case _:
                pass  # inbound events, subscriptions and markers ask for nothing

    def _activity(self, event_id: EventId, kind: history.ActivityScheduled) -> work.ActivityExecute:
        return work.ActivityExecute(
            instance=self.instance_id,
            execution_id=self.execution_id,
            id=event_id,
            name=kind.name,
            input=kind.input,
            session_id=kind.session_id,
            tag=kind.tag,
            orchestration=self.started.name,
            version=self.started.version,
        )

    def _child(
        self, event_id: EventId, kind: history.SubOrchestrationScheduled
    ) -> work.StartOrchestration:
        return work.StartOrchestration(
            instance=child_instance(self.instance_id, kind.instance),
            orchestration=kind.name,
            input=kind.input,
            version=kind.version,
            parent_instance=self.instance_id,
            parent_id=event_id,
            parent_execution_id=self.execution_id,
        )

    def _cancel_child(self, recorded: str, reason: str) -> None:
        if reason == DROPPED:
            why = "parent dropped sub-orchestration future"
        else:
            why = "parent canceled" if self.was_cancelled else "parent ended"
        self.others.append(
            work.CancelInstance(instance=child_instance(self.instance_id, recorded), reason=why)
        )

    def _answer_parent(
        self, kind: history.OrchestrationCompleted | history.OrchestrationFailed
    ) -> None:
        started = self.started
        if started.parent_instance is None or started.parent_id is None:
            return
        # Histories of other implementations may lack it; then the first execution is meant.
        execution_id = started.parent_execution_id or 1
        if isinstance(kind, history.OrchestrationCompleted):
            self.others.append(
                work.ChildCompleted(
                    parent_instance=started.parent_instance,
                    parent_execution_id=execution_id,
                    parent_id=started.parent_id,
                    result=kind.output,
                )
            )
        else:
            self.others.append(
                work.ChildFailed(
                    parent_instance=started.parent_instance,
                    parent_execution_id=execution_id,
                    parent_id=started.parent_id,
                    details=kind.details,
                )
            )


_ASKS_NOTHING = frozenset(
    {
        history.OrchestrationStarted,
        history.ActivityCompleted,
        history.TimerFired,
        history.SubOrchestrationCompleted,
    }
)
"""The most frequent of those, not compared with all the others."""


def fill(outbox: Outbox, events: Sequence[Event], dropped_children: Mapping[EventId, str]) -> None:
    """Add all events, in order."""
    for event in events:
        if type(event.kind) not in _ASKS_NOTHING:
            outbox.add(event, dropped_children)
