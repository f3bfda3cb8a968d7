"""Would the code of today still do what a history says? For histories recorded in production."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from duroxide.codec import decode_events
from duroxide.engine.run import Guard, Run
from duroxide.history import Event, KeyValueCleared, KeyValuesCleared, KeyValueSet
from duroxide.registry import OrchestrationDef
from duroxide.state import ExecutionStatus, KeyValue


def assert_replays(
    history: Sequence[Event] | Sequence[str],
    definition: OrchestrationDef[..., Any],
    *,
    key_values: Mapping[str, KeyValue] | None = None,
    prepared: object = None,
    guard: Guard = nullcontext,
) -> ExecutionStatus:
    """Replay one execution, and say how it stands at the end.

    Args:
        history: all its events, decoded or as stored (`Provider.read_history` gives the latter).
        definition: the code to try.
        key_values: the instance's values as they were when this execution began.

    Raises:
        NonDeterminismError: the code does something else; the message shows both sides and the line.
        CodecError: a stored event can't be read.
    """
    events = read_history(history)
    run = Run.replay(
        definition, events, key_values=key_values or {}, prepared=prepared, guard=guard
    )
    run.park()
    return run.status


def read_history(history: Sequence[Event] | Sequence[str]) -> tuple[Event, ...]:
    """Events, whether decoded already or not."""
    texts = [item for item in history if isinstance(item, str)]
    if texts:
        return decode_events(texts)
    return tuple(item for item in history if isinstance(item, Event))


def store_key_values(values: dict[str, KeyValue], events: Iterable[Event]) -> None:
    """Do to the values what these events say was done; the next execution begins with the result."""
    for event in events:
        match event.kind:
            case KeyValueSet(key=key, value=value, last_updated_at_ms=at_ms):
                values[key] = KeyValue(value=value, updated_at_ms=at_ms)
            case KeyValueCleared(key=key):
                values.pop(key, None)
            case KeyValuesCleared():
                values.clear()
            case _:
                pass
