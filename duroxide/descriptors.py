"""What generator orchestrations yield: dicts that say what to do and do nothing by themselves."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any

from duroxide.engine.futures import DurableFuture

Descriptor = dict[str, Any]


class ScheduledTask(dict[str, Any]):
    """A descriptor. In an `async def` orchestration it is scheduled already and can be awaited."""

    future: DurableFuture[Any] | None = None
    _retag: Any = None  # changes the tag of what was scheduled already

    def with_tag(self, tag: str) -> ScheduledTask:
        """Send the activity to workers of this tag; returns the same object."""
        self["tag"] = tag
        if self._retag is not None:
            self._retag(tag)
        return self

    def __await__(self) -> Generator[DurableFuture[Any], None, Any]:
        if self.future is None:
            raise RuntimeError(
                "in a generator orchestration this is not awaited but yielded: yield ctx...."
            )
        return self.future.__await__()


def json_text(value: Any) -> str:
    """As the official SDK writes inputs."""
    return json.dumps(value)


def json_or_text(text: str) -> Any:
    """The value that a payload stands for; text that is not JSON is itself the value."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # none, or nested too deeply
        return text


def typed_text(value: Any) -> str:
    """As the `_typed` methods write inputs: a string is passed as it is."""
    return value if isinstance(value, str) else json_text(value)


def parse_result(value: Any) -> Any:
    """The values in what `all` or a combinator gave.

    Raises:
        Exception: it is the `{"err": ...}` of a failed task.
    """
    if isinstance(value, list):
        return [item["ok"] if _has(item, "ok") else item for item in value]
    if _has(value, "ok"):
        return value["ok"]
    if _has(value, "err"):
        raise Exception(value["err"])
    return value


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and key in value


def retry_descriptor(retry: Mapping[str, Any] | None) -> dict[str, Any]:
    """A `retry` dict in the one spelling that descriptors carry; None stands for the default."""
    given = retry or {}
    return {
        "maxAttempts": given.get("max_attempts", given.get("maxAttempts", 3)),
        "timeoutMs": given.get("timeout_ms", given.get("timeoutMs")),
        "totalTimeoutMs": given.get("total_timeout_ms", given.get("totalTimeoutMs")),
        "backoff": given.get("backoff"),
    }
