"""The configuration of an HTTP node before it is sent: placeholders filled in, and its retry policy."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pg_durable.outcomes import NodeFailed
from pg_durable.results import JsonValue, encode, parse
from pg_durable.substitute import Bindings, substitute_raw, substitute_value

_ONE_REFERENCE = re.compile(
    r"\$[A-Za-z_]\w*(\.[A-Za-z_]\w*)?\??|\$\{[A-Za-z_][\w.\[\]]*\??\}|\{[A-Za-z_]\w*\}", re.ASCII
)

RETRIED: frozenset[str | int] = frozenset({429, 502, 503, 504, "timeout", "connect"})


def fill_request(config: Mapping[str, Any], bindings: Bindings) -> dict[str, Any]:
    """The configuration with its placeholders replaced: body, url, headers by name, then parts.

    Raises:
        SubstitutionError: a placeholder can't be resolved.
        NodeFailed: a part's data mixes a placeholder with other text.
    """
    filled = dict(config)
    filled.pop("retry", None)
    if filled.get("body_mode", "text") not in ("text", "json"):
        raise NodeFailed(
            f"Invalid HTTP config: body_mode must be text or json, not {filled['body_mode']!r}"
        )
    if isinstance(filled.get("body"), str):
        fill = fill_json if filled.get("body_mode") == "json" else substitute_raw
        filled["body"] = fill(filled["body"], bindings)
    if isinstance(filled.get("url"), str):
        filled["url"] = substitute_raw(filled["url"], bindings)
    headers = filled.get("headers")
    if isinstance(headers, dict):
        filled["headers"] = {name: _deep(headers[name], bindings) for name in sorted(headers)}
    if isinstance(filled.get("timeout_seconds"), str):
        filled["timeout_seconds"] = substitute_raw(filled["timeout_seconds"], bindings)
    if isinstance(filled.get("parts"), list):
        filled["parts"] = [_part(part, bindings) for part in filled["parts"]]
    return filled


def fill_json(template: str, bindings: Bindings) -> str:
    """A JSON template with placeholders in its strings, as JSON whatever is inserted.

    A string that is one reference becomes its value; inside other strings the text is inserted. Keys
    stay as they are.

    Raises:
        NodeFailed: the template is not JSON.
    """
    try:
        document = parse(template)
    except ValueError as error:
        raise NodeFailed(
            f'Invalid HTTP config: "body_mode" is json, but body is not: {error}'
        ) from error
    return encode(_fill_value(document, bindings))


def _fill_value(value: JsonValue, bindings: Bindings) -> JsonValue:
    match value:
        case str():
            return substitute_value(value, bindings)
        case list():
            return [_fill_value(item, bindings) for item in value]
        case dict():
            return {key: _fill_value(item, bindings) for key, item in value.items()}
        case _:
            return value


def _deep(value: Any, bindings: Bindings) -> Any:
    if isinstance(value, str):
        return substitute_raw(value, bindings)
    return [_deep(item, bindings) for item in value] if isinstance(value, list) else value


def _part(part: Any, bindings: Bindings) -> Any:
    if not isinstance(part, dict):
        return part
    filled = dict(part)
    for key in ("name", "filename", "content_type"):
        if isinstance(filled.get(key), str):
            filled[key] = substitute_raw(filled[key], bindings)
    data = filled.get("data_b64")
    if isinstance(data, str) and ("$" in data or "{" in data):
        if _ONE_REFERENCE.fullmatch(data.strip()) is None:
            raise NodeFailed(
                f"part '{filled.get('name')}': data_b64 mixes a variable reference with other text. "
                "Only a whole-value reference is supported; encode the data in a SQL step before"
            )
        filled["data_b64"] = substitute_raw(data.strip(), bindings)
    return filled


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRetry:
    """Which failures are tried again, how often and after how long."""

    attempts: int = 1
    on: frozenset[str | int] = RETRIED
    backoff_ms: int = 1000  # before the second attempt, doubling
    max_ms: int = 60_000
    respect_retry_after: bool = True

    @classmethod
    def parse(cls, value: Any) -> HttpRetry:
        """Read a node's `retry`; without one there is one attempt.

        Raises:
            NodeFailed: it is not such an object.
        """
        if value is None:
            return cls()
        try:
            given = {"attempts": 3, **value}
            return cls(
                attempts=max(1, min(100, int(given["attempts"]))),
                on=frozenset(given.get("on") or RETRIED),
                backoff_ms=int(given.get("backoff_ms", 1000)),
                max_ms=int(given.get("max_ms", 60_000)),
                respect_retry_after=bool(given.get("respect_retry_after", True)),
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise NodeFailed(f"Invalid HTTP config: retry: {error}") from error

    def covers_envelope(self, envelope: str) -> bool:
        """Whether a response that is no failure is one to try again, such as 429."""
        return json.loads(envelope).get("status") in self.on

    def covers(self, failure_data: str | None) -> bool:
        facts = json.loads(failure_data) if failure_data else {}
        return facts.get("failure") in self.on or facts.get("http_status") in self.on

    def pause(self, attempt: int, asked_s: float | None = None) -> timedelta:
        """How long to wait after this attempt; the other side may have asked for longer."""
        wanted_ms = self.backoff_ms * 2 ** (attempt - 1)
        if asked_s is not None and self.respect_retry_after:
            wanted_ms = max(wanted_ms, round(asked_s * 1000))
        return timedelta(milliseconds=min(self.max_ms, wanted_ms))


def asked_pause_s(failure_data: str | None) -> float | None:
    """Retry-After of a response that made the request fail."""
    facts = json.loads(failure_data) if failure_data else {}
    asked = facts.get("retry_after_s")
    return float(asked) if isinstance(asked, int | float) else None


def asked_pause_of(envelope: str) -> float | None:
    """Retry-After of a response that is no failure; a date is not understood here."""
    text = str(json.loads(envelope).get("headers", {}).get("retry-after", "")).strip()
    return float(text) if text.isascii() and text.isdecimal() else None
