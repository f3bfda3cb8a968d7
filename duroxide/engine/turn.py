"""One turn of an orchestration as a pure function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

from duroxide import history, work
from duroxide.engine.outbox import Outbox
from duroxide.engine.program import Program
from duroxide.engine.result import (
    Ignored,
    IgnoreReason,
    NewExecutionInfo,
    StartInfo,
    TurnResult,
)
from duroxide.engine.run import NO_KEY_VALUES, TERMINAL_KINDS, Guard, Run
from duroxide.history import Event
from duroxide.state import KeyValue

__all__ = [
    "IgnoreReason",
    "Ignored",
    "NewExecutionInfo",
    "StartInfo",
    "TurnResult",
    "run_turn",
]

# Only its (missing) parent link is looked at: whoever waits was answered when the execution ended.
_NEVER = history.OrchestrationStarted(name="", version="", input="")


def run_turn(
    program: Program,
    events: Sequence[Event],
    inbound: Sequence[work.Inbound],
    *,
    now_ms: int,
    start: StartInfo | None = None,
    key_values: Mapping[str, KeyValue] = NO_KEY_VALUES,
    prepared: object = None,
    guard: Guard = nullcontext,
) -> TurnResult:
    """Replay `events`, apply `inbound` one by one, and return what this turn adds.

    Args:
        program: the code, in the version that the first event names.
        events: 1..n of one execution, in order; empty if `start` is given.
        inbound: messages not yet in history, in queue order; may be empty.
        now_ms: Unix epoch; the only clock of this turn, and `timestamp_ms` of all it adds.
        start: begins the execution; needed exactly if there is no history.
        key_values: the instance's values as they were when this execution began.
        prepared: what code sees as `ctx.prepared`.
        guard: entered around user code.

    Returns:
        Events n+1.. and the work items they imply. Equal arguments give equal results.

    Raises:
        NonDeterminismError: the code did not repeat what history says it did. Commit nothing.
        ValueError: neither history nor `start`, or both.

    Source: docs/reference/replay.md.
    """
    if bool(events) == (start is not None):
        raise ValueError("a turn needs either a history or what begins one")
    if events and isinstance(events[-1].kind, TERMINAL_KINDS):
        return _after_the_end(events[-1], inbound)
    if start is not None:
        run = Run.start(
            program, start, now_ms=now_ms, key_values=key_values, prepared=prepared, guard=guard
        )
    else:
        run = Run.replay(program, events, key_values=key_values, prepared=prepared, guard=guard)
    try:
        return run.apply(inbound, now_ms)
    finally:
        run.park()


def _after_the_end(last: Event, inbound: Sequence[work.Inbound]) -> TurnResult:
    outbox = Outbox(_NEVER, last.instance_id, last.execution_id)
    outbox.add(last, {})
    return TurnResult(
        events=(),
        status=outbox.status,
        output=outbox.output,
        ignored=tuple(Ignored(reason=IgnoreReason.EXECUTION_ENDED, item=item) for item in inbound),
    )
