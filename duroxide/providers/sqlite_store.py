"""The rules of the storage contract on a SQLite connection, without any waiting.

The same methods as `MemoryStore`, called inside a transaction. Each looks at everything first and only
then writes; if a statement fails all the same, the caller rolls back.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from duroxide.ids import ActivityToken, InstanceId, TurnToken
from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    Activity,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    Cursor,
    DeadLetter,
    Enqueue,
    FinishActivity,
    InstanceStatus,
    LeasedActivity,
    LeasedTurn,
    Message,
    MessageKind,
    ReceivedMessage,
    Reopening,
    SessionOwner,
    Suspension,
    TagMode,
    TagSelection,
)
from duroxide.providers.eager import EagerChoice
from duroxide.providers.rules import (
    APPLIED,
    HISTORY_CONFLICT,
    LEASE_LOST,
    REPEATED,
    UNDESCRIBED,
    Position,
    SessionClaims,
    fingerprint,
    history_fits,
    is_run_by,
    is_undescribed,
    known_events,
)
from duroxide.providers.text import unstorable
from duroxide.state import (
    ClearKeyValue,
    ClearKeyValues,
    ExecutionStatus,
    KeyValue,
    KeyValueChange,
    SetKeyValue,
)
from duroxide.version import SemVer, VersionRange

SEPARATOR = "\x1e"  # between the events of a turn; no JSON text contains it


def load_queries() -> Mapping[str, str]:
    """The named statements of sqlite_queries.sql."""
    text = resources.files("duroxide.providers").joinpath("sqlite_queries.sql").read_text()
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


SQL = load_queries()


class SqliteStore:
    """What each call does to the tables.

    Args:
        new_token: makes lease tokens; each call must give another one.
    """

    def __init__(self, connection: sqlite3.Connection, new_token: Callable[[], str]) -> None:
        self.connection = connection
        self._new_token = new_token

    def _run(self, name: str, parameters: Sequence[Any] | Mapping[str, Any]) -> sqlite3.Cursor:
        return self.connection.execute(SQL[name], parameters)

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
            if versions is not None and not is_run_by(_engine_version(engine), versions):
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
        condition, parameters = _tag_condition(tags)
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

    def _touch_session(self, session_id: str | None, now_ms: int) -> None:
        if session_id is not None:
            self._run("touch_session", {"session_id": session_id, "now": now_ms})

    # Committing.

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
        if not history_fits(_position(current), turn):
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
            self._run("end_lease", (turn.instance_id,))
        else:
            self._run("extend_lease", (now_ms + turn.keep_lease_ms, turn.instance_id))
        return CommitResult(code=CommitCode.APPLIED, activities=given) if given else APPLIED

    def _holds(self, instance_id: InstanceId, token: TurnToken, now_ms: int) -> bool:
        lease = self._run("lease_of", (instance_id,)).fetchone()
        return lease is not None and lease[0] == token and now_ms < int(lease[1])

    def _leased_activity(
        self, token: ActivityToken, now_ms: int
    ) -> tuple[int, InstanceId, str | None] | None:
        row: tuple[int, InstanceId, str | None] | None
        row = self._run("leased_activity", (token, now_ms)).fetchone()
        return row

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
                given.append(_given(activity, token, now_ms + eager.offer.lease_ms))
            rows.append(_activity_row(activity, now_ms, token, eager))
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

    def _enqueue(self, messages: Iterable[Message], now_ms: int) -> None:
        rows = [
            (
                message.instance_id,
                int(message.kind),
                message.body,
                now_ms if message.visible_at_ms is None else message.visible_at_ms,
                *(message.timer or (None, None)),
            )
            for message in messages
        ]
        if rows:
            self.connection.executemany(SQL["enqueue"], rows)

    # Dead letters.

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
        if _position(current) != expected:
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
        rows = [_activity_row(activity, now_ms, None, None) for activity in reopening.activities]
        self.connection.executemany(SQL["add_activity"], rows)
        return True

    def has_visible(self, instance_id: InstanceId, now_ms: int) -> bool:
        return self._run("has_visible", (instance_id, now_ms)).fetchone() is not None

    # When a waiting poll should look again.

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


def _engine_version(row: Sequence[int | None]) -> SemVer | None:
    major, minor, patch = row
    if major is None or minor is None or patch is None:
        return None
    return SemVer(major, minor, patch)


def _position(current: Sequence[Any] | None) -> Position | None:
    """Of a row of the statement `current`."""
    if current is None:
        return None
    return Position(current[2], current[6], ExecutionStatus(current[5]))


def _given(activity: Activity, token: ActivityToken, expires_at_ms: int) -> LeasedActivity:
    return LeasedActivity(
        instance_id=activity.instance_id,
        execution_id=activity.execution_id,
        activity_id=activity.activity_id,
        token=token,
        expires_at_ms=expires_at_ms,
        attempt_count=1,
        body=activity.body,
        tag=activity.tag,
    )


def _activity_row(
    activity: Activity, now_ms: int, token: ActivityToken | None, eager: EagerChoice | None
) -> tuple[Any, ...]:
    is_given = token is not None and eager is not None
    return (
        activity.instance_id,
        activity.execution_id,
        activity.activity_id,
        activity.body,
        activity.tag,
        activity.session_id,
        now_ms,
        int(is_given),
        token,
        now_ms + eager.offer.lease_ms if is_given and eager is not None else 0,
        eager.offer.worker if is_given and eager is not None else None,
    )


def _tag_condition(tags: TagSelection) -> tuple[str, dict[str, str]]:
    names = {f"tag{number}": tag for number, tag in enumerate(sorted(tags.tags))}
    among = f"a.tag in ({', '.join(':' + name for name in names)})"
    match tags.mode:
        case TagMode.DEFAULT_ONLY:
            return "a.tag is null", {}
        case TagMode.TAGS:
            return among, names
        case TagMode.DEFAULT_AND:
            return f"(a.tag is null or {among})", names
        case TagMode.EXCEPT:
            below = " or ".join(
                f"substr(a.tag, 1, length(:{name}) + 1) = :{name} || '/'" for name in names
            )
            return f"(a.tag is null or not ({among} or {below}))", names
        case TagMode.ANY | TagMode.NONE:
            return "true", {}


def key_values_of(rows: Iterable[tuple[str, str, int]]) -> dict[str, KeyValue]:
    return {key: KeyValue(value=value, updated_at_ms=at_ms) for key, value, at_ms in rows}


def status_of(row: Sequence[Any]) -> InstanceStatus:
    """A row of the statement `status`."""
    return InstanceStatus(
        instance_id=row[0],
        execution_id=row[1],
        name=row[2],
        version=row[3],
        status=ExecutionStatus(row[4]),
        output=row[5],
        custom_status=row[6],
        custom_status_version=row[7],
        created_at_ms=row[8],
        updated_at_ms=row[9],
        completed_at_ms=row[10],
        parent_instance_id=row[11],
        suspended_at_ms=row[12],
    )
