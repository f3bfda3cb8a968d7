"""Laws of the codec: what is written is read again; what is unknown is refused or kept (property 17)."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duroxide import history, work
from duroxide.codec import (
    decode_event,
    decode_events,
    decode_work,
    encode_event,
    encode_work,
    event_tag,
)
from duroxide.errors import CodecError
from duroxide.failures import (
    ApplicationFailure,
    ApplicationKind,
    ConfigurationFailure,
    Failure,
    InfrastructureFailure,
    PoisonedActivity,
    PoisonedHistory,
    PoisonedOrchestration,
    PoisonFailure,
)

TEXT = st.text(st.characters(), max_size=20)  # lone surrogates too
NUMBER = st.integers(0, 2**53)
OPTIONAL_TEXT = st.none() | TEXT

applications = st.builds(
    ApplicationFailure,
    kind=st.sampled_from([k for k in ApplicationKind if k is not ApplicationKind.CANCELLED]),
    message=TEXT,
    retryable=st.booleans(),
    reason=st.none(),
    error_type=OPTIONAL_TEXT,
    traceback=OPTIONAL_TEXT,
    data=OPTIONAL_TEXT,
) | st.builds(
    ApplicationFailure, kind=st.just(ApplicationKind.CANCELLED), message=TEXT, reason=TEXT
)
subjects = (
    st.builds(PoisonedOrchestration, instance_id=TEXT, execution_id=NUMBER)
    | st.builds(
        PoisonedActivity,
        instance_id=TEXT,
        execution_id=NUMBER,
        activity_name=TEXT,
        activity_id=NUMBER,
    )
    | st.builds(PoisonedHistory, instance_id=TEXT, execution_id=NUMBER, error=TEXT)
)
failures = st.builds(
    Failure,
    kind=applications
    | st.builds(InfrastructureFailure, operation=TEXT, message=TEXT, retryable=st.booleans())
    | st.builds(ConfigurationFailure, resource=TEXT, message=OPTIONAL_TEXT)
    | st.builds(
        PoisonFailure, attempt_count=NUMBER, max_attempts=NUMBER, subject=subjects, message=TEXT
    ),
)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)

BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "details": failures,
    "carry_forward_events": PAIRS,
    "limits": st.none() | st.dictionaries(TEXT, NUMBER, max_size=2),
    "buffered": st.booleans(),
}


def strategy(cls: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    found = {}
    for f in fields(cls):
        if f.name in BY_NAME:
            found[f.name] = BY_NAME[f.name]
            continue
        base = TEXT if str in (hints[f.name], *get_args(hints[f.name])) else NUMBER
        found[f.name] = st.none() | base if f.default is None else base
    return st.builds(cls, **found)


def members(alias: Any) -> list[type[Any]]:
    return list(get_args(alias))


kinds = st.one_of(*[strategy(c) for c in members(history.EventKind)])
events = st.builds(
    history.Event,
    event_id=NUMBER,
    instance_id=TEXT,
    execution_id=NUMBER,
    timestamp_ms=NUMBER,
    kind=kinds,
    duroxide_version=TEXT,
)


@given(events)
def test_an_event_is_read_as_it_was_written_and_on_one_line(event: history.Event) -> None:
    text = encode_event(event)
    assert "\n" not in text
    text.encode()
    assert decode_event(text) == event


@given(st.lists(events, max_size=5))
def test_a_history_is_read_at_once_as_one_by_one(found: list[history.Event]) -> None:
    texts = [encode_event(e) for e in found]
    assert list(decode_events(texts)) == [decode_event(t) for t in texts] == found


@given(st.one_of(*[strategy(c) for c in members(work.WorkItem)]))
def test_a_work_item_is_read_as_it_was_written(item: work.WorkItem) -> None:
    assert decode_work(encode_work(item)) == item


@given(events, st.dictionaries(st.sampled_from(["new_a", "new_b"]), TEXT | NUMBER, min_size=1))
def test_fields_of_a_newer_writer_are_kept(event: history.Event, extra: dict[str, Any]) -> None:
    text = json.dumps({**json.loads(encode_event(event)), **extra})
    again = decode_event(text)
    assert again.extra == extra
    assert json.loads(encode_event(again)) == json.loads(text)


@given(events)
def test_an_unknown_kind_is_refused(event: history.Event) -> None:
    text = json.dumps({**json.loads(encode_event(event)), "type": "Invented"})
    with pytest.raises(CodecError, match="Invented"):
        decode_event(text)


@given(events, st.data())
def test_a_missing_field_is_refused_and_named(event: history.Event, data: st.DataObject) -> None:
    body = json.loads(encode_event(event))
    required = [f.name for f in fields(event.kind) if f.default is MISSING]
    name = data.draw(st.sampled_from([*required, "event_id", "instance_id", "timestamp_ms"]))
    del body[name]
    with pytest.raises(CodecError, match=name):
        decode_event(json.dumps(body))


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", "3", '{"type":3}', '{"type":[]}', "{},{}", "null"]
)
def test_what_is_no_event_is_refused(text: str) -> None:
    with pytest.raises(CodecError):
        decode_event(text)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"A":{},"B":{}}', '{"Invented":{}}', '{"TimerFired":3}', '{"TimerFired":{}}'],
)
def test_what_is_no_work_item_is_refused(text: str) -> None:
    with pytest.raises(CodecError):
        decode_work(text)


def test_the_tags_of_the_three_queue_kinds_are_those_of_the_format() -> None:
    assert event_tag(history.QueueSubscribed(name="q")) == "ExternalSubscribedPersistent"
    delivered = history.QueueEventDelivered(name="q", data="")
    assert event_tag(delivered) == "ExternalEventPersistent"
    cancelled = history.QueueSubscriptionCancelled(source_event_id=1, reason="")
    assert event_tag(cancelled) == "ExternalSubscribedPersistentCancelled"
