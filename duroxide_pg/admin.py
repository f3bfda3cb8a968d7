"""Listing, pruning and deleting: what people and their tools ask, off the hot path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from duroxide.errors import ProviderError
from duroxide.ids import InstanceId
from duroxide.providers.base import (
    DeadLetter,
    DeleteResult,
    ExecutionInfo,
    InstanceFilter,
    InstancePage,
    InstanceQuery,
    InstanceStats,
    InstanceStatus,
    Message,
    MessageKind,
    PruneOptions,
    PruneResult,
    QueueDepths,
    Reopening,
    Suspension,
    SystemMetrics,
)
from duroxide.providers.paging import decode_cursor, encode_cursor
from duroxide.providers.refusals import cannot_reopen
from duroxide.state import ExecutionStatus
from duroxide_pg import transactions
from duroxide_pg.arrays import Numbers, Texts
from duroxide_pg.connections import HotConnection
from duroxide_pg.health import DEFAULT_LIMITS, Health, Limits, report
from duroxide_pg.queries import Statement
from duroxide_pg.rows import to_status
from duroxide_pg.wakeups import Wakeups

SLICE = 500
"""Instances, without those below them, per transaction of deleting and pruning by filter."""
SLICE_EVENTS = 50_000
"""Events, about, that a transaction of deleting and pruning removes: well within the time that it has. More only
if that many are of a single execution, or of the current executions of one tree or of one list to delete."""
PAGE = 5_000
"""Instances that a transaction looks at to find that many."""
METRICS_PAGES = 10_000
"""Pages of a table that metrics look at; they are exact up to this size, 80 MB."""
MOST_QUEUED = 100_000
"""Up to where what is queued is counted."""
DEFAULT_LIMIT = 1_000
Place: TypeAlias = tuple[int | None, InstanceId | None]
"""Where a slice ended: creation in microseconds since 1970, and the instance."""


class PostgresAdmin:
    """`ProviderAdmin` on the connection that also serves clients' reads."""

    _wakeups: Wakeups

    @property
    def schema(self) -> str:
        raise NotImplementedError

    def __init__(
        self,
        connection: HotConnection,
        statements: Mapping[str, Statement],
        now_ms: Callable[[], int | None],
    ) -> None:
        self._admin_connection = connection
        self._admin_statements = statements
        self._admin_now_ms = now_ms

    async def _ask(self, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return await self._admin_connection.call(name, self._admin_statements[name], parameters)

    async def list_instances(
        self, *, status: str | None = None, limit: int | None = None
    ) -> Sequence[InstanceStatus]:
        rows = await self._ask("list_instances", status=status, limit=limit)
        return [to_status(row) for row in rows]

    async def list_page(
        self, which: InstanceQuery, *, limit: int, cursor: str | None = None
    ) -> InstancePage:
        created, instance_id = (None, None) if cursor is None else decode_cursor(cursor)
        rows = await self._ask(
            "list_page",
            statuses=_texts(None if which.statuses is None else [s.value for s in which.statuses]),
            names=_texts(which.names),
            parent=which.parent_instance_id,
            roots=which.roots_only,
            suspended=which.suspended_only,
            from_ms=which.created_from_ms,
            before_ms=which.created_before_ms,
            created=created,
            instance_id=instance_id,
            limit=limit + 1,  # one more tells whether another page follows
        )
        page = rows[:limit]
        following = None
        if page and len(rows) > limit:
            following = encode_cursor(page[-1][-1], page[-1][0])
        return InstancePage(instances=tuple(map(to_status, page)), next_cursor=following)

    async def list_executions(self, instance_id: InstanceId) -> Sequence[ExecutionInfo]:
        return [
            ExecutionInfo(
                execution_id=execution_id,
                status=ExecutionStatus(status),
                output=output,
                started_at_ms=started_at_ms,
                completed_at_ms=completed_at_ms,
                event_count=event_count,
            )
            for execution_id, status, output, started_at_ms, completed_at_ms, event_count in (
                await self._ask("list_executions", instance_id=instance_id)
            )
        ]

    async def list_children(self, instance_id: InstanceId) -> Sequence[InstanceId]:
        return [row[0] for row in await self._ask("list_children", instance_id=instance_id)]

    async def instance_tree(self, instance_id: InstanceId) -> Sequence[InstanceId]:
        return [row[0] for row in await self._ask("instance_tree", instance_id=instance_id)]

    async def delete_instances(
        self, instance_ids: Sequence[InstanceId], *, force: bool = False
    ) -> DeleteResult:
        """Delete these instances, all or none.

        What has been superseded by continue-as-new goes first, in transactions of its own: of instances with a
        long past, one that fails or is stopped may leave a shorter one.
        """
        total = [0, 0, 0, 0]
        more = True
        while more:
            ((problem, *counts, more),) = await self._ask(
                "delete_instances",
                instance_ids=Texts(dict.fromkeys(instance_ids)),
                force=force,
                slice_events=SLICE_EVENTS,
            )
            if problem is not None:
                raise ProviderError("delete_instances", problem, False)
            total = [a + b for a, b in zip(total, counts, strict=True)]
        return _deleted(total)

    async def delete_instances_by_filter(self, which: InstanceFilter) -> DeleteResult:
        left = which.limit if which.limit is not None else DEFAULT_LIMIT
        total = [0, 0, 0, 0]
        after: Place = (None, None)
        while left > 0:
            ((roots, *found),) = await self._ask(
                "delete_ended_trees",
                limit=min(left, SLICE),
                page=PAGE,
                slice_events=SLICE_EVENTS,
                after_us=after[0],
                after_id=after[1],
                **_filter(which),
            )
            *counts, more, last_us, last_id = found
            total = [a + b for a, b in zip(total, counts, strict=True)]
            left -= roots
            after = last_us, last_id
            if last_us is None and not more:
                break
        return _deleted(total)

    async def prune_executions(self, instance_id: InstanceId, options: PruneOptions) -> PruneResult:
        which = InstanceFilter(instance_ids=(instance_id,))
        result = await self.prune_executions_by_filter(which, options)
        if result.instances_processed == 0:
            raise ProviderError("prune_executions", f"instance {instance_id!r} not found", False)
        return result

    async def prune_executions_by_filter(
        self, which: InstanceFilter, options: PruneOptions
    ) -> PruneResult:
        left = which.limit if which.limit is not None else DEFAULT_LIMIT
        total = [0, 0, 0]
        after: Place = (None, None)
        while left > 0:
            ((*counts, more, last_us, last_id),) = await self._ask(
                "prune_executions",
                slice_events=SLICE_EVENTS,
                limit=min(left, SLICE),
                after_us=after[0],
                after_id=after[1],
                keep_last=options.keep_last,
                ended_before_ms=options.completed_before_ms,
                **_filter(which),
            )
            total = [a + b for a, b in zip(total, counts, strict=True)]
            left -= counts[0]
            after = last_us, last_id
            if last_us is None and not more:
                break
        instances, executions, events = total
        return PruneResult(
            instances_processed=instances, executions_deleted=executions, events_deleted=events
        )

    async def suspend_instances(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, Suspension]:
        rows = await self._ask(
            "suspend_instances", instance_ids=Texts(instance_ids), now=self._admin_now_ms()
        )
        self._say_changed(instance_ids)
        return {instance_id: Suspension(outcome) for instance_id, outcome in rows}

    async def resume_instances(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, Suspension]:
        rows = await self._ask("resume_instances", instance_ids=Texts(instance_ids))
        self._wakeups.turns.give()
        self._say_changed(instance_ids)
        return {instance_id: Suspension(outcome) for instance_id, outcome in rows}

    async def list_dead_letters(
        self, *, instance_id: InstanceId | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        rows = await self._ask(
            "list_dead_letters", instance_id=instance_id, after=after, limit=limit
        )
        return [
            DeadLetter(
                letter_id=row[0],
                instance_id=row[1],
                kind=MessageKind(row[2]),
                body=row[3],
                reason=row[4],
                attempt_count=row[5],
                buried_at_ms=row[6],
            )
            for row in rows
        ]

    async def requeue(self, instance_id: InstanceId, reopening: Reopening | None = None) -> int:
        activities = reopening.activities if reopening is not None else ()
        messages = reopening.messages if reopening is not None else ()
        timers = [message.timer or (None, None) for message in messages]
        ((count,),) = await self._ask(
            "requeue",
            instance_id=instance_id,
            execution=reopening.execution_id if reopening is not None else None,
            events=reopening.event_count if reopening is not None else None,
            keep=reopening.keep_events if reopening is not None else None,
            a_activity=Numbers(activity.activity_id for activity in activities),
            a_body=Texts(activity.body for activity in activities),
            a_tag=Texts(activity.tag for activity in activities),
            a_session=Texts(activity.session_id for activity in activities),
            m_instance=Texts(message.instance_id for message in messages),
            m_kind=Numbers(int(message.kind) for message in messages),
            m_body=Texts(message.body for message in messages),
            m_visible=Numbers(message.visible_at_ms for message in messages),
            m_timer_execution=Numbers(execution for execution, _ in timers),
            m_timer=Numbers(event for _, event in timers),
            now=self._admin_now_ms(),
        )
        if count is None:
            raise cannot_reopen(instance_id)
        self._wakeups.turns.give()
        self._wakeups.activities.give()
        self._say_changed([instance_id])
        return int(count)

    async def discard_dead_letters(self, instance_id: InstanceId) -> int:
        ((count,),) = await self._ask("discard_dead_letters", instance_id=instance_id)
        return int(count)

    def send_within(self, connection: Any, messages: Sequence[Message]) -> None:
        transactions.send(connection, self.schema, messages)

    async def send_within_async(self, connection: Any, messages: Sequence[Message]) -> None:
        await transactions.send_async(connection, self.schema, messages)

    def _say_changed(self, instance_ids: Sequence[InstanceId]) -> None:
        self._wakeups.changed(instance_ids)
        self._wakeups.send_wakes()

    async def system_metrics(self) -> SystemMetrics:
        ((instances, executions, running, completed, failed, events),) = await self._ask(
            "system_metrics", pages=METRICS_PAGES
        )
        return SystemMetrics(
            total_instances=instances,
            total_executions=executions,
            running_instances=running,
            completed_instances=completed,
            failed_instances=failed,
            total_events=events,
        )

    async def queue_depths(self) -> QueueDepths:
        ((messages, activities, timers),) = await self._ask(
            "queue_depths", now=self._admin_now_ms(), most=MOST_QUEUED
        )
        return QueueDepths(orchestrator_queue=messages, worker_queue=activities, timer_queue=timers)

    async def instance_stats(self, instance_id: InstanceId) -> InstanceStats | None:
        rows = await self._ask("instance_stats", instance_id=instance_id)
        if not rows:
            return None
        events, size, pending, keys, value_bytes = rows[0]
        return InstanceStats(
            history_event_count=events,
            history_size_bytes=size,
            queue_pending_count=pending,
            kv_user_key_count=keys,
            kv_total_value_bytes=value_bytes,
        )

    async def health(self, limits: Limits = DEFAULT_LIMITS) -> Health:
        """What is wrong with the store or will be soon; reads a few pages, however much is stored."""
        (queues,) = await self._ask("health_queues", now=self._admin_now_ms())
        return report(
            self.schema,
            holders=await self._ask("health_holders"),
            sizes=await self._ask("health_tables"),
            indexes=await self._ask("health_indexes"),
            queues=queues,
            settings=await self._ask("health_settings"),
            limits=limits,
        )

    async def cleanup_sessions(self, *, idle_ms: int) -> int:
        ((count,),) = await self._ask("cleanup_sessions", now=self._admin_now_ms())
        return int(count)


def _texts(values: Sequence[str] | None) -> Texts | None:
    return None if values is None else Texts(values)


def _filter(which: InstanceFilter) -> dict[str, Any]:
    ids = which.instance_ids
    return {
        "instance_ids": Texts(ids) if ids is not None else None,
        "completed_before_ms": which.completed_before_ms,
    }


def _deleted(counts: Sequence[int]) -> DeleteResult:
    instances, executions, events, messages = counts
    return DeleteResult(
        instances_deleted=instances,
        executions_deleted=executions,
        events_deleted=events,
        queue_messages_deleted=messages,
    )
