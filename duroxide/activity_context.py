"""What activity code sees of the runtime that calls it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from duroxide.errors import DuroxideError
from duroxide.ids import ActivityToken, EventId, ExecutionId, InstanceId, MessageId


class AlreadyFinished(Enum):
    """The type of `ALREADY_FINISHED`."""

    ALREADY_FINISHED = "already finished"


ALREADY_FINISHED: Final = AlreadyFinished.ALREADY_FINISHED
"""Returned by an activity that recorded its own completion, in a transaction of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedAs:
    """Returned instead by one that knows the message which it left: the next turn need not wait for it."""

    message_id: MessageId
    body: str  # of the message


class LeaseLost(DuroxideError):
    """Raised by an activity that found its lease gone: somebody else runs it, or nobody wants it.

    Nothing is written for it, and it is not an error.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """An activity of a turn whose commit is under way: perhaps this process runs it next."""

    instance_id: InstanceId
    execution_id: ExecutionId
    activity_id: EventId
    text: str  # its input


class HeadStart(Protocol):
    """What was begun for an activity that is not yet sure to come; nothing of it may have an effect."""

    def drop(self) -> None:
        """The activity does not come, or comes without it: undo it. Also called when it was used."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class ActivityContext:
    """One delivery of an activity. The same activity may be delivered again after a crash.

    It can be pickled, for an executor in another process; the copy no longer hears of cancellation,
    and its heartbeats go nowhere.
    """

    instance_id: InstanceId
    execution_id: ExecutionId
    activity_id: EventId
    activity_name: str
    orchestration_name: str
    orchestration_version: str
    worker_id: str
    attempt: int  # of this delivery, from 1; it also counts workers that died
    token: ActivityToken
    expires_at_ms: int  # the store's clock; moves on as the lease is renewed
    tag: str | None = None
    session_id: str | None = None
    last_heartbeat: Any = None  # of earlier deliveries; None if there is none
    head_start: HeadStart | None = None  # what the definition's `head_start` has begun for it
    _beat: Callable[[Any], None] | None = field(default=None, repr=False)
    _cancelled: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def is_cancelled(self) -> bool:
        """Nobody waits for the result any more; from any thread."""
        return self._cancelled.is_set()

    async def cancelled(self) -> None:
        """Return once nobody waits for the result any more; on the runtime's event loop."""
        await self._cancelled.wait()

    def heartbeat(self, data: Any = None) -> None:
        """Leave word of the progress, from any thread, as often as you like.

        The newest word is written twice a second at most. If this worker dies, or gives the activity
        back, the next delivery finds it as `last_heartbeat`; a retry after a failure is a new activity
        and does not. A store without the capability `heartbeats` keeps nothing.

        Args:
            data: what JSON can hold, at most 64 KiB.

        Raises:
            CodecError: it has no JSON form.
            LimitExceeded: it is too large.
        """
        if self._beat is not None:
            self._beat(data)

    def cancel(self) -> None:
        """Tell the activity; called by the runtime on its event loop."""
        self._cancelled.set()

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """`duroxide.activity`, with the instance, the activity and the attempt on every record."""
        return logging.LoggerAdapter(
            logging.getLogger("duroxide.activity"),
            {
                "instance_id": self.instance_id,
                "execution_id": self.execution_id,
                "activity_name": self.activity_name,
                "activity_id": self.activity_id,
                "attempt": self.attempt,
                "worker_id": self.worker_id,
            },
        )

    def __getstate__(self) -> dict[str, Any]:
        stays = ("_cancelled", "_beat", "head_start")
        return {name: getattr(self, name) for name in self.__slots__ if name not in stays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._cancelled = asyncio.Event()
        self._beat = self.head_start = None
