"""Histories and work items as JSON text, and back.

An event is one flat object told apart by `type`; a work item is `{"Tag": {...}}`. A kind that is not
known is refused, because a history with a hole would replay into something else; a field that is not
known is kept, because a newer writer may need it. Formats: docs/reference/history.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, cast

from duroxide import history, work
from duroxide.errors import CodecError
from duroxide.failures import (
    ApplicationFailure,
    ApplicationKind,
    ConfigurationFailure,
    Failure,
    FailureKind,
    InfrastructureFailure,
    PoisonedActivity,
    PoisonedHistory,
    PoisonedOrchestration,
    PoisonFailure,
    PoisonSubject,
)
from duroxide.history import Event, EventKind
from duroxide.jsontext import dump_json, load_json

JsonObject = dict[str, Any]
Convert = Callable[[Any], Any]

_NOTHING: Mapping[str, object] = {}


# Failures.


def failure_to_json(failure: Failure) -> JsonObject:
    """The externally tagged form: `{"Application": {...}}`."""
    tag, body = _failure_body(failure.kind)
    return {tag: {**body, **failure.extra}}


def _failure_body(kind: FailureKind) -> tuple[str, JsonObject]:
    match kind:
        case ApplicationFailure():
            return "Application", _application_body(kind)
        case InfrastructureFailure(operation=operation, message=message, retryable=retryable):
            return "Infrastructure", {
                "operation": operation,
                "message": message,
                "retryable": retryable,
            }
        case ConfigurationFailure(resource=resource, message=text):
            return "Configuration", {
                "kind": "Nondeterminism",
                "resource": resource,
                "message": text,
            }
        case PoisonFailure():
            return "Poison", {
                "attempt_count": kind.attempt_count,
                "max_attempts": kind.max_attempts,
                "message_type": _subject_to_json(kind.subject),
                "message": kind.message,
            }


def _application_body(failure: ApplicationFailure) -> JsonObject:
    kind: object = failure.kind.value
    if failure.kind is ApplicationKind.CANCELLED:
        kind = {"Cancelled": {"reason": failure.reason or ""}}
    body: JsonObject = {"kind": kind, "message": failure.message, "retryable": failure.retryable}
    for name in ("error_type", "traceback", "data"):
        value = getattr(failure, name)
        if value is not None:
            body[name] = value
    return body


def _subject_to_json(subject: PoisonSubject) -> JsonObject:
    body: JsonObject = {"instance": subject.instance_id, "execution_id": subject.execution_id}
    match subject:
        case PoisonedOrchestration():
            return {"Orchestration": body}
        case PoisonedActivity(activity_name=name, activity_id=number):
            return {"Activity": {**body, "activity_name": name, "activity_id": number}}
        case PoisonedHistory(error=error):
            return {"FailedDeserialization": {**body, "error": error}}


def failure_from_json(value: Any) -> Failure:
    """Read the externally tagged form.

    Raises:
        CodecError: it is not a failure that this version knows.
    """
    tag, source = _tagged(value, "failure")
    body = dict(source)
    match tag:
        case "Application":
            kind: FailureKind = _application_from(body)
        case "Infrastructure":
            kind = InfrastructureFailure(
                operation=body.pop("operation"),
                message=body.pop("message"),
                retryable=body.pop("retryable", False),
            )
        case "Configuration":
            body.pop("kind", None)
            kind = ConfigurationFailure(
                resource=body.pop("resource", ""), message=body.pop("message", None)
            )
        case "Poison":
            kind = PoisonFailure(
                attempt_count=body.pop("attempt_count"),
                max_attempts=body.pop("max_attempts"),
                subject=_subject_from(body.pop("message_type")),
                message=body.pop("message", ""),
            )
        case _:
            raise CodecError(f"unknown failure category {tag!r}")
    return Failure(kind=kind, extra=body)


def _application_from(body: JsonObject) -> ApplicationFailure:
    kind, reason = body.pop("kind"), None
    if isinstance(kind, dict):
        kind, cancelled = _tagged(kind, "failure kind")
        reason = cancelled.get("reason", "")
    try:
        known = ApplicationKind(kind)
    except ValueError:
        raise CodecError(f"unknown application failure kind {kind!r}") from None
    return ApplicationFailure(
        kind=known,
        message=body.pop("message", ""),
        retryable=body.pop("retryable", False),
        reason=reason,
        error_type=body.pop("error_type", None),
        traceback=body.pop("traceback", None),
        data=body.pop("data", None),
    )


def _subject_from(value: Any) -> PoisonSubject:
    tag, body = _tagged(value, "poison subject")
    where = {"instance_id": body["instance"], "execution_id": body["execution_id"]}
    match tag:
        case "Orchestration":
            return PoisonedOrchestration(**where)
        case "Activity":
            return PoisonedActivity(
                **where, activity_name=body["activity_name"], activity_id=body["activity_id"]
            )
        case "FailedDeserialization":
            return PoisonedHistory(**where, error=body["error"])
        case _:
            raise CodecError(f"unknown poison subject {tag!r}")


def _tagged(value: Any, what: str) -> tuple[str, JsonObject]:
    if not isinstance(value, dict) or len(value) != 1:
        raise CodecError(f'{what} is not of the form {{"Tag": {{...}}}}')
    ((tag, body),) = value.items()
    if not isinstance(body, dict):
        raise CodecError(f"{what} {tag!r} has no body")
    return tag, body


# One table for events and work items: how each field is written, and when it is left out.


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    default: Any  # MISSING: required
    omitted: bool  # left out when it has its default
    to_json: Convert | None = None
    from_json: Convert | None = None


@dataclass(frozen=True, slots=True)
class _Shape:
    tag: str
    cls: type[Any]
    fields: tuple[_Field, ...]


def _pairs_from(value: Any) -> tuple[tuple[str, str], ...] | None:
    return None if value is None else tuple((name, data) for name, data in value)


_CONVERSIONS: Mapping[str, tuple[Convert | None, Convert | None]] = {
    "details": (failure_to_json, failure_from_json),
    "carry_forward_events": (None, _pairs_from),
}

# Optional fields that the format writes as null; all others are left out.
_WRITTEN_AS_NULL = frozenset({"parent_instance", "parent_id", "status", "message"})
_ALWAYS_WRITTEN = frozenset({"last_updated_at_ms", "execution_id"})


def _shape(tag: str, cls: type[Any], *, nulls: frozenset[str] = frozenset()) -> _Shape:
    found = []
    for f in fields(cls):
        default = f.default
        required = default is MISSING
        written = f.name in nulls or f.name in _ALWAYS_WRITTEN
        to_json, from_json = _CONVERSIONS.get(f.name, (None, None))
        found.append(_Field(f.name, default, not required and not written, to_json, from_json))
    return _Shape(tag, cls, tuple(found))


_EVENT_TAGS: Mapping[type[Any], str] = {
    history.QueueSubscribed: "ExternalSubscribedPersistent",
    history.QueueEventDelivered: "ExternalEventPersistent",
    history.QueueSubscriptionCancelled: "ExternalSubscribedPersistentCancelled",
}
_WORK_TAGS: Mapping[type[Any], str] = {
    work.ActivityCompletion: "ActivityCompleted",
    work.ActivityFailure: "ActivityFailed",
    work.TimerDue: "TimerFired",
    work.ChildCompleted: "SubOrchCompleted",
    work.ChildFailed: "SubOrchFailed",
}


def _members(alias: Any) -> tuple[type[Any], ...]:
    return cast("tuple[type[Any], ...]", alias.__args__)


_EVENTS = [
    _shape(_EVENT_TAGS.get(cls, cls.__name__), cls, nulls=_WRITTEN_AS_NULL)
    for cls in _members(EventKind)
]
_WORK = [
    _shape(
        _WORK_TAGS.get(cls, cls.__name__),
        cls,
        # The original writes a start item's nulls and leaves out those of a continuation.
        nulls=frozenset({"version", "parent_instance", "parent_id"})
        if cls is work.StartOrchestration
        else frozenset({"version", "carry_forward_events"})
        if cls is work.ContinueAsNew
        else frozenset(),
    )
    for cls in _members(work.WorkItem)
]
_EVENT_BY_CLASS = {shape.cls: shape for shape in _EVENTS}
_EVENT_BY_TAG = {shape.tag: shape for shape in _EVENTS}
_WORK_BY_CLASS = {shape.cls: shape for shape in _WORK}
_WORK_BY_TAG = {shape.tag: shape for shape in _WORK}


def event_tag(kind: EventKind) -> str:
    """The `type` under which an event of this kind is stored."""
    return _EVENT_BY_CLASS[type(kind)].tag


def _write(shape: _Shape, value: object, into: JsonObject) -> None:
    for f in shape.fields:
        item = getattr(value, f.name)
        if f.omitted and item == f.default:
            continue
        into[f.name] = item if f.to_json is None else f.to_json(item)


def _read(shape: _Shape, source: JsonObject) -> Any:
    """Build the value and take its fields out of `source`; what is left is unknown."""
    values = {}
    for f in shape.fields:
        name = f.name
        if name in source:
            item = source.pop(name)
            values[name] = item if f.from_json is None else f.from_json(item)
        elif f.default is MISSING:
            raise CodecError(f"{shape.tag} has no field {name!r}")
    return shape.cls(**values)


# Events.


def encode_event(event: Event) -> str:
    """One compact JSON object without a line break."""
    shape = _EVENT_BY_CLASS[type(event.kind)]
    body: JsonObject = {
        "event_id": event.event_id,
        "source_event_id": None,
        "instance_id": event.instance_id,
        "execution_id": event.execution_id,
        "timestamp_ms": event.timestamp_ms,
        "duroxide_version": event.duroxide_version,
        "type": shape.tag,
    }
    _write(shape, event.kind, body)
    body.update(event.extra)
    return dump_json(body)


def decode_event(text: str) -> Event:
    """Read one event.

    Raises:
        CodecError: not JSON, a kind that this version does not know, or a field is missing.
    """
    return decode_events((text,))[0]


def decode_events(texts: Sequence[str]) -> tuple[Event, ...]:
    """Read a history, in order; the whole of it is parsed at once.

    Raises:
        CodecError: as `decode_event`; nothing is ever left out.
    """
    try:
        objects = load_json("[" + ",".join(texts) + "]")
    except ValueError as error:
        raise CodecError(f"history is not JSON: {error}") from error
    if len(objects) != len(texts):
        raise CodecError("an event's text is not one JSON object")
    return tuple([_event(value) for value in objects])


def _event(source: Any) -> Event:
    try:
        tag = source.pop("type")
        shape = _EVENT_BY_TAG.get(tag)
        if shape is None:
            raise CodecError(
                f"unknown event type {tag!r}: this history was written by a newer or another version"
            )
        kind = _read(shape, source)
        if "source_event_id" in source:
            del source["source_event_id"]
        return Event(
            event_id=source.pop("event_id"),
            instance_id=source.pop("instance_id"),
            execution_id=source.pop("execution_id"),
            timestamp_ms=source.pop("timestamp_ms"),
            duroxide_version=source.pop("duroxide_version"),
            kind=kind,
            extra=source or _NOTHING,
        )
    except KeyError as error:
        raise CodecError(f"an event has no field {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(error, CodecError):
            raise
        raise CodecError(f"an event is malformed: {error}") from error


# Work items.


def encode_work(item: work.WorkItem) -> str:
    """`{"Tag": {...}}` on one line."""
    shape = _WORK_BY_CLASS[type(item)]
    body: JsonObject = {}
    _write(shape, item, body)
    return dump_json({shape.tag: body})


def decode_work(text: str) -> work.WorkItem:
    """Read a work item; fields that are not known are ignored, since it is not stored again.

    Raises:
        CodecError: not JSON, a tag that this version does not know, or a field is missing.
    """
    try:
        value = load_json(text)
    except ValueError as error:
        raise CodecError(f"work item is not JSON: {error}") from error
    tag, body = _tagged(value, "work item")
    shape = _WORK_BY_TAG.get(tag)
    if shape is None:
        raise CodecError(f"unknown work item {tag!r}")
    try:
        return cast("work.WorkItem", _read(shape, body))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CodecError):
            raise
        raise CodecError(f"work item {tag!r} is malformed: {error}") from error
