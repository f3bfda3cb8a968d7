"""The rules of the contract that need no storage: what follows from what a store has found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from duroxide.ids import EventId, ExecutionId
from duroxide.providers.base import CommitCode, CommitResult, CommitTurn, Cursor, SessionOwner
from duroxide.state import ExecutionStatus
from duroxide.version import SemVer, VersionRange

APPLIED = CommitResult(code=CommitCode.APPLIED)
LEASE_LOST = CommitResult(code=CommitCode.LEASE_LOST)
HISTORY_CONFLICT = CommitResult(code=CommitCode.HISTORY_CONFLICT)
REPEATED = CommitResult(code=CommitCode.REPEATED)
UNDESCRIBED = CommitResult(
    code=CommitCode.REFUSED, error="the first turn of an execution must describe it"
)


class Position(NamedTuple):
    """How far an instance has come: its current execution."""

    execution_id: ExecutionId
    event_count: int
    status: ExecutionStatus


def is_run_by(engine_version: SemVer | None, versions: Sequence[VersionRange]) -> bool:
    """Whether a worker of these engine versions may have an instance; None: it has none yet."""
    if engine_version is None:
        return bool(versions)
    return any(engine_version in version_range for version_range in versions)


def known_events(position: Position, incarnation: str, cursor: Cursor | None) -> EventId:
    """How many events the caller has for sure: all or nothing, because a cursor may be stale."""
    if cursor is None or cursor.execution_id != position.execution_id:
        return 0
    if cursor.incarnation not in ("", incarnation):
        return 0
    return cursor.last_event_id if cursor.last_event_id <= position.event_count else 0


def history_fits(position: Position | None, turn: CommitTurn) -> bool:
    """Whether the turn's events are those that come next; None: the instance does not exist yet."""
    if position is None:
        return turn.execution_id == 1 and turn.first_event_id == 1
    if turn.execution_id == position.execution_id + 1:
        return turn.first_event_id == 1 and turn.new_execution is not None
    if turn.execution_id != position.execution_id:
        return False
    if turn.events and position.status is not ExecutionStatus.RUNNING:
        return False  # nothing follows the terminal event
    return turn.first_event_id == position.event_count + 1


def is_undescribed(turn: CommitTurn) -> bool:
    """It begins an execution without saying which orchestration that is of."""
    return turn.first_event_id == 1 and bool(turn.events) and turn.new_execution is None


def fingerprint(turn: CommitTurn) -> str:
    """What makes a turn that is sent again recognisable. Of what it consumes, the last will do."""
    parts = (
        turn.token,
        turn.execution_id,
        turn.first_event_id,
        len(turn.events),
        turn.consumed[-1:],
        turn.finished[-1:],
    )
    return "|".join(map(str, parts))


def changes_what_clients_see(turn: CommitTurn) -> bool:
    """The instance began, ended, or told something about itself."""
    return bool(
        turn.new_execution is not None
        or turn.status is not ExecutionStatus.RUNNING
        or turn.custom_status is not None
        or turn.key_values
    )


class SessionClaims:
    """Which sessions one poll may take activities of."""

    def __init__(self, sessions: SessionOwner | None, now_ms: int) -> None:
        self._sessions = sessions
        self._now_ms = now_ms
        self._left = sessions.max_new if sessions is not None else 0
        self.taken: set[str] = set()

    def may_take(self, session_id: str, owner: str | None, expires_at_ms: int | None) -> bool:
        """Whether the poll may have an activity of a session that is held like that; if so, it is taken."""
        if self._sessions is None:
            return False
        if session_id in self.taken:
            return True
        is_live = expires_at_ms is not None and self._now_ms < expires_at_ms
        if is_live and owner != self._sessions.owner:
            return False
        if not is_live:
            if self._left == 0:
                return False
            self._left -= 1
        self.taken.add(session_id)
        return True
