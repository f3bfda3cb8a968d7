"""Everything that people and their tools ask of a store, off the hot path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeVar

from duroxide.ids import ExecutionId, InstanceId
from duroxide.state import ExecutionStatus

T = TypeVar("T")


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
    created_from_ms: int | None = None  # inclusive
    created_before_ms: int | None = None  # exclusive

    def __post_init__(self) -> None:
        _settle(self, "statuses", _many(self.statuses, "statuses", ExecutionStatus))
        _settle(self, "names", _many(self.names, "names", _text))
        _settle(self, "created_from_ms", _time(self.created_from_ms, "created_from_ms"))
        _settle(self, "created_before_ms", _time(self.created_before_ms, "created_before_ms"))


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
    """Which instances a bulk call may touch: those that pass every condition given."""

    instance_ids: tuple[InstanceId, ...] | None = None
    completed_before_ms: int | None = None  # exclusive; what has not ended does not pass
    limit: int | None = None  # instances that one bulk call touches; None: DEFAULT_BULK_LIMIT

    def __post_init__(self) -> None:
        _settle(self, "instance_ids", _many(self.instance_ids, "instance_ids", _text))
        _settle(self, "completed_before_ms", _time(self.completed_before_ms, "completed_before_ms"))
        _settle(self, "limit", _count(self.limit, "limit"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """Which executions of an instance go: ended ones that neither condition keeps."""

    keep_last: int | None = None  # the newest, the current one among them; 0 is 1
    completed_before_ms: int | None = None  # exclusive: those that ended later stay

    def __post_init__(self) -> None:
        _settle(self, "keep_last", _count(self.keep_last, "keep_last"))
        _settle(self, "completed_before_ms", _time(self.completed_before_ms, "completed_before_ms"))


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
    orchestrator_queue: int  # messages, visible and not leased
    worker_queue: int  # activities, likewise
    timer_queue: int = 0  # timers that are not due yet


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStats:
    history_event_count: int  # of the current execution, as the next one
    history_size_bytes: int
    queue_pending_count: int  # messages to its queues that no turn has taken
    kv_user_key_count: int
    kv_total_value_bytes: int


class ProviderAdmin(Protocol):
    """Listing, pruning and deleting. Deleting an instance makes its leases and messages void."""

    async def list_instances(
        self, *, status: str | None = None, limit: int | None = None
    ) -> Sequence[InstanceStatus]:
        """Newest first; of all statuses or of one (a value of `ExecutionStatus`), all or at most `limit`."""
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

    async def list_children(self, instance_id: InstanceId) -> Sequence[InstanceId]:
        """In no particular order; empty for an unknown instance."""
        ...

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

    async def prune_executions(self, instance_id: InstanceId, options: PruneOptions) -> PruneResult:
        """Delete earlier executions with their histories; the current one stays in any case.

        Raises:
            ProviderError: the instance is unknown.
        """
        ...

    async def prune_executions_by_filter(
        self, which: InstanceFilter, options: PruneOptions
    ) -> PruneResult:
        """The same for every instance that passes."""
        ...

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

    async def system_metrics(self) -> SystemMetrics:
        """Counts over the whole store."""
        ...

    async def queue_depths(self) -> QueueDepths:
        """How much waits for a worker now."""
        ...

    async def instance_stats(self, instance_id: InstanceId) -> InstanceStats | None:
        """The sizes of an instance; None if the store does not know it."""
        ...

    async def cleanup_sessions(self, *, idle_ms: int) -> int:
        """Forget sessions whose lease has ended and that no activity waits for; how many.

        Args:
            idle_ms: a store may spare those that were used within that time. The stores of the library
                need not: such a session is claimed anew like any other.
        """
        ...


# What people pass on, from a command line or a form, is judged here once for all stores.

_LAST_COUNT = 2**31 - 1
_LAST_TIME_MS = 253_402_300_799_999  # the year 9999 ends


def _settle(options: object, name: str, value: object) -> None:
    object.__setattr__(options, name, value)


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    return value


def _count(value: int | None, name: str) -> int | None:
    if value is None:
        return None
    if _whole(value, name) < 0:
        raise ValueError(f"{name} must not be negative, but is {value}")
    return min(value, _LAST_COUNT)


def _time(value: int | None, name: str) -> int | None:
    """Unix milliseconds; whatever is beyond all times means so."""
    return None if value is None else min(max(_whole(value, name), 0), _LAST_TIME_MS)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _many(values: Iterable[T] | None, name: str, of: Callable[[Any], T]) -> tuple[T, ...] | None:
    if isinstance(values, str):
        raise TypeError(f"{name} must be several in a list or tuple, not the text {values!r}")
    return None if values is None else tuple(map(of, values))
