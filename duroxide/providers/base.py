"""The storage contract: what a runtime and its clients ask of a store.

It is batch-first (one is a batch of one) and the store never parses what it keeps: messages, events
and activities come as opaque text inside routed envelopes, and status and key-values as explicit
operations. Times are Unix milliseconds of the *store's* clock; a lease is live while
`now < expires`, a message is visible once `visible_at <= now`.

The contract in full is a test suite: `duroxide.testing.provider_suite`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Protocol, TypeAlias

from duroxide.ids import (
    ActivityToken,
    EventId,
    ExecutionId,
    InstanceId,
    MessageId,
    TurnToken,
)
from duroxide.limits import MAX_WORKER_TAGS
from duroxide.state import ExecutionStatus, KeyValue, KeyValueChange, SetCustomStatus
from duroxide.version import SemVer, VersionRange

CONTRACT_VERSION = 1


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


# What goes in.


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
    and gives the lease back unless `keep_lease_ms` is set.
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


class TagMode(Enum):
    DEFAULT_ONLY = "default_only"  # untagged
    TAGS = "tags"  # tagged with one of the set
    DEFAULT_AND = "default_and"  # untagged, or tagged with one of the set
    ANY = "any"
    EXCEPT = "except"  # untagged, or tagged with none of the set or below one: `a/b` is below `a`
    NONE = "none"


@dataclass(frozen=True, slots=True)
class TagSelection:
    """Which activities a worker accepts."""

    mode: TagMode = TagMode.DEFAULT_ONLY
    tags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        needs_tags = self.mode in (TagMode.TAGS, TagMode.DEFAULT_AND, TagMode.EXCEPT)
        if needs_tags != bool(self.tags):
            raise ValueError(
                f"tag mode {self.mode.value!r} {'needs' if needs_tags else 'takes no'} tags"
            )
        if len(self.tags) > MAX_WORKER_TAGS and self.mode is not TagMode.EXCEPT:
            raise ValueError(f"{len(self.tags)} worker tags, at most {MAX_WORKER_TAGS} are allowed")

    def accepts(self, tag: str | None) -> bool:
        match self.mode:
            case TagMode.DEFAULT_ONLY:
                return tag is None
            case TagMode.TAGS:
                return tag in self.tags
            case TagMode.DEFAULT_AND:
                return tag is None or tag in self.tags
            case TagMode.ANY:
                return True
            case TagMode.EXCEPT:
                return tag is None or not any(
                    tag == kept_out or tag.startswith(f"{kept_out}/") for kept_out in self.tags
                )
            case TagMode.NONE:
                return False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOwner:
    """Under whose name sessions are claimed, for how long, and how many new ones may be."""

    owner: str
    lease_ms: int
    max_new: int


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
    tags: TagSelection = TagSelection()
    room: RoomOf | None = None  # a limit by tag besides; None: there is none


# What comes out.


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage:
    message_id: MessageId
    kind: MessageKind
    body: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """How much of an instance's history the caller already has."""

    execution_id: ExecutionId
    last_event_id: EventId
    incarnation: str = ""  # as in the turn that the caller had; empty matches any


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedTurn:
    """An instance with something to do, leased to the caller.

    A new instance has no name and version yet, execution 1 and next event 1; the store has made
    nothing for it. `history` holds the events after `history_after` of the current execution, in
    order; `history_after` is 0 (all events) unless the caller's cursor matched.

    `incarnation` names this life of the id: what is deleted and then started again under the same id has
    another one, although its events have the same numbers. A new instance's is the one that it will
    have once this lease's turn is committed.
    """

    instance_id: InstanceId
    token: TurnToken
    expires_at_ms: int
    execution_id: ExecutionId
    next_event_id: EventId
    attempt_count: int  # 1 on first delivery; the largest over the messages
    messages: tuple[ReceivedMessage, ...]  # by message id
    history: tuple[str, ...]
    history_after: EventId = 0
    status: ExecutionStatus = ExecutionStatus.RUNNING
    name: str | None = None
    version: str | None = None
    parent_instance_id: InstanceId | None = None
    key_values: Mapping[str, KeyValue] = field(default_factory=dict)  # as the execution began
    history_error: str | None = None  # the stored text is unreadable; history is then empty
    incarnation: str = ""
    waited_ms: int = 0  # how long its oldest message has been due; 0 where nobody counted


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedActivity:
    instance_id: InstanceId
    execution_id: ExecutionId
    activity_id: EventId
    token: ActivityToken
    expires_at_ms: int
    attempt_count: int  # 1 on first delivery
    body: str
    tag: str | None = None
    session_id: str | None = None
    heartbeat: str | None = None  # the last one of earlier deliveries (heartbeats)
    waited_ms: int = 0  # how long it has been due


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPoll:
    turns: tuple[LeasedTurn, ...]
    now_ms: int  # the store's clock
    next_due_ms: int | None  # when the next message becomes visible, if that is known


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityPoll:
    activities: tuple[LeasedActivity, ...]
    now_ms: int
    next_due_ms: int | None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    lost_turns: frozenset[TurnToken]
    lost_activities: frozenset[ActivityToken]  # cancelled, deleted, or taken over after expiry
    now_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStatus:
    """One row: what waiting clients look at."""

    instance_id: InstanceId
    execution_id: ExecutionId
    name: str
    version: str | None
    status: ExecutionStatus
    output: str | None
    custom_status: str | None
    custom_status_version: int
    created_at_ms: int
    updated_at_ms: int
    completed_at_ms: int | None
    parent_instance_id: InstanceId | None = None
    suspended_at_ms: int | None = None  # it gets no turns until it is resumed


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a store does beyond the required minimum; without one the runtime takes the plain path."""

    contract_version: int = CONTRACT_VERSION
    history_suffix: bool = False
    sticky_lease: bool = False
    eager_dispatch: bool = False
    fused_completion: bool = False
    change_feed: bool = False
    next_due: bool = False
    commit_hook: bool = False
    caller_transaction: bool = False
    heartbeats: bool = False
    dead_letters: bool = False


class Provider(Protocol):
    """Durable storage for instances.

    Every method may raise `ProviderError`. If it is retryable the outcome is unknown and the same call
    may be made again; if not, nothing was written.
    """

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    async def start(self) -> None:
        """Open what the provider needs; idempotent. Checks that the schema is there and is ours."""
        ...

    async def close(self) -> None:
        """Give everything back; idempotent. Leases stay as they are."""
        ...

    async def poll_turns(
        self,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        wait_ms: int = 0,
        known: Mapping[InstanceId, Cursor] | None = None,
        held: Sequence[TurnToken] = (),
        versions: Sequence[VersionRange] | None = None,
    ) -> TurnPoll:
        """Lease up to `want` instances that have visible messages and no live lease.

        All visible messages of an instance come together and belong to this lease; later ones wait.
        Instances are taken by their oldest visible message. One poll never returns an instance twice.

        Args:
            worker: who asks; for people who look at leases.
            wait_ms: how long to wait for something to do; 0 returns at once.
            known: what the caller has cached (history_suffix).
            held: kept leases (sticky_lease) whose instances may get new messages under them. It may
                change while the poll waits: read it again at each look.
            versions: engine versions that the caller runs; None means all, empty none. An execution
                that is outside is neither leased nor counted as delivered.
        """
        ...

    async def poll_activities(
        self,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        wait_ms: int = 0,
        tags: TagSelection = TagSelection(),
        sessions: SessionOwner | None = None,
    ) -> ActivityPoll:
        """Lease up to `want` activities, oldest first, that `tags` accepts and nobody holds.

        With `sessions`, an activity of a session is given only to the session's owner, who becomes
        it by taking one whose session has no live owner; without, such activities are left alone.
        """
        ...

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        """Write each item whole or not at all, all in one transaction, and answer item by item.

        A refused item leaves its neighbours alone. Results are in the order of the batch.
        """
        ...

    async def renew(
        self,
        *,
        turns: Sequence[TurnToken] = (),
        turn_lease_ms: int = 0,
        activities: Sequence[ActivityToken] = (),
        activity_lease_ms: int = 0,
    ) -> Renewal:
        """Extend live leases to now + their length; tokens that are not live any more are reported."""
        ...

    async def renew_sessions(self, *, owner: str, lease_ms: int, idle_ms: int) -> int:
        """Extend the owner's live sessions that had activity within `idle_ms`; returns how many."""
        ...

    async def read_status(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, InstanceStatus]:
        """The state of those instances that exist."""
        ...

    async def read_history(
        self, instance_id: InstanceId, execution_id: ExecutionId | None = None
    ) -> Sequence[str]:
        """All events of an execution (None: the current one), in order; empty if there is none."""
        ...

    async def read_key_values(self, instance_id: InstanceId) -> Mapping[str, KeyValue]:
        """The live key-values, those of the running execution included."""
        ...

    async def wait_for_change(self, instance_ids: Sequence[InstanceId], *, wait_ms: int) -> None:
        """Return when one of the instances may have changed, or after `wait_ms`: a hint, not a promise.

        Without the capability `change_feed` it just waits, for a short while.
        """
        ...

    def wake(self, *, turns: bool = False, activities: bool = False) -> None:
        """Let waiting polls of this process look once more and return, with something or without."""
        ...


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
    workers when it commits. What the database says to it is raised as it comes.

    Raises:
        TypeError: such a connection can't be used; the text names those that can.
        ClientError: no transaction is open on it, so that each statement would commit by itself; or it
            leads to another database.
    """

    def send_within(self, connection: Any, messages: Sequence[Message]) -> None:
        """For blocking connections; waits for nothing else."""
        ...

    async def send_within_async(self, connection: Any, messages: Sequence[Message]) -> None: ...


# Management: everything that people and their tools ask, off the hot path.


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionInfo:
    execution_id: ExecutionId
    status: ExecutionStatus
    output: str | None
    started_at_ms: int
    completed_at_ms: int | None
    event_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceQuery:
    """Which instances a list shows: those that pass every condition given."""

    statuses: tuple[ExecutionStatus, ...] | None = None
    names: tuple[str, ...] | None = None  # of their orchestrations
    parent_instance_id: InstanceId | None = None  # its children; None: of any parent or none
    roots_only: bool = False  # no children
    suspended_only: bool = False
    created_from_ms: int | None = None
    created_before_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePage:
    instances: tuple[InstanceStatus, ...]  # newest first
    next_cursor: str | None  # of the page after this; None: this is the last one


class Suspension(Enum):
    """What became of the wish to suspend or to resume an instance."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"  # it was so already
    ENDED = "ended"  # there is nothing left to suspend
    UNKNOWN = "unknown"  # the store does not have it, or not yet


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFilter:
    instance_ids: tuple[InstanceId, ...] | None = None
    completed_before_ms: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    keep_last: int | None = None
    completed_before_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteResult:
    instances_deleted: int = 0
    executions_deleted: int = 0
    events_deleted: int = 0
    queue_messages_deleted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    instances_processed: int = 0
    executions_deleted: int = 0
    events_deleted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemMetrics:
    total_instances: int
    total_executions: int
    running_instances: int
    completed_instances: int
    failed_instances: int
    total_events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepths:
    orchestrator_queue: int  # visible and not leased
    worker_queue: int
    timer_queue: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStats:
    history_event_count: int
    history_size_bytes: int
    queue_pending_count: int
    kv_user_key_count: int
    kv_total_value_bytes: int


class ProviderAdmin(Protocol):
    """Listing, pruning and deleting. Deleting an instance makes its leases and messages void."""

    async def list_instances(
        self, *, status: str | None = None, limit: int | None = None
    ) -> Sequence[InstanceStatus]:
        """Newest first."""
        ...

    async def list_page(
        self, which: InstanceQuery, *, limit: int, cursor: str | None = None
    ) -> InstancePage:
        """At most `limit` instances, newest first, from where the page with that cursor ended.

        Pages never repeat an instance; those that were created meanwhile are newer than the first
        page, so they are left out. The instance that a page ended with may be deleted.

        Raises:
            ProviderError: the cursor is none of this store.
        """
        ...

    async def list_executions(self, instance_id: InstanceId) -> Sequence[ExecutionInfo]:
        """Oldest first; empty for an unknown instance."""
        ...

    async def list_children(self, instance_id: InstanceId) -> Sequence[InstanceId]: ...

    async def instance_tree(self, instance_id: InstanceId) -> Sequence[InstanceId]:
        """The instance and all its descendants, parents first."""
        ...

    async def delete_instances(
        self, instance_ids: Sequence[InstanceId], *, force: bool = False
    ) -> DeleteResult:
        """Delete these instances, all or none.

        Raises:
            ProviderError: one is running and not `force`; one is unknown; or one has a child that is
                not among them.
        """
        ...

    async def delete_instances_by_filter(self, which: InstanceFilter) -> DeleteResult:
        """Delete ended root instances with their whole trees; a tree that is still running stays."""
        ...

    async def prune_executions(
        self, instance_id: InstanceId, options: PruneOptions
    ) -> PruneResult: ...

    async def prune_executions_by_filter(
        self, which: InstanceFilter, options: PruneOptions
    ) -> PruneResult: ...

    async def suspend_instances(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, Suspension]:
        """Give these instances no turns until they are resumed.

        From this commit on no turn of them is written: whoever has one in hand finds its lease lost, and
        that delivery is not counted. Their messages wait, in order, the due timers among them; their
        activities go on. A message that cancels a suspended instance resumes it once it is visible.
        """
        ...

    async def resume_instances(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, Suspension]:
        """Let them have turns again, beginning with what has waited."""
        ...

    async def system_metrics(self) -> SystemMetrics: ...

    async def queue_depths(self) -> QueueDepths: ...

    async def instance_stats(self, instance_id: InstanceId) -> InstanceStats | None: ...

    async def cleanup_sessions(self, *, idle_ms: int) -> int: ...
