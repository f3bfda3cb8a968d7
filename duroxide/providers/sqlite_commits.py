"""What a commit does to the tables of the SQLite store."""

from __future__ import annotations

from typing import Any

from duroxide.ids import ActivityToken, InstanceId
from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    Enqueue,
    FinishActivity,
    LeasedActivity,
)
from duroxide.providers.eager import EagerChoice
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
from duroxide.providers.sqlite_rows import SEPARATOR, SQL, activity_row, leased_at_once, position_of
from duroxide.providers.sqlite_tables import SqliteTables
from duroxide.providers.text import unstorable
from duroxide.state import (
    ClearKeyValue,
    ClearKeyValues,
    ExecutionStatus,
    KeyValueChange,
    SetKeyValue,
)


class SqliteCommits(SqliteTables):
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
                self._enqueue((item.message,), now_ms)
                return APPLIED

    # Turns.

    def _commit_turn(
        self, turn: CommitTurn, now_ms: int, eager: EagerChoice | None
    ) -> CommitResult:
        current = self._run("current", (turn.instance_id,)).fetchone()
        last_turn = fingerprint(turn)
        if current is not None and current[4] == last_turn:
            return REPEATED
        if not self._holds(turn.instance_id, turn.token, now_ms):
            return LEASE_LOST
        finished = [self._leased_activity(token, now_ms) for token in turn.finished]
        if any(row is None or row[1] != turn.instance_id for row in finished):
            return LEASE_LOST
        if not history_fits(position_of(current), turn):
            return HISTORY_CONFLICT
        if is_undescribed(turn):
            return UNDESCRIBED
        if turn.new_execution is not None:
            self._begin(turn, now_ms)
        if current is not None or turn.new_execution is not None:
            self._write_state(turn, last_turn, now_ms)
        if turn.bury is not None:
            self._bury(turn, turn.bury, now_ms)
        self.connection.executemany(
            SQL["consume"], [(message_id, turn.instance_id) for message_id in turn.consumed]
        )
        for row in finished:
            if row is not None:
                self._run("drop_activity", (row[0],))
                self._touch_session(row[2], now_ms)
        given = self._add_activities(turn, now_ms, eager)
        self._enqueue(turn.messages, now_ms)
        self._cancel(turn)
        if turn.keep_lease_ms is None:
            # What is left for later was not delivered in vain.
            self._run("forgive_delivery", {"instance_id": turn.instance_id})
            self._run("end_lease", (turn.instance_id,))
        else:
            self._run("extend_lease", (now_ms + turn.keep_lease_ms, turn.instance_id))
        return CommitResult(code=CommitCode.APPLIED, activities=given) if given else APPLIED

    def _begin(self, turn: CommitTurn, now_ms: int) -> None:
        new = turn.new_execution
        assert new is not None
        parameters = {
            "instance_id": turn.instance_id,
            "execution_id": turn.execution_id,
            "name": new.name,
            "version": new.version,
            "parent": new.parent_instance_id,
            "token": turn.token,
            "major": new.engine_version.major,
            "minor": new.engine_version.minor,
            "patch": new.engine_version.patch,
            "now": now_ms,
        }
        self._run("begin_instance", parameters)
        self._run("begin_execution", parameters)

    def _write_state(self, turn: CommitTurn, last_turn: str, now_ms: int) -> None:
        key = {"instance_id": turn.instance_id, "execution_id": turn.execution_id}
        if turn.events:
            text = SEPARATOR.join(turn.events)
            count, first = len(turn.events), turn.first_event_id
            row = (turn.instance_id, turn.execution_id, first, first + count - 1, text)
            self._run("add_history", row)
            size = len(text) if text.isascii() else len(text.encode())
            self._run("advance_execution", {**key, "count": count, "bytes": size})
        custom = turn.custom_status
        self._run(
            "advance_instance",
            {
                "instance_id": turn.instance_id,
                "now": now_ms,
                "last_turn": last_turn,
                "has_status": int(custom is not None),
                "custom_status": None if custom is None else custom.status,
            },
        )
        for change in turn.key_values:
            self._change_key_value(turn.instance_id, change, now_ms)
        if turn.status is ExecutionStatus.RUNNING:
            return
        end = {**key, "status": turn.status.value, "output": turn.output, "now": now_ms}
        is_over = turn.bury is None  # else it may be reopened
        if self._run("end_execution", end).rowcount and is_over:
            self._run("merge_key_values_1", (turn.instance_id,))
            self._run("merge_key_values_2", {"instance_id": turn.instance_id})
            self._run("merge_key_values_3", (turn.instance_id,))

    def _change_key_value(
        self, instance_id: InstanceId, change: KeyValueChange, now_ms: int
    ) -> None:
        match change:
            case SetKeyValue(key=key, value=value, updated_at_ms=at_ms):
                self._run("set_key_value", (instance_id, key, value, at_ms))
            case ClearKeyValue(key=key):
                self._run("set_key_value", (instance_id, key, None, now_ms))
            case ClearKeyValues():
                self._run("clear_key_values", {"instance_id": instance_id, "now": now_ms})

    def _bury(self, turn: CommitTurn, reason: str, now_ms: int) -> None:
        for message_id in turn.consumed:
            self._run(
                "bury",
                {
                    "message_id": message_id,
                    "instance_id": turn.instance_id,
                    "reason": reason,
                    "now": now_ms,
                },
            )

    def _add_activities(
        self, turn: CommitTurn, now_ms: int, eager: EagerChoice | None
    ) -> tuple[LeasedActivity, ...]:
        given: list[LeasedActivity] = []
        rows: list[tuple[Any, ...]] = []
        cancelled = frozenset(turn.cancelled_activities)
        for activity in turn.activities:
            if activity.activity_id in cancelled:
                continue  # scheduled and dropped in one turn
            token: ActivityToken | None = None
            if eager is not None and eager.takes(activity):
                token = ActivityToken(self._new_token())
                given.append(leased_at_once(activity, token, now_ms + eager.offer.lease_ms))
            rows.append(activity_row(activity, now_ms, token, eager))
        self.connection.executemany(SQL["add_activity"], rows)
        return tuple(given)

    def _cancel(self, turn: CommitTurn) -> None:
        key = (turn.instance_id, turn.execution_id)
        if turn.cancelled_activities:
            doomed = [(*key, number) for number in turn.cancelled_activities]
            self.connection.executemany(SQL["cancel_activity"], doomed)
        if turn.cancelled_timers:
            doomed = [(*key, number) for number in turn.cancelled_timers]
            self.connection.executemany(SQL["cancel_timer"], doomed)

    # Everything else.

    def _finish_activity(self, item: FinishActivity, now_ms: int) -> CommitResult:
        row = self._leased_activity(item.token, now_ms)
        if row is None:
            return LEASE_LOST
        self._run("drop_activity", (row[0],))
        self._touch_session(row[2], now_ms)
        if item.completion is not None:
            self._enqueue((item.completion,), now_ms)
        return APPLIED

    def _abandon_turn(self, item: AbandonTurn, now_ms: int) -> CommitResult:
        if not self._holds(item.instance_id, item.token, now_ms):
            return LEASE_LOST
        self._run(
            "abandon_messages",
            {
                "instance_id": item.instance_id,
                "token": item.token,
                "delay": item.delay_ms,
                "now": now_ms,
                "forgiven": int(not item.count_attempt),
            },
        )
        self._run("end_lease", (item.instance_id,))
        return APPLIED

    def _abandon_activity(self, item: AbandonActivity, now_ms: int) -> CommitResult:
        row = self._leased_activity(item.token, now_ms)
        if row is None:
            return LEASE_LOST
        self._run(
            "abandon_activity",
            {
                "number": row[0],
                "visible_at": now_ms + max(item.delay_ms, 0),
                "forgiven": int(not item.count_attempt),
            },
        )
        return APPLIED
