"""What an execution's history begins with, what its end may be, and when it is damaged."""

from __future__ import annotations

from collections.abc import Sequence

from duroxide import history
from duroxide.engine.breadcrumbs import TERMINAL
from duroxide.engine.result import DEFAULT_LIMITS, StartInfo
from duroxide.errors import NonDeterminismError
from duroxide.history import Event, OrchestrationStarted
from duroxide.limits import Limits
from duroxide.version import ENGINE_MARK


def started_event(info: StartInfo, now_ms: int) -> Event:
    """The first event of an execution."""
    return Event(
        event_id=1,
        instance_id=info.instance_id,
        execution_id=info.execution_id,
        timestamp_ms=now_ms,
        kind=OrchestrationStarted(
            name=info.name,
            version=info.version,
            input=info.input,
            parent_instance=info.parent_instance,
            parent_id=info.parent_id,
            parent_execution_id=info.parent_execution_id,
            initial_custom_status=info.initial_custom_status,
            engine=ENGINE_MARK,
            seed=info.seed,
            limits=_unusual(info.limits),
        ),
    )


def _unusual(limits: Limits) -> dict[str, int] | None:
    """The limits that differ from the defaults, which the engine mark stands for."""
    if limits == DEFAULT_LIMITS:  # nearly always, and much cheaper than two dictionaries
        return None
    usual = DEFAULT_LIMITS.to_mapping()
    return {k: v for k, v in limits.to_mapping().items() if v != usual[k]} or None


def first_of(events: Sequence[Event]) -> Event:
    """The first event.

    Raises:
        NonDeterminismError: there is none, or it is of another kind.
    """
    if not events:
        raise NonDeterminismError("corrupted history: empty")
    if not isinstance(events[0].kind, OrchestrationStarted):
        raise NonDeterminismError(
            "corrupted history: first event must be OrchestrationStarted", events[0].event_id
        )
    return events[0]


def without_forced_end(events: Sequence[Event]) -> Sequence[Event]:
    """History without an end that the code had no part in: poison, lost storage, other code."""
    last = events[-1].kind
    if not isinstance(last, history.OrchestrationFailed) or not last.details.is_system:
        return events
    end = len(events) - 1
    while str(getattr(events[end - 1].kind, "reason", "")).startswith(TERMINAL):
        end -= 1
    return events[:end]


def damaged(what: str, event: Event) -> NonDeterminismError:
    """What to raise for an event that no run of any code can have written there."""
    return NonDeterminismError(
        f"corrupted history of execution {event.execution_id}: event {event.event_id} "
        f"({type(event.kind).__name__}): {what}",
        event.event_id,
    )
