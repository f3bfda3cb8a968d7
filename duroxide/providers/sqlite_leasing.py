"""Giving out work under leases, and taking note of who still has it, in the SQLite store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from duroxide.ids import ActivityToken, InstanceId, TurnToken
from duroxide.providers.base import (
    Cursor,
    LeasedActivity,
    LeasedTurn,
    MessageKind,
    ReceivedMessage,
    SessionOwner,
    Suspension,
    TagMode,
    TagSelection,
)
from duroxide.providers.rules import Position, SessionClaims, is_run_by, known_events
from duroxide.providers.sqlite_rows import (
    SEPARATOR,
    SQL,
    engine_version_of,
    key_values_of,
    status_of,
    tag_condition,
)
from duroxide.providers.sqlite_tables import SqliteTables
from duroxide.state import ExecutionStatus
from duroxide.version import VersionRange


class SqliteLeasing(SqliteTables):
    """Polling, leases and suspension."""

    # Polling.

    def lease_turns(
        self,
        now_ms: int,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        known: Mapping[InstanceId, Cursor],
        held: Sequence[TurnToken],
        versions: Sequence[VersionRange] | None,
    ) -> list[LeasedTurn]:
        turns: list[LeasedTurn] = []
        for token in dict.fromkeys(held):
            if len(turns) == want:
                return turns
            lease = self._run("held_lease", {"token": token, "now": now_ms}).fetchone()
            if lease is not None:
                turns += self._deliver(lease[0], token, lease[1], now_ms, known)
        self._run("resume_cancelled", {"now": now_ms, "cancel": int(MessageKind.CANCEL)})
        for instance_id in self._candidates(now_ms, want - len(turns), versions):
            token, expires_at_ms = TurnToken(self._new_token()), now_ms + lease_ms
            self._run(
                "take_lease",
                {
                    "instance_id": instance_id,
                    "token": token,
                    "expires": expires_at_ms,
                    "worker": worker,
                },
            )
            turns += self._deliver(instance_id, token, expires_at_ms, now_ms, known)
        return turns

    def _candidates(
        self, now_ms: int, want: int, versions: Sequence[VersionRange] | None
    ) -> list[InstanceId]:
        """Free instances with something to do, the one that waits longest first."""
        found: dict[InstanceId, None] = {}
        if want <= 0:
            return []
        refused: set[InstanceId] = set()
        for instance_id, *engine in self._run("due_instances", {"now": now_ms}):
            if instance_id in found or instance_id in refused:
                continue
            if versions is not None and not is_run_by(engine_version_of(engine), versions):
                refused.add(instance_id)
                continue
            found[instance_id] = None
            if len(found) == want:
                break
        return list(found)

    def _deliver(
        self,
        instance_id: InstanceId,
        token: TurnToken,
        expires_at_ms: int,
        now_ms: int,
        known: Mapping[InstanceId, Cursor],
    ) -> list[LeasedTurn]:
        rows = self._run(
            "deliver", {"instance_id": instance_id, "token": token, "now": now_ms}
        ).fetchall()
        if not rows:
            return []
        rows.sort()
        messages = tuple(
            ReceivedMessage(message_id=message_id, kind=MessageKind(kind), body=body)
            for message_id, kind, body, _, _ in rows
        )
        attempt_count = max(row[3] for row in rows)
        waited_ms = max(now_ms - min(row[4] for row in rows), 0)
        current = self._run("current", (instance_id,)).fetchone()
        if current is None:
            return [
                LeasedTurn(
                    instance_id=instance_id,
                    token=token,
                    expires_at_ms=expires_at_ms,
                    execution_id=1,
                    next_event_id=1,
                    attempt_count=attempt_count,
                    messages=messages,
                    history=(),
                    incarnation=token,
                    waited_ms=waited_ms,
                )
            ]
        name, version, execution_id, parent, _, status, event_count, incarnation = current
        position = Position(execution_id, event_count, ExecutionStatus(status))
        after = known_events(position, incarnation, known.get(instance_id))
        return [
            LeasedTurn(
                instance_id=instance_id,
                token=token,
                expires_at_ms=expires_at_ms,
                execution_id=execution_id,
                next_event_id=event_count + 1,
                attempt_count=attempt_count,
                messages=messages,
                history=self.history(instance_id, execution_id, after),
                history_after=after,
                status=position.status,
                name=name,
                version=version,
                parent_instance_id=parent,
                key_values=key_values_of(self._run("key_values", (instance_id,))),
                incarnation=incarnation,
                waited_ms=waited_ms,
            )
        ]

    def history(self, instance_id: InstanceId, execution_id: int, after: int) -> tuple[str, ...]:
        events: list[str] = []
        for text, first in self._run("history", (instance_id, execution_id, after)):
            turn = text.split(SEPARATOR)
            events += turn[max(after + 1 - first, 0) :]
        return tuple(events)

    def lease_activities(
        self,
        now_ms: int,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        tags: TagSelection,
        sessions: SessionOwner | None,
    ) -> list[LeasedActivity]:
        if want <= 0 or tags.mode is TagMode.NONE:
            return []
        condition, parameters = tag_condition(tags)
        query = SQL["free_activities"].replace("{tags}", condition)
        claims = SessionClaims(sessions, now_ms)
        chosen: list[tuple[Any, ...]] = []
        for row in self.connection.execute(query, {**parameters, "now": now_ms}):
            if row[6] is None or claims.may_take(row[6], row[8], row[9]):
                chosen.append(row)
                if len(chosen) == want:
                    break
        if sessions is not None:
            claim = {
                "owner": sessions.owner,
                "expires": now_ms + sessions.lease_ms,
                "now": now_ms,
            }
            for session_id in claims.taken:
                self._run("claim_session", {**claim, "session_id": session_id})
        return [self._lease_activity(row, now_ms, lease_ms, worker) for row in chosen]

    def _lease_activity(
        self, row: tuple[Any, ...], now_ms: int, lease_ms: int, worker: str
    ) -> LeasedActivity:
        token, expires_at_ms = ActivityToken(self._new_token()), now_ms + lease_ms
        parameters = {
            "number": row[0],
            "token": token,
            "expires": expires_at_ms,
            "worker": worker,
        }
        self._run("lease_activity", parameters)
        return LeasedActivity(
            instance_id=row[1],
            execution_id=row[2],
            activity_id=row[3],
            token=token,
            expires_at_ms=expires_at_ms,
            attempt_count=row[7] + 1,
            body=row[4],
            tag=row[5],
            session_id=row[6],
            heartbeat=row[10],
            waited_ms=max(now_ms - row[11], 0),
        )

    # When a waiting poll should look again.

    def has_visible(self, instance_id: InstanceId, now_ms: int) -> bool:
        return self._run("has_visible", (instance_id, now_ms)).fetchone() is not None

    def next_message_ms(self, now_ms: int) -> int | None:
        """When the next message becomes visible."""
        due_ms: int | None = self._run("next_message", (now_ms,)).fetchone()[0]
        return due_ms

    def next_turn_ms(self, now_ms: int) -> int | None:
        """When, without anybody doing anything, the next turn may be there to be leased."""
        lease_ms = self._run("next_lease", (now_ms,)).fetchone()[0]
        times = [t for t in (self.next_message_ms(now_ms), lease_ms) if t is not None]
        return min(times, default=None)

    def next_activity_ms(self, now_ms: int) -> int | None:
        """When, without anybody doing anything, the next activity may be there to be leased."""
        time_ms: int | None = self._run("next_activity", {"now": now_ms}).fetchone()[0]
        return time_ms

    # Suspending.

    def suspend(self, instance_id: InstanceId, now_ms: int) -> Suspension:
        row = self._run("status", (instance_id,)).fetchone()
        if row is None:
            return Suspension.UNKNOWN
        state = status_of(row)
        if state.status.is_terminal:
            return Suspension.ENDED
        if state.suspended_at_ms is not None:
            return Suspension.UNCHANGED
        self._run("suspend", {"instance_id": instance_id, "now": now_ms})
        self._run("forgive_delivery", {"instance_id": instance_id})
        self._run("end_lease", (instance_id,))
        return Suspension.CHANGED

    def resume(self, instance_id: InstanceId) -> Suspension:
        row = self._run("status", (instance_id,)).fetchone()
        if row is None:
            return Suspension.UNKNOWN
        if status_of(row).suspended_at_ms is None:
            return Suspension.UNCHANGED
        self._run("resume", (instance_id,))
        return Suspension.CHANGED

    # Leases.

    def renew_turn(self, token: TurnToken, now_ms: int, lease_ms: int) -> bool:
        parameters = {"token": token, "now": now_ms, "expires": now_ms + lease_ms}
        return self._run("renew_lease", parameters).rowcount == 1

    def renew_activity(self, token: ActivityToken, now_ms: int, lease_ms: int) -> bool:
        parameters = {"token": token, "now": now_ms, "expires": now_ms + lease_ms}
        row = self._run("renew_activity", parameters).fetchone()
        if row is not None:
            self._touch_session(row[0], now_ms)
        return row is not None

    def heartbeat(self, token: ActivityToken, text: str, now_ms: int) -> None:
        self._run("heartbeat", {"token": token, "data": text, "now": now_ms})

    def renew_sessions(self, owner: str, now_ms: int, lease_ms: int, idle_ms: int) -> int:
        parameters = {"owner": owner, "now": now_ms, "lease": lease_ms, "idle": idle_ms}
        return self._run("renew_sessions", parameters).rowcount
