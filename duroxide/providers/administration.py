"""Everything that people and their tools ask of a store, off the hot path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from duroxide.ids import ExecutionId, InstanceId
from duroxide.state import ExecutionStatus


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


DEFAULT_BULK_LIMIT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFilter:
    instance_ids: tuple[InstanceId, ...] | None = None
    completed_before_ms: int | None = None
    limit: int | None = None  # instances that one bulk call touches; None: DEFAULT_BULK_LIMIT


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
