"""Instances whose lease this process keeps, because their activities run here.

A result of such an activity goes into the next turn in memory, and the commit of that turn ends the
activity: no message, no poll. Everything stays recoverable: if this process dies, both leases run out
and the queue takes over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from duroxide import work
from duroxide.ids import ActivityToken, EventId, InstanceId, MessageId, TurnToken
from duroxide.providers.base import Cursor, LeasedActivity, LeasedTurn
from duroxide.runtime.cache import Live, LiveCache
from duroxide.runtime.inbox import Inbox

REMEMBERED = 64  # messages that came of late: one that its activity told of comes by a poll as well
LINGER_S = 1.0  # for a completion that an activity has written itself


@dataclass(slots=True, eq=False, kw_only=True)
class Arrival:
    """Something that waits for the next turn of a resident."""

    item: work.Inbound
    message_id: MessageId | None = None
    activity: tuple[EventId, ActivityToken] | None = None
    recorded: Callable[[bool], None] | None = None  # of an activity: false sends it by message

    def answer(self, *, is_recorded: bool) -> None:
        """Say, once, whether a turn has recorded it."""
        recorded, self.recorded = self.recorded, None
        if recorded is not None:
            recorded(is_recorded)


@dataclass(slots=True, eq=False, kw_only=True)
class Resident:
    """A leased instance between two turns."""

    instance_id: InstanceId
    token: TurnToken
    live: Live
    activities: dict[ActivityToken, EventId]  # leased to this process and not yet recorded
    arrivals: list[Arrival] = field(default_factory=list)
    messages: list[MessageId] = field(default_factory=list)  # all that came, also repeated starts
    starts: list[work.StartOrchestration] = field(default_factory=list)  # that want an answer
    known_messages: deque[MessageId] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    attempt_count: int = 1
    is_busy: bool = False
    is_gone: bool = False


class Residents:
    """Who they are, and what has arrived for them.

    Args:
        run: called once when a resident that is idle has something to do.
        release: called when nothing of a resident is left to be waited for here.
    """

    def __init__(
        self, *, run: Callable[[Resident], None], release: Callable[[Resident], None]
    ) -> None:
        self._run = run
        self._release = release
        self._residents: dict[InstanceId, Resident] = {}

    def __len__(self) -> int:
        return len(self._residents)

    def tokens(self) -> list[TurnToken]:
        return [resident.token for resident in self._residents.values()]

    def everybody(self) -> list[Resident]:
        return list(self._residents.values())

    def get(self, instance_id: InstanceId) -> Resident | None:
        return self._residents.get(instance_id)

    def settle(self, resident: Resident) -> None:
        """A turn of it is committed and the lease kept: it waits, or goes on with what has arrived."""
        self._residents[resident.instance_id] = resident
        resident.is_busy = False
        self._look(resident)

    def _look(self, resident: Resident) -> None:
        if resident.is_busy or resident.is_gone:
            return
        if resident.arrivals or resident.messages:
            resident.is_busy = True
            self._run(resident)
        elif not resident.activities:
            self.leave(resident)
            self._release(resident)

    def leave(self, resident: Resident) -> None:
        """It is not kept any more; what has arrived from activities goes by message."""
        resident.is_gone = True
        if self._residents.get(resident.instance_id) is resident:
            del self._residents[resident.instance_id]
        left, resident.arrivals = resident.arrivals, []
        for arrival in left:
            arrival.answer(is_recorded=False)

    # What arrives.

    def deliver(
        self,
        leased: LeasedActivity,
        item: work.ActivityCompletion | work.ActivityFailure,
        recorded: Callable[[bool], None],
    ) -> bool:
        """Hand over what came of an activity; false if its instance is not kept here.

        Args:
            recorded: told whether a turn has recorded it, durably. If not, it has to be sent by message.
        """
        resident = self._residents.get(leased.instance_id)
        if resident is None or leased.token not in resident.activities:
            return False
        resident.arrivals.append(
            Arrival(item=item, activity=(leased.activity_id, leased.token), recorded=recorded)
        )
        self._look(resident)
        return True

    def deliver_message(
        self,
        leased: LeasedActivity,
        item: work.ActivityCompletion | work.ActivityFailure,
        message_id: MessageId,
    ) -> bool:
        """Hand over a completion that its activity has sent; false if its instance is not kept here.

        A poll may bring the message as well, earlier or later.
        """
        resident = self._residents.get(leased.instance_id)
        if resident is None or leased.token not in resident.activities:
            return False
        if message_id in resident.known_messages:
            return True
        resident.known_messages.append(message_id)
        resident.messages.append(message_id)
        resident.arrivals.append(Arrival(item=item, message_id=message_id))
        self._look(resident)
        return True

    def deliver_messages(self, resident: Resident, leased: LeasedTurn, inbox: Inbox) -> None:
        """Hand over what a poll brought under the kept lease."""
        known = resident.known_messages
        resident.messages.extend(number for number in inbox.message_ids if number not in known)
        resident.starts.extend(inbox.starts)
        resident.attempt_count = max(resident.attempt_count, leased.attempt_count)
        for item, message_id in zip(inbox.inbound, inbox.inbound_ids, strict=True):
            if message_id not in known:
                resident.arrivals.append(Arrival(item=item, message_id=message_id))
        known.extend(number for number in inbox.message_ids if number not in known)
        self._look(resident)

    def activity_ended(self, leased: LeasedActivity, *, wrote_itself: bool) -> None:
        """An activity has ended without anything to hand over.

        If it wrote its completion itself, that will come as a message: the lease is kept a little.
        """
        resident = self._residents.get(leased.instance_id)
        if resident is None or leased.token not in resident.activities:
            return
        if wrote_itself:
            loop = asyncio.get_running_loop()
            loop.call_later(LINGER_S, self._forget_activity, resident, leased.token)
        else:
            self._forget_activity(resident, leased.token)

    def _forget_activity(self, resident: Resident, token: ActivityToken) -> None:
        resident.activities.pop(token, None)
        self._look(resident)


class InMemory(Mapping[InstanceId, Cursor]):
    """How far each execution in this process is: a poll need not bring what is before that.

    A resident whose turn is being committed may be ahead of the store, which then sends everything.
    """

    def __init__(self, residents: Residents, cache: LiveCache) -> None:
        self._residents = residents
        self._cache = cache

    def __len__(self) -> int:
        return len(self._residents) + len(self._cache)  # an execution is in one of them

    def __iter__(self) -> Iterator[InstanceId]:
        yield from (resident.instance_id for resident in self._residents.everybody())
        yield from self._cache

    def __getitem__(self, instance_id: InstanceId) -> Cursor:
        resident = self._residents.get(instance_id)
        return self._cache[instance_id] if resident is None else resident.live.cursor


class HeldLeases(Sequence[TurnToken]):
    """The leases of residents, as they are whenever somebody looks: a poll may wait for long."""

    def __init__(self, residents: Residents) -> None:
        self._residents = residents

    def __len__(self) -> int:
        return len(self._residents)

    @overload
    def __getitem__(self, index: int) -> TurnToken: ...

    @overload
    def __getitem__(self, index: slice) -> list[TurnToken]: ...

    def __getitem__(self, index: int | slice) -> TurnToken | list[TurnToken]:
        return self._residents.tokens()[index]

    def __iter__(self) -> Iterator[TurnToken]:
        return iter(self._residents.tokens())


def take_arrivals(resident: Resident) -> tuple[list[Arrival], Inbox]:
    """Everything that has arrived, as the inbox of a turn."""
    arrivals, resident.arrivals = resident.arrivals, []
    messages, resident.messages = resident.messages, []
    starts, resident.starts = resident.starts, []
    inbox = Inbox(
        beginning=None,
        inbound=tuple(arrival.item for arrival in arrivals),
        message_ids=tuple(messages),
        starts=tuple(starts),
        inbound_ids=tuple(arrival.message_id for arrival in arrivals),
    )
    return arrivals, inbox


def unanswered(
    resident: Resident | None, arrivals: Sequence[Arrival], cancelled: Iterable[EventId]
) -> dict[ActivityToken, EventId]:
    """The activities of a resident that are still waited for after a turn that took these arrivals."""
    if resident is None:
        return {}
    settled = set(cancelled)
    settled.update(
        arrival.item.id
        for arrival in arrivals
        if isinstance(arrival.item, work.ActivityCompletion | work.ActivityFailure)
    )
    return {t: number for t, number in resident.activities.items() if number not in settled}


def ended_by(
    arrivals: Sequence[Arrival], unapplied: int, cancelled: Iterable[EventId]
) -> tuple[ActivityToken, ...]:
    """The activities that the commit of a turn ends; one that the turn cancels is gone anyway."""
    gone = frozenset(cancelled)
    applied = arrivals[: len(arrivals) - unapplied]
    return tuple(
        arrival.activity[1]
        for arrival in applied
        if arrival.activity is not None and arrival.activity[0] not in gone
    )


def as_leased(resident: Resident) -> LeasedTurn:
    """The resident's next turn, as if a poll had brought it."""
    cursor = resident.live.cursor
    return LeasedTurn(
        instance_id=resident.instance_id,
        token=resident.token,
        expires_at_ms=0,
        execution_id=cursor.execution_id,
        next_event_id=cursor.last_event_id + 1,
        attempt_count=resident.attempt_count,
        messages=(),
        history=(),
        name=resident.live.definition.name,
        version=resident.live.definition.version,
    )
