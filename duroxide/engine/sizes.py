"""How much an event counts against the limits: a pure function of it, so that a refusal replays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from duroxide import history
from duroxide.history import EventKind

EVENT_OVERHEAD_BYTES = 200
"""Counted for the envelope and the field names of each event."""


def utf8_bytes(text: str) -> int:
    """The size of a text; the common case costs no encoding."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _failure(kind: Any) -> int:
    return utf8_bytes(str(kind.details))


_VARIABLE: Mapping[type[Any], Callable[[Any], int]] = {
    history.OrchestrationStarted: lambda k: utf8_bytes(k.input),
    history.OrchestrationCompleted: lambda k: utf8_bytes(k.output),
    history.OrchestrationContinuedAsNew: lambda k: utf8_bytes(k.input),
    history.OrchestrationFailed: _failure,
    history.ActivityScheduled: lambda k: utf8_bytes(k.name) + utf8_bytes(k.input),
    history.SubOrchestrationScheduled: lambda k: utf8_bytes(k.name) + utf8_bytes(k.input),
    history.OrchestrationChained: lambda k: utf8_bytes(k.name) + utf8_bytes(k.input),
    history.ActivityCompleted: lambda k: utf8_bytes(k.result),
    history.SubOrchestrationCompleted: lambda k: utf8_bytes(k.result),
    history.ActivityFailed: _failure,
    history.SubOrchestrationFailed: _failure,
    history.ExternalEvent: lambda k: utf8_bytes(k.name) + utf8_bytes(k.data),
    history.QueueEventDelivered: lambda k: utf8_bytes(k.name) + utf8_bytes(k.data),
    history.CustomStatusUpdated: lambda k: utf8_bytes(k.status or ""),
    history.KeyValueSet: lambda k: utf8_bytes(k.key) + utf8_bytes(k.value),
}


def event_bytes(kind: EventKind) -> int:
    """What an event of this kind counts."""
    variable = _VARIABLE.get(type(kind))
    return EVENT_OVERHEAD_BYTES if variable is None else EVENT_OVERHEAD_BYTES + variable(kind)
