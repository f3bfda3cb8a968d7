"""When a body is text, in which characters, and when it is base64."""

from __future__ import annotations

import pytest

from pg_durable.steps.envelope import body_text, envelope_of
from pg_durable.steps.httpclient import Response

LATIN = "é".encode("latin-1")  # no UTF-8


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/html", b"x", ("x", "text")),
        ("TEXT/Plain; charset=utf-8", "é".encode(), ("é", "text")),
        ("text/plain; charset=latin-1", LATIN, ("é", "text")),
        ("text/plain; charset=utf-16", "é0".encode("utf-16"), ("é0", "text")),
        ("text/plain; charset=utf-16le", "é\0".encode("utf-16le"), ("6QAAAA==", "base64")),
        ("text/plain; charset=nonsense", "é".encode(), ("é", "text")),
        *(
            (f"text/plain; charset={codec}", r"\ud800 +2AA- é".encode(), (r"\ud800 +2AA- é", "text"))
            for codec in ("hex", "rot13", "idna", "punycode", "undefined", "utf-7", "U7", "unicode_escape", "raw_unicode_escape")
        ),
        ("text/plain", LATIN, ("\N{REPLACEMENT CHARACTER}", "text")),
        ("application/json", b"{}", ("{}", "text")),
        ("application/json, text/plain; x", b"{}", ("{}", "text")),
        ("application/problem+json", b"{}", ("{}", "text")),
        ("application/atom+xml", b"<a/>", ("<a/>", "text")),
        ("application/x+yaml", b"a: 1", ("a: 1", "text")),
        *(
            (f"application/{kind}", b"x", ("x", "text"))
            for kind in ("xml", "javascript", "ecmascript", "x-www-form-urlencoded", "graphql", "yaml", "x-yaml")
        ),
        ("application/octet-stream", b"plain", ("plain", "text")),
        ("", "é".encode(), ("é", "text")),
        ("", LATIN, ("6Q==", "base64")),
        ("image/png", b"\x89PNG", ("iVBORw==", "base64")),
        ("", b"a\0b", ("YQBi", "base64")),
        ("text/plain", b"a\0b", ("YQBi", "base64")),
        ("text/plain", b"", ("", "text")),
    ],
)  # fmt: skip
def test_a_body_is_text_or_base64(
    content_type: str, body: bytes, expected: tuple[str, str]
) -> None:
    """df-execution 12.28: classification."""
    assert body_text(body, content_type) == expected


def test_headers_that_are_not_ascii_stand_only_among_all_of_them() -> None:
    lines = ((b"X-A", b"one\ttwo"), (b"X-A", LATIN), (b"x-b", LATIN))
    envelope = envelope_of(Response(status=200, headers=lines, body=b""), 1)
    assert envelope["headers"] == {"x-a": "one\ttwo"}
    assert envelope["headers_multi"] == {"x-a": ["one\ttwo", "é"], "x-b": ["é"]}
