"""Listing, deleting and pruning in the reference store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
from duroxide.providers.memory_store import MemoryStore
from duroxide.providers.memory_tables import Execution, Instance
from duroxide.providers.paging import decode_cursor, encode_cursor
from duroxide.providers.refusals import cannot_reopen, not_found, still_running, would_orphan
from duroxide.providers.wakeup import ChangeFeed, Wakeup
from duroxide.state import ExecutionStatus


class MemoryAdmin:
    """The `ProviderAdmin` half of `MemoryProvider`."""

    _store: MemoryStore
    _clock: Clock
    _turns: Wakeup
    _activities: Wakeup
    _changes: ChangeFeed

    async def list_instances(
        self, *, status: str | None = None, limit: int | None = None
    ) -> Sequence[InstanceStatus]:
        states = [instance.status() for instance in self._store.instances.values()]
        states.reverse()  # insertion order: of the same millisecond the later one is newer
        states.sort(key=lambda state: -state.created_at_ms)
        return [s for s in states if status is None or s.status.value == status][:limit]

    async def list_page(
        self, which: InstanceQuery, *, limit: int, cursor: str | None = None
    ) -> InstancePage:
        states = [i.status() for i in self._store.instances.values()]
        states = [state for state in states if _is_wanted(state, which)]
        states.sort(key=_place, reverse=True)
        if cursor is not None:
            after = decode_cursor(cursor)
            states = [state for state in states if _place(state) < after]
        page = tuple(states[:limit])
        is_last = len(page) == len(states)
        return InstancePage(
            instances=page, next_cursor=None if is_last else encode_cursor(*_place(page[-1]))
        )

    async def list_executions(self, instance_id: InstanceId) -> Sequence[ExecutionInfo]:
        instance = self._store.instances.get(instance_id)
        if instance is None:
            return ()
        return [_info(instance.executions[number]) for number in sorted(instance.executions)]

    async def list_children(self, instance_id: InstanceId) -> Sequence[InstanceId]:
        return [
            child.instance_id
            for child in self._store.instances.values()
            if child.parent_instance_id == instance_id
        ]

    async def instance_tree(self, instance_id: InstanceId) -> Sequence[InstanceId]:
        tree = [instance_id]
        for member in tree:  # grows as we go: parents before their children
            children = await self.list_children(member)
            tree += [child for child in children if child != instance_id]  # nor round in circles
        return tree

    async def delete_instances(
        self, instance_ids: Sequence[InstanceId], *, force: bool = False
    ) -> DeleteResult:
        doomed = list(dict.fromkeys(instance_ids))
        for instance_id in doomed:
            self._check_deletable(instance_id, frozenset(doomed), force)
        result = DeleteResult()
        for instance_id in doomed:
            result = _sum(result, self._delete(instance_id))
        return result

    def _check_deletable(
        self, instance_id: InstanceId, doomed: frozenset[InstanceId], force: bool
    ) -> None:
        instance = self._store.instances.get(instance_id)
        if instance is None:
            raise not_found("delete_instances", instance_id)
        if not instance.current.status.is_terminal and not force:
            raise still_running(instance_id)
        for child in self._store.instances.values():
            if child.parent_instance_id == instance_id and child.instance_id not in doomed:
                raise would_orphan(instance_id, child.instance_id)

    def _delete(self, instance_id: InstanceId) -> DeleteResult:
        store = self._store
        instance = store.instances.pop(instance_id)
        store.release(instance_id)
        for letter in store.dead_letters(instance_id):
            del store.letters[letter.letter_id]
        messages = len(store.messages.pop(instance_id, {}))
        for number, queued in tuple(store.activities.items()):
            if queued.activity.instance_id == instance_id:
                del store.activities[number]
                messages += 1
        return DeleteResult(
            instances_deleted=1,
            executions_deleted=len(instance.executions),
            events_deleted=sum(len(e.events) for e in instance.executions.values()),
            queue_messages_deleted=messages,
        )

    async def delete_instances_by_filter(self, which: InstanceFilter) -> DeleteResult:
        result = DeleteResult()
        for instance in self._selected(which, self._ended_roots()):
            for member in await self.instance_tree(instance.instance_id):
                result = _sum(result, self._delete(member))
        return result

    def _ended_roots(self) -> Iterator[Instance]:
        for instance in tuple(self._store.instances.values()):
            if instance.parent_instance_id is None and self._tree_has_ended(instance):
                yield instance

    def _tree_has_ended(self, instance: Instance) -> bool:
        if not instance.current.status.is_terminal:
            return False
        return all(
            self._tree_has_ended(child)
            for child in self._store.instances.values()
            if child.parent_instance_id == instance.instance_id
        )

    def _selected(self, which: InstanceFilter, among: Iterator[Instance]) -> list[Instance]:
        limit = DEFAULT_BULK_LIMIT if which.limit is None else which.limit
        return [
            instance
            for instance in among
            if (which.instance_ids is None or instance.instance_id in which.instance_ids)
            and _completed_before(instance.current, which.completed_before_ms)
        ][:limit]

    async def prune_executions(self, instance_id: InstanceId, options: PruneOptions) -> PruneResult:
        instance = self._store.instances.get(instance_id)
        if instance is None:
            raise not_found("prune_executions", instance_id)
        return _prune(instance, options)

    async def prune_executions_by_filter(
        self, which: InstanceFilter, options: PruneOptions
    ) -> PruneResult:
        results = [
            _prune(instance, options)
            for instance in self._selected(which, iter(tuple(self._store.instances.values())))
        ]
        return PruneResult(
            instances_processed=len(results),
            executions_deleted=sum(r.executions_deleted for r in results),
            events_deleted=sum(r.events_deleted for r in results),
        )

    async def suspend_instances(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, Suspension]:
        now_ms = self._clock.now_ms()
        answer = {i: self._store.suspend(i, now_ms) for i in dict.fromkeys(instance_ids)}
        self._changes.tell(answer)
        return answer

    async def resume_instances(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, Suspension]:
        answer = {i: self._store.resume(i) for i in dict.fromkeys(instance_ids)}
        self._turns.notify()
        self._changes.tell(answer)
        return answer

    async def list_dead_letters(
        self, *, instance_id: InstanceId | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        letters = self._store.dead_letters(instance_id)
        return [letter for letter in letters if letter.letter_id > after][:limit]

    async def requeue(self, instance_id: InstanceId, reopening: Reopening | None = None) -> int:
        count = self._store.requeue(instance_id, reopening, self._clock.now_ms())
        if count < 0:
            raise cannot_reopen(instance_id)
        self._turns.notify()
        self._activities.notify()
        self._changes.tell([instance_id])
        return count

    async def discard_dead_letters(self, instance_id: InstanceId) -> int:
        letters = self._store.dead_letters(instance_id)
        for letter in letters:
            del self._store.letters[letter.letter_id]
        return len(letters)

    async def system_metrics(self) -> SystemMetrics:
        instances = self._store.instances.values()
        executions = [e for instance in instances for e in instance.executions.values()]
        current = [instance.current.status for instance in instances]
        return SystemMetrics(
            total_instances=len(current),
            total_executions=len(executions),
            running_instances=current.count(ExecutionStatus.RUNNING),
            completed_instances=current.count(ExecutionStatus.COMPLETED),
            failed_instances=current.count(ExecutionStatus.FAILED),
            total_events=sum(len(e.events) for e in executions),
        )

    async def queue_depths(self) -> QueueDepths:
        now_ms, store = self._clock.now_ms(), self._store
        ready, timers = 0, 0
        for instance_id, queue in store.messages.items():
            lease = store.leases.get(instance_id)
            leased = lease.message_ids if lease and now_ms < lease.expires_at_ms else set()
            for queued in queue.values():
                if queued.visible_at_ms > now_ms:
                    timers += queued.message.kind is MessageKind.TIMER
                elif queued.message_id not in leased and not store.is_suspended(instance_id):
                    ready += 1
        return QueueDepths(
            orchestrator_queue=ready,
            worker_queue=sum(
                not queued.is_leased(now_ms) and queued.visible_at_ms <= now_ms
                for queued in store.activities.values()
            ),
            timer_queue=timers,
        )

    async def instance_stats(self, instance_id: InstanceId) -> InstanceStats | None:
        instance = self._store.instances.get(instance_id)
        if instance is None:
            return None
        values = instance.live_key_values()
        queued = self._store.messages.get(instance_id, {}).values()
        return InstanceStats(
            history_event_count=len(instance.current.events),
            history_size_bytes=sum(len(text.encode()) for text in instance.current.events),
            queue_pending_count=sum(q.message.kind is MessageKind.QUEUE for q in queued),
            kv_user_key_count=len(values),
            kv_total_value_bytes=sum(len(v.value.encode()) for v in values.values()),
        )

    async def cleanup_sessions(self, *, idle_ms: int) -> int:
        now_ms, store = self._clock.now_ms(), self._store
        wanted = {queued.activity.session_id for queued in store.activities.values()}
        orphans = [
            session_id
            for session_id, session in store.sessions.items()
            if session.expires_at_ms <= now_ms and session_id not in wanted
        ]
        for session_id in orphans:
            del store.sessions[session_id]
        return len(orphans)


def _place(state: InstanceStatus) -> tuple[int, InstanceId]:
    return state.created_at_ms, state.instance_id


def _is_wanted(state: InstanceStatus, which: InstanceQuery) -> bool:
    parent, since, before = (
        which.parent_instance_id,
        which.created_from_ms,
        which.created_before_ms,
    )
    return (
        (which.statuses is None or state.status in which.statuses)
        and (which.names is None or state.name in which.names)
        and (parent is None or state.parent_instance_id == parent)
        and (not which.roots_only or state.parent_instance_id is None)
        and (not which.suspended_only or state.suspended_at_ms is not None)
        and (since is None or state.created_at_ms >= since)
        and (before is None or state.created_at_ms < before)
    )


def _info(execution: Execution) -> ExecutionInfo:
    return ExecutionInfo(
        execution_id=execution.execution_id,
        status=execution.status,
        output=execution.output,
        started_at_ms=execution.started_at_ms,
        completed_at_ms=execution.completed_at_ms,
        event_count=len(execution.events),
    )


def _completed_before(execution: Execution, limit_ms: int | None) -> bool:
    if limit_ms is None:
        return True
    return execution.completed_at_ms is not None and execution.completed_at_ms < limit_ms


def _prune(instance: Instance, options: PruneOptions) -> PruneResult:
    newest_first = sorted(instance.executions, reverse=True)
    keep = max(options.keep_last or 1, 1)
    doomed = [
        number
        for number in newest_first[keep:]
        if instance.executions[number].status is not ExecutionStatus.RUNNING
        and _completed_before(instance.executions[number], options.completed_before_ms)
    ]
    events = sum(len(instance.executions.pop(number).events) for number in doomed)
    return PruneResult(instances_processed=1, executions_deleted=len(doomed), events_deleted=events)


def _sum(a: DeleteResult, b: DeleteResult) -> DeleteResult:
    return DeleteResult(
        instances_deleted=a.instances_deleted + b.instances_deleted,
        executions_deleted=a.executions_deleted + b.executions_deleted,
        events_deleted=a.events_deleted + b.events_deleted,
        queue_messages_deleted=a.queue_messages_deleted + b.queue_messages_deleted,
    )
