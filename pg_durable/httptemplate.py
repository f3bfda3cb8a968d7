"""The configuration of an HTTP node before it is sent: placeholders filled in, and its retry policy."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pg_durable.outcomes import NodeFailed
from pg_durable.substitute import Bindings, substitute_raw

_ONE_REFERENCE = re.compile(r"\$[A-Za-z_]\w*(\.[A-Za-z_]\w*)?\??|\{[A-Za-z_]\w*\}", re.ASCII)

RETRIED: frozenset[str | int] = frozenset({429, 502, 503, 504, "timeout", "connect"})


def fill_request(config: Mapping[str, Any], bindings: Bindings) -> dict[str, Any]:
    """The configuration with its placeholders replaced: body, url, headers by name, then parts.

    Raises:
        SubstitutionError: a placeholder can't be resolved.
        NodeFailed: a part's data mixes a placeholder with other text.
    """
    filled = dict(config)
    filled.pop("retry", None)
    for key in ("body", "url"):
        if isinstance(filled.get(key), str):
            filled[key] = substitute_raw(filled[key], bindings)
    headers = filled.get("headers")
    if isinstance(headers, dict):
        filled["headers"] = {name: _deep(headers[name], bindings) for name in sorted(headers)}
    if isinstance(filled.get("timeout_seconds"), str):
        filled["timeout_seconds"] = substitute_raw(filled["timeout_seconds"], bindings)
    if isinstance(filled.get("parts"), list):
        filled["parts"] = [_part(part, bindings) for part in filled["parts"]]
    return filled


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
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise NodeFailed(f"Invalid HTTP config: retry: {error}") from error

    def covers_envelope(self, envelope: str) -> bool:
        """Whether a response that is no failure is one to try again, such as 429."""
        return json.loads(envelope).get("status") in self.on

    def covers(self, failure_data: str | None) -> bool:
        facts = json.loads(failure_data) if failure_data else {}
        return facts.get("failure") in self.on or facts.get("http_status") in self.on

    def pause(self, attempt: int) -> timedelta:
        return timedelta(milliseconds=min(self.max_ms, self.backoff_ms * 2 ** (attempt - 1)))
