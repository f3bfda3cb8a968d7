"""Sizes and counts that we refuse to exceed. All sizes are UTF-8 bytes; the limit itself is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

MAX_WORKER_TAGS = 5
MAX_TAG_NAME_BYTES = 256
MAX_KV_KEYS = 150
MAX_KV_VALUE_BYTES = 65_536
MAX_CUSTOM_STATUS_BYTES = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one execution may do; pinned in its first event, so that a refusal replays."""

    payload_bytes: int = 3 * 1024 * 1024  # an input, a result, an event's data
    name_bytes: int = 65_536  # names and ids
    history_bytes: int = 50 * 1024 * 1024  # all events of an execution
    history_events: int = 50_000
    custom_status_bytes: int = MAX_CUSTOM_STATUS_BYTES
    tag_bytes: int = MAX_TAG_NAME_BYTES
    kv_value_bytes: int = MAX_KV_VALUE_BYTES
    kv_keys: int = MAX_KV_KEYS
    carry_forward_events: int = 100_000  # queue messages that continue-as-new takes along

    def to_mapping(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, int] | None) -> Self:
        """Read what a first event pinned; a limit that it does not name has its default."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in (values or {}).items() if name in known})
