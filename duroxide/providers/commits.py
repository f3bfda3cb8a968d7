"""What a commit writes, item by item, and the answer to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from duroxide.ids import ActivityToken, EventId, ExecutionId, InstanceId, MessageId, TurnToken
from duroxide.providers.envelopes import Activity, Message
from duroxide.providers.leasing import UNTAGGED, LeasedActivity, TagSelection
from duroxide.state import ExecutionStatus, KeyValueChange, SetCustomStatus
from duroxide.version import SemVer


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecution:
    """What the first turn of an execution says about it."""

    name: str
    version: str
    engine_version: SemVer  # only workers whose range contains it are given this execution
    parent_instance_id: InstanceId | None = None  # kept once set


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitTurn:
    """The outcome of a turn: written whole or not at all, if the lease is live and history fits.

    History fits when `first_event_id` is the event that comes next in `execution_id`, or is 1 and the
    execution is the next one. The store deletes the `consumed` messages and only those, adds the
    activities before it removes the cancelled ones (scheduled and dropped in one turn nets to nothing),
    and gives the lease back unless `keep_lease_ms` is set. Messages of the lease that it leaves were
    not delivered in vain: with the lease, this delivery of theirs is taken back.
    """

    instance_id: InstanceId
    token: TurnToken
    execution_id: ExecutionId
    first_event_id: EventId
    events: tuple[str, ...] = ()  # JSON objects; numbered first_event_id, first_event_id + 1 ...
    consumed: tuple[MessageId, ...] = ()
    new_execution: NewExecution | None = None
    status: ExecutionStatus = ExecutionStatus.RUNNING
    output: str | None = None  # result, failure text, or the next input of a continued execution
    activities: tuple[Activity, ...] = ()
    cancelled_activities: tuple[EventId, ...] = ()  # of this instance and execution; absent is fine
    messages: tuple[Message, ...] = ()  # to this or to other instances
    cancelled_timers: tuple[EventId, ...] = ()  # of this execution; absent is fine
    custom_status: SetCustomStatus | None = None
    key_values: tuple[KeyValueChange, ...] = ()  # applied in order
    finished: tuple[ActivityToken, ...] = ()  # fused completion: leased activities that end here
    keep_lease_ms: int | None = None  # sticky lease: extend the lease instead of ending it
    projections: tuple[str, ...] = ()  # for the commit hook; opaque to the store
    bury: str | None = None  # why the consumed messages become dead letters (dead_letters)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishActivity:
    """An activity ended. Its row goes and the completion is enqueued, or, without one, just the row."""

    token: ActivityToken
    completion: Message | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonTurn:
    """Give an instance back unprocessed; only its messages of that poll are delayed or recounted."""

    instance_id: InstanceId
    token: TurnToken
    delay_ms: int = 0
    count_attempt: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonActivity:
    token: ActivityToken
    delay_ms: int = 0
    count_attempt: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueue:
    """A message from a client. An instance need not exist; none is created."""

    message: Message


CommitItem: TypeAlias = CommitTurn | FinishActivity | AbandonTurn | AbandonActivity | Enqueue


RoomOf: TypeAlias = Callable[[str], Sequence[tuple[str, int]]]
"""Of a tag: kinds of activities that it belongs to, and how many more of each are welcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EagerDispatch:
    """Lease up to `limit` of the activities that this very commit adds, to the committing worker.

    A store chooses with `duroxide.providers.eager.EagerChoice`.
    """

    worker: str
    limit: int
    lease_ms: int
    tags: TagSelection = UNTAGGED
    room: RoomOf | None = None  # a limit by tag besides; None: there is none


class CommitCode(IntEnum):
    APPLIED = 0
    LEASE_LOST = 1  # permanent: expired, stolen, ended, or the instance is gone
    HISTORY_CONFLICT = 2  # permanent: somebody else wrote that event
    REPEATED = 3  # this very turn was applied before (a retry after a lost reply): success
    REFUSED = 4  # permanent: the item itself can't be stored; `error` says why


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitResult:
    code: CommitCode
    activities: tuple[LeasedActivity, ...] = ()  # eager dispatch: leased to the caller
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.code in (CommitCode.APPLIED, CommitCode.REPEATED)
