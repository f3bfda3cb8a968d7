"""What a store has besides, with the capability of that name: heartbeats, dead letters, callers' transactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from duroxide.ids import ActivityToken, ExecutionId, InstanceId
from duroxide.providers.envelopes import Activity, Message, MessageKind


class HeartbeatStore(Protocol):
    """What a provider with the capability `heartbeats` has besides."""

    async def heartbeat(self, beats: Mapping[ActivityToken, str]) -> None:
        """Keep a text with each activity whose lease is live; the next delivery comes with it.

        It replaces the one before, goes with the activity, and extends no lease. Tokens that are not
        live any more are passed over.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that was taken from the queue without having had its effect, and kept."""

    letter_id: int  # grows with time
    instance_id: InstanceId
    kind: MessageKind
    body: str
    reason: str
    attempt_count: int  # deliveries before it was given up
    buried_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    letters: tuple[DeadLetter, ...]  # oldest first
    next_cursor: int | None  # of the page after this; None: this is the last one


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopening:
    """How a failed instance goes back to where it was before its last turn.

    Its history is cut after `keep_events`, if it still has `event_count` of them; with 0 it is as if
    this execution had never begun. What that turn gave up is put back.
    """

    execution_id: ExecutionId
    event_count: int
    keep_events: int
    activities: tuple[Activity, ...] = ()
    messages: tuple[Message, ...] = ()


class DeadLetterStore(Protocol):
    """What a provider with the capability `dead_letters` has besides.

    It keeps the key-values of an execution whose last turn buries messages apart from those that it began
    with, as of a running one, so that it can go on. Deleting an instance deletes its letters.
    """

    async def list_dead_letters(
        self, *, instance_id: InstanceId | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        """Those with an id above `after`, oldest first; of one instance or of all."""
        ...

    async def requeue(self, instance_id: InstanceId, reopening: Reopening | None = None) -> int:
        """Put the letters of an instance back on its queue, in order and as never delivered; how many.

        With `reopening` the instance is reopened in the same transaction. The instance need not exist.

        Raises:
            ProviderError: it can't be reopened like that, because something has changed; nothing is.
        """
        ...

    async def discard_dead_letters(self, instance_id: InstanceId) -> int:
        """Delete the letters of an instance for good; how many."""
        ...


class CallerTransactions(Protocol):
    """What a provider with the capability `caller_transaction` has besides.

    Both write messages in the transaction that is open on a connection to the store's database, and wake
    workers when it commits, from when on they are visible: a later `visible_at_ms` is not for here. What the
    database says to it is raised as it comes.

    Raises:
        TypeError: such a connection can't be used; the text names those that can.
        ClientError: no transaction is open on it, so that each statement would commit by itself; or it
            leads to another database.
    """

    def send_within(self, connection: Any, messages: Sequence[Message]) -> None:
        """For blocking connections; waits for nothing else."""
        ...

    async def send_within_async(self, connection: Any, messages: Sequence[Message]) -> None:
        """For async connections, on the loop that they belong to."""
        ...
