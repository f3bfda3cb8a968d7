"""Requests before they are sent: JSON bodies, and how long to wait before trying again."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_durable.httptemplate import HttpRetry, asked_pause_of, asked_pause_s, fill_request
from pg_durable.outcomes import NodeFailed
from pg_durable.steps.envelope import retry_after_s
from pg_durable.steps.httpclient import Response
from pg_durable.substitute import Bindings

ROWS = '{"rows":[{"n":1.10,"t":"say \\"hi\\"\\n","j":{"a":[1]}}],"row_count":1}'
BINDINGS = Bindings(variables={"who": 'A"b'}, results={"r": ROWS})


def body(template: str, bindings: Bindings = BINDINGS) -> str:
    filled = fill_request({"url": "", "body": template, "body_mode": "json"}, bindings)
    return str(filled["body"])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ('{"n": "$r.n"}', '{"n":1.10}'),
        ('{"j": "$r.j", "k": ["$r.t"]}', '{"j":{"a":[1]},"k":["say \\"hi\\"\\n"]}'),
        ('{"t": "text: $r.t"}', '{"t":"text: say \\"hi\\"\\n"}'),
        ('{"w": "{who}", "$r.n": 2.0}', '{"w":"A\\"b","$r.n":2.0}'),
        ('"$r.*"', '[{"n":1.10,"t":"say \\"hi\\"\\n","j":{"a":[1]}}]'),
        ('["$unknown", null, true]', '["$unknown",null,true]'),
    ],
)
def test_a_json_body_stays_json_whatever_is_inserted(template: str, expected: str) -> None:
    assert body(template) == expected


@given(st.text())
def test_any_text_can_be_inserted(text: str) -> None:
    bindings = Bindings(variables={"v": text}, results={"r": json.dumps({"t": text})})
    filled = json.loads(body('{"a": "<{v}>", "b": "$r.t"}', bindings))
    assert filled["b"] == text
    if "$" not in text:
        assert filled["a"] == f"<{text}>"


def test_a_template_that_is_not_json_is_told_so() -> None:
    with pytest.raises(NodeFailed, match="body is not: "):
        body('{"a": $r.n}')
    with pytest.raises(NodeFailed, match="body_mode must be text or json, not 'xml'"):
        fill_request({"body": "", "body_mode": "xml"}, BINDINGS)


def response(**headers: str) -> Response:
    lines = tuple((n.replace("_", "-").encode(), v.encode()) for n, v in headers.items())
    return Response(status=503, headers=lines, body=b"")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "7"}, 7.0),
        (
            {
                "Date": "Tue, 24 Nov 2026 10:00:00 GMT",
                "Retry_After": "Tue, 24 Nov 2026 10:01:00 GMT",
            },
            60.0,
        ),
        ({"Retry_After": "Tue, 24 Nov 2026 10:01:00 GMT"}, None),
        ({"Retry_After": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_time_by_the_other_sides_clock(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_s(response(**headers)) == seconds


def test_the_pause_before_a_retry_doubles_and_follows_retry_after() -> None:
    retry = HttpRetry.parse({"attempts": 9, "backoff_ms": 100, "max_ms": 5000})
    assert retry.pause(1) == timedelta(milliseconds=100)
    assert retry.pause(3) == timedelta(milliseconds=400)
    assert retry.pause(1, 2.0) == timedelta(seconds=2)
    assert retry.pause(1, 60.0) == timedelta(seconds=5)
    deaf = HttpRetry.parse({"backoff_ms": 100, "respect_retry_after": False})
    assert deaf.pause(1, 2.0) == timedelta(milliseconds=100)
    assert asked_pause_s('{"failure":"status","retry_after_s":3}') == 3.0
    assert asked_pause_s(None) is None
    assert asked_pause_of('{"status":429,"headers":{"retry-after":"4"}}') == 4.0
    assert asked_pause_of('{"status":429,"headers":{}}') is None
