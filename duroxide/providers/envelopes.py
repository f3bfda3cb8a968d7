"""What is routed: messages to instances, and activities for workers. A store never parses the bodies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from duroxide.ids import EventId, ExecutionId, InstanceId


class MessageKind(IntEnum):
    """What a store has to know of a message: whether it may begin an instance, or may be dropped."""

    START = 1
    CONTINUE_AS_NEW = 2
    ACTIVITY = 3
    TIMER = 4
    EVENT = 5
    QUEUE = 6
    CHILD = 7
    CANCEL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to an instance. Messages of one instance are delivered in the order of arrival."""

    instance_id: InstanceId
    kind: MessageKind
    body: str
    visible_at_ms: int | None = None  # None: at once
    timer: tuple[ExecutionId, EventId] | None = None  # names a TIMER message, to cancel it by


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Work for an activity worker, named by the event that scheduled it."""

    instance_id: InstanceId
    execution_id: ExecutionId
    activity_id: EventId
    body: str
    tag: str | None = None
    session_id: str | None = None
