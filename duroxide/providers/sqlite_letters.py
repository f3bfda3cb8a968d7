"""Dead letters, and the instances that go on once they are put back, in the SQLite store."""

from __future__ import annotations

import sqlite3

from duroxide.ids import InstanceId
from duroxide.providers.base import DeadLetter, MessageKind, Reopening
from duroxide.providers.rules import Position
from duroxide.providers.sqlite_rows import SQL, activity_row, position_of
from duroxide.providers.sqlite_tables import SqliteTables
from duroxide.state import ExecutionStatus


class SqliteLetters(SqliteTables):
    """What people do about what was given up."""

    def dead_letters(
        self, instance_id: InstanceId | None, after: int, limit: int
    ) -> list[DeadLetter]:
        parameters = {"instance_id": instance_id, "after": after, "limit": limit}
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
            for row in self._run("dead_letters", parameters)
        ]

    def requeue(self, instance_id: InstanceId, reopening: Reopening | None, now_ms: int) -> int:
        """How many letters were put back; -1: the instance can't be reopened like that."""
        if reopening is not None and not self._reopen(instance_id, reopening, now_ms):
            return -1
        self._run("requeue", {"instance_id": instance_id, "now": now_ms})
        count = self.discard_letters(instance_id)
        if reopening is not None:
            self._enqueue(reopening.messages, now_ms)
        return count

    def discard_letters(self, instance_id: InstanceId) -> int:
        return self._run("discard_letters", (instance_id,)).rowcount

    def _reopen(self, instance_id: InstanceId, reopening: Reopening, now_ms: int) -> bool:
        execution_id, keep = reopening.execution_id, reopening.keep_events
        current = self._run("current", (instance_id,)).fetchone()
        expected = Position(execution_id, reopening.event_count, ExecutionStatus.FAILED)
        if position_of(current) != expected:
            return False
        self._run("cut_history", (instance_id, execution_id, keep))
        kept, size = self._run("kept_history", (instance_id, execution_id)).fetchone()
        if kept != keep:
            raise sqlite3.IntegrityError(f"no turn ends with event {keep}")
        key = {"instance_id": instance_id, "execution_id": execution_id}
        if keep:
            self._run("reopen_execution", {**key, "count": kept, "bytes": size})
        else:
            self._run("drop_execution", (instance_id, execution_id))
        self._run("end_lease", (instance_id,))
        self._run("reopen_instance", {"instance_id": instance_id, "now": now_ms})
        self._run("drop_unbegun", (instance_id,))
        rows = [activity_row(activity, now_ms, None, None) for activity in reopening.activities]
        self.connection.executemany(SQL["add_activity"], rows)
        return True
