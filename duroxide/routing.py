"""Work items as the envelopes that stores route, and back."""

from __future__ import annotations

from duroxide import work
from duroxide.codec import encode_work
from duroxide.providers.base import Activity, Message, MessageKind


def kind_of(item: work.OrchestratorItem) -> MessageKind:
    match item:
        case work.StartOrchestration():
            return MessageKind.START
        case work.ContinueAsNew():
            return MessageKind.CONTINUE_AS_NEW
        case work.ActivityCompletion() | work.ActivityFailure():
            return MessageKind.ACTIVITY
        case work.TimerDue():
            return MessageKind.TIMER
        case work.ExternalRaised():
            return MessageKind.EVENT
        case work.QueueMessage():
            return MessageKind.QUEUE
        case work.ChildCompleted() | work.ChildFailed():
            return MessageKind.CHILD
        case work.CancelInstance():
            return MessageKind.CANCEL


def message_of(item: work.OrchestratorItem, *, visible_at_ms: int | None = None) -> Message:
    """Address an item to its instance. A timer becomes visible when it is due."""
    timer = None
    if isinstance(item, work.TimerDue):
        visible_at_ms = item.fire_at_ms
        timer = (item.execution_id, item.id)
    return Message(
        instance_id=work.target(item),
        kind=kind_of(item),
        body=encode_work(item),
        visible_at_ms=visible_at_ms,
        timer=timer,
    )


def activity_of(item: work.ActivityExecute) -> Activity:
    return Activity(
        instance_id=item.instance,
        execution_id=item.execution_id,
        activity_id=item.id,
        body=encode_work(item),
        tag=item.tag,
        session_id=item.session_id,
    )
