"""The end of an execution whose messages were delivered too often without ever being finished."""

from __future__ import annotations

import json
from collections.abc import Sequence

from duroxide.codec import decode_event, decode_events
from duroxide.engine.ending import fail_execution, fail_unreadable
from duroxide.engine.turn import TurnResult
from duroxide.errors import CodecError
from duroxide.failures import (
    Failure,
    PoisonedHistory,
    PoisonedOrchestration,
    PoisonFailure,
    PoisonSubject,
)
from duroxide.history import Event, OrchestrationStarted
from duroxide.ids import ExecutionId
from duroxide.limits import Limits
from duroxide.providers.base import LeasedTurn
from duroxide.runtime.inbox import Inbox
from duroxide.runtime.turns import start_info
from duroxide.state import ExecutionStatus

UNRESOLVED_VERSION = "0.0.0"  # nobody found code for it


def poisoned(
    leased: LeasedTurn,
    inbox: Inbox | None,
    *,
    max_attempts: int,
    now_ms: int,
    limits: Limits,
    failure: Failure | None = None,
) -> tuple[ExecutionId, TurnResult] | None:
    """How the instance fails: its parent is answered, all that is open is cancelled.

    Args:
        leased: with its whole history.
        inbox: None if a message can't be read.
        failure: why; default: it was delivered too often.

    Returns:
        The execution that fails and what its last turn adds; None if there is nothing that could fail,
        so that the messages can only be dropped.
    """
    begins = leased.name is None or leased.status is ExecutionStatus.CONTINUED_AS_NEW
    if begins:
        if inbox is None or inbox.beginning is None:
            return None
        beginning = inbox.beginning
        execution_id = leased.execution_id + (leased.name is not None)
        start = start_info(
            beginning,
            name=beginning.orchestration,
            version=beginning.version or UNRESOLVED_VERSION,
            execution_id=execution_id,
            seed="",
            limits=limits,
        )
        failure = failure or _failure(leased, _whole(leased, execution_id), max_attempts)
        return execution_id, fail_execution([], failure, now_ms=now_ms, start=start)
    events, problem = _read(leased)
    if problem is not None:
        subject = PoisonedHistory(
            instance_id=leased.instance_id, execution_id=leased.execution_id, error=problem
        )
        result = fail_unreadable(
            _failure(leased, subject, max_attempts),
            instance_id=leased.instance_id,
            execution_id=leased.execution_id,
            next_event_id=leased.next_event_id,
            now_ms=now_ms,
            first=_first(leased.history),
        )
        return leased.execution_id, result
    failure = failure or _failure(leased, _whole(leased, leased.execution_id), max_attempts)
    return leased.execution_id, fail_execution(events, failure, now_ms=now_ms)


def _whole(leased: LeasedTurn, execution_id: ExecutionId) -> PoisonedOrchestration:
    return PoisonedOrchestration(instance_id=leased.instance_id, execution_id=execution_id)


def _failure(leased: LeasedTurn, subject: PoisonSubject, max_attempts: int) -> Failure:
    bodies = [message.body for message in leased.messages]
    return Failure(
        kind=PoisonFailure(
            attempt_count=leased.attempt_count,
            max_attempts=max_attempts,
            subject=subject,
            message=json.dumps(bodies, ensure_ascii=False),
        )
    )


def _read(leased: LeasedTurn) -> tuple[Sequence[Event], str | None]:
    """The history, or why it can't be read."""
    if leased.history_error is not None:
        return (), leased.history_error
    try:
        events = decode_events(leased.history)
    except CodecError as error:
        return (), str(error)
    if not events or not isinstance(events[0].kind, OrchestrationStarted):
        return (), "the first event is not OrchestrationStarted"
    return events, None


def _first(history: Sequence[str]) -> Event | None:
    try:
        event = decode_event(history[0]) if history else None
    except CodecError:
        return None
    return event if event and isinstance(event.kind, OrchestrationStarted) else None
