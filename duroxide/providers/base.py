"""The storage contract: what a runtime and its clients ask of a store.

It is batch-first (one is a batch of one) and the store never parses what it keeps: messages, events
and activities come as opaque text inside routed envelopes, and status and key-values as explicit
operations. Times are Unix milliseconds of the *store's* clock; a lease is live while
`now < expires`, a message is visible once `visible_at <= now`.

The contract in full is a test suite: `duroxide.testing.provider_suite`. What goes in and comes out is
described in modules by topic, and authors of providers import all of it from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from duroxide.ids import ActivityToken, ExecutionId, InstanceId, TurnToken
from duroxide.providers.administration import (
    DEFAULT_BULK_LIMIT,
    DeleteResult,
    ExecutionInfo,
    InstanceFilter,
    InstancePage,
    InstanceQuery,
    InstanceStats,
    InstanceStatus,
    ProviderAdmin,
    PruneOptions,
    PruneResult,
    QueueDepths,
    Suspension,
    SystemMetrics,
)
from duroxide.providers.commits import (
    AbandonActivity,
    AbandonTurn,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    EagerDispatch,
    Enqueue,
    FinishActivity,
    NewExecution,
    RoomOf,
)
from duroxide.providers.envelopes import Activity, Message, MessageKind
from duroxide.providers.leasing import (
    UNTAGGED,
    ActivityPoll,
    Cursor,
    LeasedActivity,
    LeasedTurn,
    ReceivedMessage,
    Renewal,
    SessionOwner,
    TagMode,
    TagSelection,
    TurnPoll,
)
from duroxide.providers.optional import (
    CallerTransactions,
    DeadLetter,
    DeadLetterPage,
    DeadLetterStore,
    HeartbeatStore,
    Reopening,
)
from duroxide.state import KeyValue
from duroxide.version import VersionRange

__all__ = [
    "CONTRACT_VERSION",
    "DEFAULT_BULK_LIMIT",
    "UNTAGGED",
    "AbandonActivity",
    "AbandonTurn",
    "Activity",
    "ActivityPoll",
    "CallerTransactions",
    "Capabilities",
    "CommitCode",
    "CommitItem",
    "CommitResult",
    "CommitTurn",
    "Cursor",
    "DeadLetter",
    "DeadLetterPage",
    "DeadLetterStore",
    "DeleteResult",
    "EagerDispatch",
    "Enqueue",
    "ExecutionInfo",
    "FinishActivity",
    "HeartbeatStore",
    "InstanceFilter",
    "InstancePage",
    "InstanceQuery",
    "InstanceStats",
    "InstanceStatus",
    "LeasedActivity",
    "LeasedTurn",
    "Message",
    "MessageKind",
    "NewExecution",
    "Provider",
    "ProviderAdmin",
    "PruneOptions",
    "PruneResult",
    "QueueDepths",
    "ReceivedMessage",
    "Renewal",
    "Reopening",
    "RoomOf",
    "SessionOwner",
    "Suspension",
    "SystemMetrics",
    "TagMode",
    "TagSelection",
    "TurnPoll",
]

CONTRACT_VERSION = 1


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
        tags: TagSelection = UNTAGGED,
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
        """The state of those instances that exist: none of an id that no store can keep."""
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
