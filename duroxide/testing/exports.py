"""Exported instances: read them, and try the code of today on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from duroxide.codec import decode_events
from duroxide.errors import CodecError, RegistrationError
from duroxide.history import (
    Event,
    OrchestrationStarted,
)
from duroxide.ids import ExecutionId, InstanceId
from duroxide.management import EXPORT_FORMAT
from duroxide.registry import Registry
from duroxide.state import ExecutionStatus, KeyValue
from duroxide.testing.replay import assert_replays, store_key_values


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedInstance:
    instance_id: InstanceId
    facts: Mapping[str, Any]  # of the first line: name, version, status, key_values ...
    executions: Mapping[ExecutionId, tuple[Event, ...]]  # oldest first; pruned ones are missing


def read_export(lines: Iterable[str]) -> ExportedInstance:
    """What `AsyncClient.export` has written; an open file will do.

    Raises:
        CodecError: it is no export, or one of a newer version.
    """
    texts: dict[ExecutionId, list[str]] = {}
    facts: dict[str, Any] | None = None
    events: list[str] = []
    for line in filter(None, map(str.strip, lines)):
        match _read(line):
            case {"export": "instance", "format": number} as found if facts is None:
                if number != EXPORT_FORMAT:
                    raise CodecError(f"export format {number!r} is unknown: upgrade the package")
                facts = found
            case {"export": "execution", "execution_id": int(execution_id)} if facts is not None:
                events = texts.setdefault(execution_id, [])
            case {"event_id": _} if texts:
                events.append(line)
            case _:
                raise CodecError(f"not a line of an exported instance: {line[:100]}")
    if facts is None:
        raise CodecError("not an exported instance: it is empty")
    executions = {number: decode_events(found) for number, found in texts.items()}
    return ExportedInstance(instance_id=facts["instance_id"], facts=facts, executions=executions)


def _read(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise CodecError(f"not a line of an exported instance: {line[:100]}") from error


def assert_export_replays(
    exported: Iterable[str] | ExportedInstance, registry: Registry
) -> Mapping[ExecutionId, ExecutionStatus]:
    """Replay all executions of an instance, each with the version of the code that it has run on.

    What one execution has stored is there for the next; what pruned ones have stored is not known.

    Returns:
        How each execution stands at its end.

    Raises:
        NonDeterminismError: the code does something else.
        RegistrationError: the registry has no such orchestration.
        CodecError: the export can't be read.
    """
    instance = exported if isinstance(exported, ExportedInstance) else read_export(exported)
    values: dict[str, KeyValue] = {}
    statuses: dict[ExecutionId, ExecutionStatus] = {}
    for execution_id, events in instance.executions.items():
        if not events or not isinstance(events[0].kind, OrchestrationStarted):
            raise CodecError(f"execution {execution_id} does not begin with its start")
        name, version = events[0].kind.name, events[0].kind.version
        definition = registry.orchestration(name, version)
        if definition is None:
            raise RegistrationError(f"orchestration {name!r} version {version} is not registered")
        statuses[execution_id] = assert_replays(events, definition, key_values=dict(values))
        store_key_values(values, events)
    return statuses
