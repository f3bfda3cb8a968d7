"""When a body is text, in which characters, and when it is base64."""

from __future__ import annotations

import pytest

from pg_durable.steps.envelope import body_text

LATIN = "é".encode("latin-1")  # no UTF-8


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/html", b"x", ("x", "text")),
        ("TEXT/Plain; charset=utf-8", "é".encode(), ("é", "text")),
        ("text/plain; charset=latin-1", LATIN, ("é", "text")),
        ("text/plain; charset=nonsense", "é".encode(), ("é", "text")),
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
