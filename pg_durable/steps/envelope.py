"""The result document of an HTTP node: what came back, as text if it is text."""

from __future__ import annotations

import base64
import codecs
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pg_durable.steps.httpclient import Response

_TEXT_TYPES = frozenset(
    f"application/{name}"
    for name in (
        [
            "json",
            "xml",
            "javascript",
            "ecmascript",
            "x-www-form-urlencoded",
            "graphql",
            "yaml",
            "x-yaml",
        ]
    )
)


# Python has codecs of these names; no text is sent in them, and they make what no text may hold.
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "utf-7"})
_VISIBLE = re.compile(rb"[\t -~]*")


def envelope_of(response: Response, duration_ms: int) -> dict[str, Any]:
    """The result document of an HTTP node."""
    single: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1")
        if _VISIBLE.fullmatch(raw_value):
            single[name] = value
        several.setdefault(name, []).append(value)
    body, encoding = body_text(response.body, single.get("content-type", ""))
    return {
        "status": response.status,
        "body": body,
        "encoding": encoding,
        "headers": single,
        "ok": 200 <= response.status <= 299,
        "duration_ms": duration_ms,
        "headers_multi": several,
    }


def body_text(body: bytes, content_type: str) -> tuple[str, str]:
    """The body as text if it is text, else in base64; and which of the two."""
    media = content_type.split(",")[0].split(";")[0].strip().lower()
    textual = (
        media.startswith("text/")
        or media.endswith(("+json", "+xml", "+yaml"))
        or media in _TEXT_TYPES
    )
    if textual:
        text = _decoded(body, content_type)
        if "\0" not in text:
            return text, "text"
    elif b"\0" not in body:
        try:
            return body.decode(), "text"
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), "base64"


def _decoded(body: bytes, content_type: str) -> str:
    try:
        return body.decode(_charset(content_type), errors="replace")
    except (LookupError, UnicodeError):  # Python's codecs are not all of characters
        return body.decode(errors="replace")


def _charset(content_type: str) -> str:
    match = re.search(r"charset=\"?([A-Za-z0-9_.:-]+)", content_type, re.IGNORECASE)
    if match is None:
        return "utf-8"
    try:
        name = codecs.lookup(match[1]).name
    except LookupError:
        return "utf-8"
    return "utf-8" if name.replace("_", "-") in _NO_CHARSETS else name


def retry_after_s(response: Response) -> float | None:
    """For how long the other side asks to be left alone, by its own clock where it names a time."""
    headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
    text = headers.get(b"retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        now = parsedate_to_datetime(headers.get(b"date", ""))
    except ValueError:
        return None
    return max(0.0, (_aware(until) - _aware(now)).total_seconds())


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
