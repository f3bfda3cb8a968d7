"""Whether the code did again what its history says it did, and what to tell people if not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from duroxide import history
from duroxide.failures import ApplicationFailure, Failure
from duroxide.history import CommandKind, Event, EventKind, Terminal

_EXCERPT = 160  # characters of a payload that a report shows
_PAYLOADS = frozenset({"data", "details", "input", "output", "reason", "result", "status", "value"})


def same_payload(one: str, other: str) -> bool:
    """Equal as JSON (key order and white space do not matter), or equal as text."""
    if one == other:
        return True
    try:
        return _canonical(one) == _canonical(other)
    except (ValueError, RecursionError):
        return False


def _canonical(text: str) -> str:
    # Compared as text, because in Python 1 == True == 1.0, and in a payload they differ.
    return json.dumps(json.loads(text), sort_keys=True)


def _same_failure(one: Failure, other: Failure) -> bool:
    if isinstance(one.kind, ApplicationFailure) and isinstance(other.kind, ApplicationFailure):
        # A traceback names lines, and those move when somebody edits a comment.
        first, second = (str(f).partition("\n")[0] for f in (one, other))
        return one.kind.kind == other.kind.kind and first == second
    return str(one) == str(other)


def _same_optional(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    return same_payload(one, other)


_SAME: Mapping[type[Any], Callable[[Any, Any], bool]] = {
    history.ActivityScheduled: lambda did, was: (
        (did.name, did.session_id, did.tag) == (was.name, was.session_id, was.tag)
        and same_payload(did.input, was.input)
    ),
    # The recorded time is when it fires; what the code asked for is the delay.
    history.TimerCreated: lambda did, was: was.delay_ms is None or did.delay_ms == was.delay_ms,
    history.SubOrchestrationScheduled: lambda did, was: (
        (did.name, did.instance, did.version) == (was.name, was.instance, was.version)
        and same_payload(did.input, was.input)
    ),
    history.OrchestrationChained: lambda did, was: (
        (did.name, did.instance, did.version) == (was.name, was.instance, was.version)
        and same_payload(did.input, was.input)
    ),
    history.CustomStatusUpdated: lambda did, was: _same_optional(did.status, was.status),
    history.KeyValueSet: lambda did, was: did.key == was.key and same_payload(did.value, was.value),
    history.OrchestrationCompleted: lambda did, was: same_payload(did.output, was.output),
    history.OrchestrationContinuedAsNew: lambda did, was: same_payload(did.input, was.input),
    history.OrchestrationFailed: lambda did, was: _same_failure(did.details, was.details),
}


def is_same(did: CommandKind | Terminal, was: EventKind) -> bool:
    """Whether a command is the one that history has at this place."""
    if did == was:
        return True
    if type(did) is not type(was):
        return False
    compare = _SAME.get(type(did))
    return compare is not None and compare(did, was)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where code and history part: exactly one of the two sides may be missing."""

    execution_id: int
    after: Event  # the inbound event whose consequences differ
    recorded: Event | None
    did: CommandKind | Terminal | None
    did_id: int


class Mismatch(Exception):
    """Leaves the replay; becomes a NonDeterminismError once the line is known."""

    def __init__(self, difference: Difference) -> None:
        super().__init__()
        self.difference = difference


def report(difference: Difference, line: str | None, *, with_payloads: bool = True) -> str:
    """Both sides, one line each, for people."""
    after = difference.after
    source = getattr(after.kind, "source_event_id", None)
    where = f"after event {after.event_id} ({type(after.kind).__name__}"
    where += f" of #{source})" if source is not None else ")"
    recorded = difference.recorded
    show = describe if with_payloads else outline
    was = did = "nothing more"
    if recorded is not None:
        was = f"#{recorded.event_id}  {show(recorded.kind, difference.did)}"
    if difference.did is not None:
        did = show(difference.did, None if recorded is None else recorded.kind)
    suffix = f"      at {line}" if line else ""
    return (
        f"execution {difference.execution_id}, {where}:\n"
        f"  recorded  {was}\n"
        f"  code did  {did}{suffix}"
    )


def describe(kind: EventKind, _: EventKind | None = None) -> str:
    """The kind and its fields that are set, payloads shortened."""
    parts = [type(kind).__name__]
    for name, value in _set_fields(kind):
        text = str(value) if name in ("input", "output", "details") else repr(value)
        if len(text) > _EXCERPT:
            text = f"{text[:_EXCERPT]}… ({len(text)} characters)"
        parts.append(f"{name}={text}")
    return "  ".join(parts)


def outline(kind: EventKind, other: EventKind | None = None) -> str:
    """The same for logs: of payloads just their length, and whether they differ from the other side's."""
    parts = [type(kind).__name__]
    for name, value in _set_fields(kind):
        text = repr(value)
        if name in _PAYLOADS:
            differs = type(other) is type(kind) and getattr(other, name) != value
            text = f"({len(str(value))} characters{', differs' if differs else ''})"
        parts.append(f"{name}={text}")
    return "  ".join(parts)


def _set_fields(kind: EventKind) -> Iterator[tuple[str, object]]:
    for f in fields(kind):
        value = getattr(kind, f.name)
        if value is not None and f.name not in ("fire_at_ms", "last_updated_at_ms"):
            yield f.name, value
