"""The messages of a leased turn, read and sorted by what they mean for the instance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from duroxide import work
from duroxide.codec import decode_work
from duroxide.errors import CodecError
from duroxide.ids import MessageId
from duroxide.providers.base import ReceivedMessage

Beginning: TypeAlias = work.StartOrchestration | work.ContinueAsNew


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """What came, in order of arrival.

    Only the first message that begins an execution counts. Other starts change nothing, but their
    parents want an answer.
    """

    beginning: Beginning | None
    inbound: tuple[work.Inbound, ...]
    message_ids: tuple[MessageId, ...]  # all of them
    inbound_ids: tuple[MessageId | None, ...]  # of each of `inbound`; None if it was no message
    starts: tuple[work.StartOrchestration, ...] = ()  # as children; that which counts among them

    def consumed(self, unapplied: int) -> tuple[MessageId, ...]:
        """All ids but those of the last `unapplied` inbound messages, which stay in the queue."""
        if unapplied == 0:
            return self.message_ids
        staying = frozenset(self.inbound_ids[-unapplied:])
        return tuple(number for number in self.message_ids if number not in staying)


def read_inbox(messages: Iterable[ReceivedMessage]) -> Inbox:
    """Decode and sort.

    Raises:
        CodecError: a message can't be read, or doesn't belong on this queue.
    """
    beginning: Beginning | None = None
    starts: list[work.StartOrchestration] = []
    inbound: list[work.Inbound] = []
    ids: list[MessageId] = []
    inbound_ids: list[MessageId] = []
    for message in messages:
        ids.append(message.message_id)
        match decode_work(message.body):
            case (work.StartOrchestration() | work.ContinueAsNew()) as item:
                beginning = beginning or item
                if isinstance(item, work.StartOrchestration) and item.parent_instance is not None:
                    starts.append(item)
            case work.ActivityExecute():
                raise CodecError("an activity was sent to an orchestration")
            case item:
                inbound.append(item)
                inbound_ids.append(message.message_id)
    return Inbox(
        beginning=beginning,
        starts=tuple(starts),
        inbound=tuple(inbound),
        message_ids=tuple(ids),
        inbound_ids=tuple(inbound_ids),
    )
