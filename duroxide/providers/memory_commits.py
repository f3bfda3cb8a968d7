"""What a commit does to the tables of the reference store."""

from __future__ import annotations

from collections.abc import Sequence

from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    DeadLetter,
    Enqueue,
    FinishActivity,
    LeasedActivity,
)
from duroxide.providers.eager import EagerChoice
from duroxide.providers.memory_tables import Execution, Instance, MemoryTables, QueuedActivity
from duroxide.providers.rules import (
    APPLIED,
    HISTORY_CONFLICT,
    LEASE_LOST,
    REPEATED,
    UNDESCRIBED,
    fingerprint,
    history_fits,
    is_undescribed,
)
from duroxide.providers.text import unstorable
from duroxide.state import ExecutionStatus


class MemoryCommits(MemoryTables):
    """Each method looks at everything first and only then writes."""

    def commit(self, item: CommitItem, now_ms: int, eager: EagerChoice | None) -> CommitResult:
        error = unstorable(item)
        if error is not None:
            return CommitResult(code=CommitCode.REFUSED, error=error)
        match item:
            case CommitTurn():
                return self._commit_turn(item, now_ms, eager)
            case FinishActivity():
                return self._finish_activity(item, now_ms)
            case AbandonTurn():
                return self._abandon_turn(item, now_ms)
            case AbandonActivity():
                return self._abandon_activity(item, now_ms)
            case Enqueue():
                self._enqueue(item.message, now_ms)
                return APPLIED

    # Turns.

    def _commit_turn(
        self, turn: CommitTurn, now_ms: int, eager: EagerChoice | None
    ) -> CommitResult:
        instance = self.instances.get(turn.instance_id)
        if instance is not None and instance.last_turn == fingerprint(turn):
            return REPEATED
        lease = self.leases.get(turn.instance_id)
        if lease is None or lease.token != turn.token or lease.expires_at_ms <= now_ms:
            return LEASE_LOST
        finished = [self._leased_activity(token, now_ms) for token in turn.finished]
        if any(f is None or f.activity.instance_id != turn.instance_id for f in finished):
            return LEASE_LOST
        if not history_fits(instance.position if instance is not None else None, turn):
            return HISTORY_CONFLICT
        if is_undescribed(turn):
            return UNDESCRIBED
        if turn.new_execution is not None:
            instance = self._begin(turn, now_ms)
        if instance is not None:
            self._write_state(instance, turn, now_ms)
        if turn.bury is not None:
            self._bury(turn, turn.bury, now_ms)
        for message_id in turn.consumed:
            self._drop_message(turn.instance_id, message_id)
        for queued in finished:
            if queued is not None:
                self._drop_activity(queued)
                self._touch_session(queued.activity.session_id, now_ms)
        added = self._add_activities(turn, now_ms)
        for message in turn.messages:
            self._enqueue(message, now_ms)
        self._cancel_timers(turn)
        if turn.keep_lease_ms is None:
            queue = self.messages.get(turn.instance_id, {})
            for message_id in lease.message_ids & queue.keys():  # left for later: not a failure
                queue[message_id].attempt_count -= 1
            self.release(turn.instance_id)
        else:
            lease.expires_at_ms = now_ms + turn.keep_lease_ms
        return CommitResult(
            code=CommitCode.APPLIED, activities=self._dispatch(added, now_ms, eager)
        )

    def _begin(self, turn: CommitTurn, now_ms: int) -> Instance:
        new = turn.new_execution
        assert new is not None
        instance = self.instances.get(turn.instance_id)
        if instance is None:
            instance = Instance(turn.instance_id, new.name, new.version, now_ms, now_ms)
            instance.incarnation = turn.token
            self.instances[turn.instance_id] = instance
        instance.name, instance.version = new.name, new.version
        if instance.parent_instance_id is None:
            instance.parent_instance_id = new.parent_instance_id
        execution = instance.executions.setdefault(
            turn.execution_id, Execution(turn.execution_id, new.engine_version, now_ms)
        )
        execution.engine_version = new.engine_version
        return instance

    def _write_state(self, instance: Instance, turn: CommitTurn, now_ms: int) -> None:
        instance.last_turn = fingerprint(turn)
        instance.updated_at_ms = now_ms
        execution = instance.current
        execution.events.extend(turn.events)
        if turn.custom_status is not None:
            instance.custom_status = turn.custom_status.status
            instance.custom_status_version += 1
        for change in turn.key_values:
            instance.apply_key_value(change)
        if execution.status is ExecutionStatus.RUNNING and turn.status is not execution.status:
            execution.status = turn.status
            execution.output = turn.output
            execution.completed_at_ms = now_ms
            if turn.bury is None:  # else it may be reopened
                instance.key_values = instance.live_key_values()
                instance.changed_key_values = {}

    def _bury(self, turn: CommitTurn, reason: str, now_ms: int) -> None:
        queue = self.messages.get(turn.instance_id, {})
        for message_id in turn.consumed:
            queued = queue.get(message_id)
            if queued is not None:
                letter = DeadLetter(
                    letter_id=self._number(),
                    instance_id=turn.instance_id,
                    kind=queued.message.kind,
                    body=queued.message.body,
                    reason=reason,
                    attempt_count=queued.attempt_count,
                    buried_at_ms=now_ms,
                )
                self.letters[letter.letter_id] = (letter, queued.message)

    def _add_activities(self, turn: CommitTurn, now_ms: int) -> list[QueuedActivity]:
        added = []
        for activity in turn.activities:
            queued = QueuedActivity(self._number(), activity, now_ms)
            self.activities[queued.number] = queued
            added.append(queued)
        if turn.cancelled_activities:
            self._cancel_activities(turn)
        return [queued for queued in added if queued.number in self.activities]

    def _cancel_activities(self, turn: CommitTurn) -> None:
        cancelled = frozenset(turn.cancelled_activities)
        for queued in tuple(self.activities.values()):
            activity = queued.activity
            if (
                activity.instance_id == turn.instance_id
                and activity.execution_id == turn.execution_id
                and activity.activity_id in cancelled
            ):
                self._drop_activity(queued)

    def _dispatch(
        self, added: Sequence[QueuedActivity], now_ms: int, eager: EagerChoice | None
    ) -> tuple[LeasedActivity, ...]:
        if eager is None:
            return ()
        return tuple(
            self._lease_activity(queued, now_ms, eager.offer.lease_ms)
            for queued in added
            if eager.takes(queued.activity)
        )

    def _cancel_timers(self, turn: CommitTurn) -> None:
        cancelled = {(turn.execution_id, event_id) for event_id in turn.cancelled_timers}
        for queued in tuple(self.messages.get(turn.instance_id, {}).values()):
            if queued.message.timer in cancelled:
                self._drop_message(turn.instance_id, queued.message_id)

    # Everything else.

    def _finish_activity(self, item: FinishActivity, now_ms: int) -> CommitResult:
        queued = self._leased_activity(item.token, now_ms)
        if queued is None:
            return LEASE_LOST
        self._drop_activity(queued)
        self._touch_session(queued.activity.session_id, now_ms)
        if item.completion is not None:
            self._enqueue(item.completion, now_ms)
        return APPLIED

    def _abandon_turn(self, item: AbandonTurn, now_ms: int) -> CommitResult:
        lease = self.leases.get(item.instance_id)
        if lease is None or lease.token != item.token or lease.expires_at_ms <= now_ms:
            return LEASE_LOST
        queue = self.messages.get(item.instance_id, {})
        for message_id in lease.message_ids & queue.keys():
            queued = queue[message_id]
            if item.delay_ms > 0:
                queued.visible_at_ms = now_ms + item.delay_ms
            if not item.count_attempt:
                queued.attempt_count = max(0, queued.attempt_count - 1)
        self.release(item.instance_id)
        return APPLIED

    def _abandon_activity(self, item: AbandonActivity, now_ms: int) -> CommitResult:
        queued = self._leased_activity(item.token, now_ms)
        if queued is None:
            return LEASE_LOST
        self._leased.pop(item.token, None)
        queued.token = None
        queued.expires_at_ms = 0
        queued.visible_at_ms = now_ms + max(item.delay_ms, 0)
        if not item.count_attempt:
            queued.attempt_count = max(0, queued.attempt_count - 1)
        return APPLIED
