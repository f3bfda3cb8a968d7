"""Listing, deleting and pruning in the embedded store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from duroxide.clock import Clock
from duroxide.ids import InstanceId
from duroxide.providers.base import (
    DEFAULT_BULK_LIMIT,
    DeadLetter,
    DeleteResult,
    ExecutionInfo,
    InstanceFilter,
    InstancePage,
    InstanceQuery,
    InstanceStats,
    InstanceStatus,
    MessageKind,
    PruneOptions,
    PruneResult,
    QueueDepths,
    Reopening,
    Suspension,
    SystemMetrics,
)
from duroxide.providers.paging import decode_cursor, encode_cursor
from duroxide.providers.refusals import cannot_reopen, not_found, still_running, would_orphan
from duroxide.providers.sqlite_rows import SQL, key_values_of, status_of
from duroxide.providers.sqlite_store import SqliteStore
from duroxide.providers.wakeup import ChangeFeed, Wakeup
from duroxide.state import ExecutionStatus

T = TypeVar("T")


@dataclass(slots=True)
class _Counts:
    instances: int = 0
    executions: int = 0
    events: int = 0
    queued: int = 0
    processed: set[InstanceId] = field(default_factory=set)


class SqliteAdmin:
    """The `ProviderAdmin` half of `SqliteProvider`; each call is one transaction."""

    _store: SqliteStore
    _clock: Clock
    _turns: Wakeup
    _activities: Wakeup
    _changes: ChangeFeed

    async def _run(self, operation: str, work: Callable[[], T]) -> T:
        raise NotImplementedError

    def _execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        return self._store.connection.execute(sql, parameters)

    def _status(self, instance_id: InstanceId) -> InstanceStatus | None:
        row = self._execute(SQL["status"], (instance_id,)).fetchone()
        return None if row is None else status_of(row)

    # Listing.

    async def list_instances(
        self, *, status: str | None = None, limit: int | None = None
    ) -> Sequence[InstanceStatus]:
        def read() -> list[InstanceStatus]:
            parameters = {"status": status, "limit": -1 if limit is None else limit}
            ids = [row[0] for row in self._execute(SQL["list_instances"], parameters)]
            return [state for state in map(self._status, ids) if state is not None]

        return await self._run("list_instances", read)

    async def list_page(
        self, which: InstanceQuery, *, limit: int, cursor: str | None = None
    ) -> InstancePage:
        created, instance_id = (None, None) if cursor is None else decode_cursor(cursor)
        parameters = {
            "statuses": _set(None if which.statuses is None else [s.value for s in which.statuses]),
            "names": _set(which.names),
            "parent": which.parent_instance_id,
            "roots": which.roots_only,
            "suspended": which.suspended_only,
            "from": which.created_from_ms,
            "before": which.created_before_ms,
            "created": created,
            "id": instance_id,
            "limit": limit + 1,  # one more tells whether another page follows
        }

        def read() -> InstancePage:
            rows = [status_of(row) for row in self._execute(SQL["list_page"], parameters)]
            page = tuple(rows[:limit])
            last = page[-1] if len(rows) > limit else None
            following = encode_cursor(last.created_at_ms, last.instance_id) if last else None
            return InstancePage(instances=page, next_cursor=following)

        return await self._run("list_page", read)

    async def list_executions(self, instance_id: InstanceId) -> Sequence[ExecutionInfo]:
        def read() -> list[ExecutionInfo]:
            return [
                ExecutionInfo(
                    execution_id=row[0],
                    status=ExecutionStatus(row[1]),
                    output=row[2],
                    started_at_ms=row[3],
                    completed_at_ms=row[4],
                    event_count=row[5],
                )
                for row in self._execute(SQL["list_executions"], (instance_id,))
            ]

        return await self._run("list_executions", read)

    async def list_children(self, instance_id: InstanceId) -> Sequence[InstanceId]:
        return await self._run("list_children", lambda: self._children(instance_id))

    def _children(self, instance_id: InstanceId) -> list[InstanceId]:
        return [row[0] for row in self._execute(SQL["children"], (instance_id,))]

    async def instance_tree(self, instance_id: InstanceId) -> Sequence[InstanceId]:
        return await self._run("instance_tree", lambda: self._tree(instance_id))

    def _tree(self, instance_id: InstanceId) -> list[InstanceId]:
        tree = [instance_id]
        for member in tree:  # grows as we go: parents before their children
            children = self._children(member)
            tree += [child for child in children if child != instance_id]  # nor round in circles
        return tree

    # Deleting.

    async def delete_instances(
        self, instance_ids: Sequence[InstanceId], *, force: bool = False
    ) -> DeleteResult:
        def write() -> DeleteResult:
            doomed = list(dict.fromkeys(instance_ids))
            for instance_id in doomed:
                self._check_deletable(instance_id, frozenset(doomed), force)
            return self._delete(doomed)

        return await self._run("delete_instances", write)

    def _check_deletable(
        self, instance_id: InstanceId, doomed: frozenset[InstanceId], force: bool
    ) -> None:
        state = self._status(instance_id)
        if state is None:
            raise not_found("delete_instances", instance_id)
        if not state.status.is_terminal and not force:
            raise still_running(instance_id)
        for child in self._children(instance_id):
            if child not in doomed:
                raise would_orphan(instance_id, child)

    def _delete(self, instance_ids: Sequence[InstanceId]) -> DeleteResult:
        counts = _Counts()
        for instance_id in instance_ids:
            one = (instance_id,)
            events = "select coalesce(sum(event_count), 0) from executions where instance_id = ?"
            counts.events += self._execute(events, one).fetchone()[0]
            for table in (
                "history",
                "leases",
                "key_values",
                "key_value_changes",
                "dead_letters",
            ):
                self._execute(f"delete from {table} where instance_id = ?", one)  # noqa: S608 - fixed names
            counts.queued += self._execute(
                "delete from messages where instance_id = ?", one
            ).rowcount
            counts.queued += self._execute(
                "delete from activities where instance_id = ?", one
            ).rowcount
            counts.executions += self._execute(
                "delete from executions where instance_id = ?", one
            ).rowcount
            counts.instances += self._execute(
                "delete from instances where instance_id = ?", one
            ).rowcount
        return DeleteResult(
            instances_deleted=counts.instances,
            executions_deleted=counts.executions,
            events_deleted=counts.events,
            queue_messages_deleted=counts.queued,
        )

    async def delete_instances_by_filter(self, which: InstanceFilter) -> DeleteResult:
        def write() -> DeleteResult:
            limit = DEFAULT_BULK_LIMIT if which.limit is None else which.limit
            doomed: list[InstanceId] = []
            roots = 0
            for (root,) in self._execute(*_query("roots", which)).fetchall():
                tree = self._tree(root)
                if roots < limit and all(self._has_ended(member) for member in tree):
                    doomed += tree
                    roots += 1
            return self._delete(doomed)

        return await self._run("delete_instances_by_filter", write)

    def _has_ended(self, instance_id: InstanceId) -> bool:
        state = self._status(instance_id)
        return state is not None and state.status.is_terminal

    # Pruning.

    async def prune_executions(self, instance_id: InstanceId, options: PruneOptions) -> PruneResult:
        def write() -> PruneResult:
            if self._status(instance_id) is None:
                raise not_found("prune_executions", instance_id)
            return self._prune([instance_id], options)

        return await self._run("prune_executions", write)

    async def prune_executions_by_filter(
        self, which: InstanceFilter, options: PruneOptions
    ) -> PruneResult:
        def write() -> PruneResult:
            sql, parameters = _query("selected", which)
            parameters["limit"] = DEFAULT_BULK_LIMIT if which.limit is None else which.limit
            ids = [row[0] for row in self._execute(sql, parameters)]
            return self._prune(ids, options)

        return await self._run("prune_executions_by_filter", write)

    def _prune(self, instance_ids: Sequence[InstanceId], options: PruneOptions) -> PruneResult:
        counts = _Counts()
        for instance_id in instance_ids:
            rows = self._execute(SQL["list_executions"], (instance_id,)).fetchall()
            for number, status, _, _, completed_at_ms, events in rows[
                : -max(options.keep_last or 1, 1)
            ]:
                cut_ms = options.completed_before_ms
                is_old = cut_ms is None or (completed_at_ms or cut_ms) < cut_ms
                if status == ExecutionStatus.RUNNING.value or not is_old:
                    continue
                for table in ("history", "executions"):
                    self._execute(
                        f"delete from {table} where instance_id = ? and execution_id = ?",  # noqa: S608 - fixed names
                        (instance_id, number),
                    )
                counts.executions += 1
                counts.events += events
        return PruneResult(
            instances_processed=len(instance_ids),
            executions_deleted=counts.executions,
            events_deleted=counts.events,
        )

    # Suspending.

    async def suspend_instances(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, Suspension]:
        def write() -> dict[InstanceId, Suspension]:
            now_ms = self._clock.now_ms()
            return {i: self._store.suspend(i, now_ms) for i in dict.fromkeys(instance_ids)}

        answer = await self._run("suspend_instances", write)
        self._changes.tell(answer)
        return answer

    async def resume_instances(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, Suspension]:
        def write() -> dict[InstanceId, Suspension]:
            return {i: self._store.resume(i) for i in dict.fromkeys(instance_ids)}

        answer = await self._run("resume_instances", write)
        self._turns.notify()
        self._changes.tell(answer)
        return answer

    # Dead letters.

    async def list_dead_letters(
        self, *, instance_id: InstanceId | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        return await self._run(
            "list_dead_letters", lambda: self._store.dead_letters(instance_id, after, limit)
        )

    async def requeue(self, instance_id: InstanceId, reopening: Reopening | None = None) -> int:
        count = await self._run(
            "requeue", lambda: self._store.requeue(instance_id, reopening, self._clock.now_ms())
        )
        if count < 0:
            raise cannot_reopen(instance_id)
        self._turns.notify()
        self._activities.notify()
        self._changes.tell([instance_id])
        return count

    async def discard_dead_letters(self, instance_id: InstanceId) -> int:
        return await self._run(
            "discard_dead_letters", lambda: self._store.discard_letters(instance_id)
        )

    # Measuring.

    async def system_metrics(self) -> SystemMetrics:
        def read() -> SystemMetrics:
            total, running, completed, failed = self._execute(SQL["metrics"]).fetchone()
            executions, events = self._execute(SQL["execution_metrics"]).fetchone()
            return SystemMetrics(
                total_instances=total,
                total_executions=executions,
                running_instances=running,
                completed_instances=completed,
                failed_instances=failed,
                total_events=events,
            )

        return await self._run("system_metrics", read)

    async def queue_depths(self) -> QueueDepths:
        def read() -> QueueDepths:
            parameters = {"now": self._clock.now_ms(), "timer": int(MessageKind.TIMER)}
            ready, activities, timers = self._execute(SQL["depths"], parameters).fetchone()
            return QueueDepths(
                orchestrator_queue=ready, worker_queue=activities, timer_queue=timers
            )

        return await self._run("queue_depths", read)

    async def instance_stats(self, instance_id: InstanceId) -> InstanceStats | None:
        def read() -> InstanceStats | None:
            parameters = {"instance_id": instance_id, "queue": int(MessageKind.QUEUE)}
            row = self._execute(SQL["stats"], parameters).fetchone()
            if row is None:
                return None
            values = key_values_of(self._execute(SQL["live_key_values"], parameters))
            return InstanceStats(
                history_event_count=row[0],
                history_size_bytes=row[1],
                queue_pending_count=row[2],
                kv_user_key_count=len(values),
                kv_total_value_bytes=sum(len(v.value.encode()) for v in values.values()),
            )

        return await self._run("instance_stats", read)

    async def cleanup_sessions(self, *, idle_ms: int) -> int:
        def write() -> int:
            return self._execute(SQL["cleanup_sessions"], {"now": self._clock.now_ms()}).rowcount

        return await self._run("cleanup_sessions", write)


def _set(values: Sequence[str] | None) -> str | None:
    return None if values is None else json.dumps(list(values))


def _query(name: str, which: InstanceFilter) -> tuple[str, dict[str, Any]]:
    """A statement with its condition on ids filled in."""
    parameters: dict[str, Any] = {"before": which.completed_before_ms}
    condition = "true"
    if which.instance_ids is not None:
        names = {f"id{number}": i for number, i in enumerate(which.instance_ids)}
        parameters |= names
        condition = f"i.instance_id in ({', '.join(':' + name for name in names)})"
    return SQL[name].replace("{ids}", condition), parameters
