"""Rows of the store's answers as the contract's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from duroxide.ids import InstanceId
from duroxide.providers.base import (
    Cursor,
    InstanceStatus,
    LeasedActivity,
    LeasedTurn,
    MessageKind,
    ReceivedMessage,
)
from duroxide.state import ExecutionStatus, KeyValue
from duroxide_pg.tokens import activity_token, turn_token

_BETWEEN = ",\n"  # an event's own JSON has no raw newline


class UnreadableHistory(ValueError):
    """Stored history is not what a turn wrote."""


def join_events(events: Sequence[str]) -> str:
    """The text of a turn's row: a JSON array, one event a line."""
    return f"[{_BETWEEN.join(events)}]"


def split_events(text: str) -> list[str]:
    """The events of a turn's row, without parsing them.

    Raises:
        UnreadableHistory: the text was not made by `join_events`.
    """
    if not (text.startswith("[{") and text.endswith("}]")):
        raise UnreadableHistory(f"a row of history is not a JSON array: {text[:40]!r}")
    return text[1:-1].split(_BETWEEN)


@dataclass(frozen=True, slots=True)
class TurnRow:
    """A leased instance; `history` is None where the caller was expected to have it."""

    instance_id: InstanceId
    nonce: str
    expires_at_ms: int
    execution_id: int
    next_event_id: int
    attempt_count: int
    status: str
    name: str | None
    version: str | None
    parent_instance_id: InstanceId | None
    message_ids: Sequence[int]
    kinds: Sequence[int]
    bodies: Sequence[str]
    history: Sequence[str] | None  # a text per turn; None: nothing written yet, or omitted
    is_history_omitted: bool
    keys: Sequence[str] | None
    values: Sequence[str] | None
    value_times: Sequence[int] | None
    incarnation: str
    waited_ms: int

    def has(self, cursor: Cursor | None) -> bool:
        """Whether a caller with this cursor lacks no event."""
        return self.is_of(cursor) and cursor.last_event_id == self.next_event_id - 1

    def is_of(self, cursor: Cursor | None) -> TypeGuard[Cursor]:
        """Whether the cursor is one of this execution of this life of the instance."""
        return (
            cursor is not None
            and cursor.execution_id == self.execution_id
            and cursor.incarnation in ("", self.incarnation)
        )

    def to_turn(self, history: Sequence[str] | None, cursor: Cursor | None) -> LeasedTurn:
        """The turn, with the whole history as read (None: the caller has it) cut to what he lacks."""
        events, after, error = _missing(self, history or (), cursor)
        if history is None:
            events, after, error = (), self.next_event_id - 1, None
        return LeasedTurn(
            instance_id=self.instance_id,
            token=turn_token(self.nonce, self.instance_id),
            expires_at_ms=self.expires_at_ms,
            execution_id=self.execution_id,
            next_event_id=self.next_event_id,
            attempt_count=self.attempt_count,
            messages=tuple(
                ReceivedMessage(message_id=number, kind=MessageKind(kind), body=body)
                for number, kind, body in zip(
                    self.message_ids, self.kinds, self.bodies, strict=True
                )
            ),
            history=events,
            history_after=after,
            status=ExecutionStatus(self.status),
            name=self.name,
            version=self.version,
            parent_instance_id=self.parent_instance_id,
            key_values=key_values(self.keys, self.values, self.value_times),
            history_error=error,
            incarnation=self.incarnation,
            waited_ms=self.waited_ms,
        )


def _missing(
    row: TurnRow, history: Sequence[str], cursor: Cursor | None
) -> tuple[tuple[str, ...], int, str | None]:
    try:
        events = [event for text in history for event in split_events(text)]
    except UnreadableHistory as error:
        return (), 0, str(error)
    if len(events) != row.next_event_id - 1:
        return (), 0, f"history has {len(events)} events, not {row.next_event_id - 1}"
    after = 0
    if row.is_of(cursor):
        after = cursor.last_event_id if cursor.last_event_id < row.next_event_id else 0
    return tuple(events[after:]), after, None


def key_values(
    keys: Sequence[str] | None, values: Sequence[str] | None, times: Sequence[int] | None
) -> Mapping[str, KeyValue]:
    if keys is None or values is None or times is None:
        return {}
    return {
        key: KeyValue(value=value, updated_at_ms=time)
        for key, value, time in zip(keys, values, times, strict=True)
    }


def to_activity(row: Sequence[Any]) -> LeasedActivity:
    instance_id, number, execution_id, activity_id, nonce, expires, attempt = row[:7]
    body, tag, session, heartbeat, waited_ms = row[7:]
    return LeasedActivity(
        instance_id=instance_id,
        execution_id=execution_id,
        activity_id=activity_id,
        token=activity_token(nonce, number, instance_id),
        expires_at_ms=expires,
        attempt_count=attempt,
        body=body,
        tag=tag,
        session_id=session,
        heartbeat=heartbeat,
        waited_ms=waited_ms,
    )


def to_status(row: Sequence[Any]) -> InstanceStatus:
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
