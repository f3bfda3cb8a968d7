"""Checks that an execution in memory and one replayed from history do the same (`cache="verify"`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from duroxide import work
from duroxide.engine.matching import outline
from duroxide.engine.turn import TurnResult, run_turn
from duroxide.errors import NonDeterminismError
from duroxide.runtime.cache import Live


def verify(
    live: Live,
    inbound: Sequence[work.Inbound],
    result: TurnResult,
    *,
    now_ms: int,
    guard: Callable[[], AbstractContextManager[object]],
) -> None:
    """Run the turn once more from history and compare.

    Raises:
        NonDeterminismError: the code depends on something outside its history.
    """
    cold = run_turn(
        live.definition,
        live.events,
        inbound,
        now_ms=now_ms,
        key_values=live.key_values,
        prepared=live.prepared,
        guard=guard,
    )
    if cold == result:
        return
    for cached_event, cold_event in zip(result.events, cold.events, strict=False):
        if cached_event != cold_event:
            raise NonDeterminismError(
                f"in memory the turn added {cached_event.kind!r}, replayed it added "
                f"{cold_event.kind!r}",
                cached_event.event_id,
                f"in memory the turn added {outline(cached_event.kind, cold_event.kind)}, "
                f"replayed it added {outline(cold_event.kind, cached_event.kind)}",
            )
    raise NonDeterminismError(
        f"in memory the turn gave {result.status.value} with {len(result.events)} events, replayed "
        f"it gave {cold.status.value} with {len(cold.events)}"
    )
