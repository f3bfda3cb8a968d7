"""How a runtime behaves; docs/reference/runtime.md has the table with advice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from duroxide.limits import Limits
from duroxide.providers.base import TagMode, TagSelection
from duroxide.runtime.caps import CapOf
from duroxide.runtime.telemetry import Observer
from duroxide.storable import flaw_of
from duroxide.version import ENGINE_VERSION, SemVer, VersionRange

TURN_LEASE_MS = 10_000
ACTIVITY_LEASE_MS = 30_000
SESSION_LEASE_MS = 30_000


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """All are optional, None means the default. Durations are in milliseconds.

    The first ones may be given by position, in the order and with the meaning of the official SDK.
    A renewal buffer says how long before its end a lease is renewed at the latest; without one it
    is renewed when a third of it has passed.

    Raises:
        ValueError: a number or word that can't be meant, with the option's name.
        TypeError: not a whole number where one belongs.
    """

    orchestration_concurrency: int | None = None  # turns at once; 64
    worker_concurrency: int | None = None  # activities at once; 64
    dispatcher_poll_interval_ms: int | None = None  # between polls of a store that can't wait; 100
    worker_lock_timeout_ms: int | None = None  # an activity's lease; 30,000
    log_format: str | None = None
    log_level: str | None = None
    service_name: str | None = None
    service_version: str | None = None
    max_sessions_per_runtime: int | None = None  # 10
    session_idle_timeout_ms: int | None = None  # 300,000
    worker_node_id: str | None = None  # stable over restarts; a new UUID
    worker_tag_filter: str | TagSelection | None = None  # untagged activities only
    orchestrator_lock_timeout_ms: int | None = None  # a turn's lease; 10,000
    orchestrator_lock_renewal_buffer_ms: int | None = None
    max_attempts: int | None = None  # deliveries before something is poison; 10
    worker_lock_renewal_buffer_ms: int | None = None
    session_lock_timeout_ms: int | None = None  # 30,000
    session_lock_renewal_buffer_ms: int | None = None

    long_poll_ms: int = field(default=30_000, kw_only=True)  # that a store may wait for work
    unregistered_backoff_ms: tuple[int, int] = field(default=(1_000, 60_000), kw_only=True)
    cache: Literal["on", "off", "verify"] = field(default="on", kw_only=True)
    cache_size: int = field(default=1_000, kw_only=True)  # live executions kept between turns
    orphan_retention_ms: int = field(default=300_000, kw_only=True)
    cancellation_grace_ms: int = field(default=10_000, kw_only=True)
    prefetch_ms: int = field(
        default=50, kw_only=True
    )  # short activities wait here so long; 0: none
    drain_timeout_ms: int = field(default=30_000, kw_only=True)
    session_cleanup_interval_ms: int = field(default=300_000, kw_only=True)
    worker_threads: int | None = field(default=None, kw_only=True)  # for `def` activities
    tag_caps: CapOf | None = field(default=None, kw_only=True)  # with the tag filter `any`
    nondeterminism: Literal["retry", "fail"] = field(default="retry", kw_only=True)
    slow_turn_ms: int = field(default=500, kw_only=True)  # holding the loop is warned of; 0: never
    versions: Sequence[VersionRange] | None = field(default=None, kw_only=True)
    limits: Limits = field(default=Limits(), kw_only=True)
    observer: Observer = field(default_factory=Observer, kw_only=True)

    def __post_init__(self) -> None:
        for option in fields(self):
            if getattr(self, option.name) is None and option.default is not None:
                default = option.default if option.default is not MISSING else Observer()
                object.__setattr__(self, option.name, default)
        for least, names in ((1, _POSITIVE), (0, _NOT_NEGATIVE)):
            for name in names:
                _check_number(name, getattr(self, name), least)
        pauses: Any = self.unregistered_backoff_ms
        if not isinstance(pauses, tuple | list) or len(pauses) != 2:
            raise TypeError(
                f"unregistered_backoff_ms must be the first and the longest pause, not {pauses!r}"
            )
        for pause in pauses:
            _check_number("unregistered_backoff_ms", pause, 1)
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                allowed = " or ".join(map(repr, words))
                raise ValueError(f"{name} must be {allowed}, not {getattr(self, name)!r}")
        for name, kind in (("worker_node_id", str), ("limits", Limits), ("observer", Observer)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name} must be of {kind.__name__}, not {value!r}")
        flaw = flaw_of(self.worker_node_id or "")
        if flaw is not None:
            raise ValueError(f"worker_node_id contains {flaw}")
        renewed_after_ms = self.activity_lease_ms - self.activity_buffer_ms
        if self.session_idle_ms <= renewed_after_ms:
            raise ValueError(
                f"session_idle_timeout_ms ({self.session_idle_ms}) must be longer than the time after "
                f"which an activity is renewed ({renewed_after_ms} ms, see worker_lock_timeout_ms), or a "
                "session would be idle while its activity runs"
            )
        if not isinstance(self.worker_tag_filter, TagSelection):
            parse_tag_filter(self.worker_tag_filter)
        if self.tag_caps is not None and self.tags.mode is not TagMode.ANY:
            raise ValueError("tag_caps needs the worker_tag_filter 'any'")

    @property
    def live_executions(self) -> int:
        return 0 if self.cache == "off" else self.cache_size

    @property
    def turn_slots(self) -> int:
        return _or(self.orchestration_concurrency, 64)

    @property
    def activity_slots(self) -> int:
        return _or(self.worker_concurrency, 64)

    @property
    def turn_lease_ms(self) -> int:
        return _or(self.orchestrator_lock_timeout_ms, TURN_LEASE_MS)

    @property
    def turn_buffer_ms(self) -> int:
        return _or(self.orchestrator_lock_renewal_buffer_ms, self.turn_lease_ms * 2 // 3)

    @property
    def activity_lease_ms(self) -> int:
        return _or(self.worker_lock_timeout_ms, ACTIVITY_LEASE_MS)

    @property
    def activity_buffer_ms(self) -> int:
        return _or(self.worker_lock_renewal_buffer_ms, self.activity_lease_ms * 2 // 3)

    @property
    def attempts(self) -> int:
        return _or(self.max_attempts, 10)

    @property
    def session_limit(self) -> int:
        return _or(self.max_sessions_per_runtime, 10)

    @property
    def session_lease_ms(self) -> int:
        return _or(self.session_lock_timeout_ms, SESSION_LEASE_MS)

    @property
    def session_buffer_ms(self) -> int:
        return _or(self.session_lock_renewal_buffer_ms, self.session_lease_ms * 2 // 3)

    @property
    def session_idle_ms(self) -> int:
        return _or(self.session_idle_timeout_ms, 300_000)

    @property
    def poll_interval_s(self) -> float:
        return _or(self.dispatcher_poll_interval_ms, 100) / 1000

    @property
    def tags(self) -> TagSelection:
        if isinstance(self.worker_tag_filter, TagSelection):
            return self.worker_tag_filter
        return parse_tag_filter(self.worker_tag_filter)

    @property
    def version_ranges(self) -> Sequence[VersionRange]:
        if self.versions is not None:
            return self.versions
        return (VersionRange(SemVer(0, 0, 0), ENGINE_VERSION),)


_POSITIVE = (
    "orchestration_concurrency",
    "worker_concurrency",
    "dispatcher_poll_interval_ms",
    "worker_lock_timeout_ms",
    "orchestrator_lock_timeout_ms",
    "session_lock_timeout_ms",
    "session_idle_timeout_ms",
    "session_cleanup_interval_ms",
    "max_attempts",
    "long_poll_ms",
    "worker_threads",
)
_NOT_NEGATIVE = (
    "max_sessions_per_runtime",
    "orchestrator_lock_renewal_buffer_ms",
    "worker_lock_renewal_buffer_ms",
    "session_lock_renewal_buffer_ms",
    "cache_size",
    "orphan_retention_ms",
    "cancellation_grace_ms",
    "prefetch_ms",
    "drain_timeout_ms",
    "slow_turn_ms",
)
_WORDS = {"cache": ("on", "off", "verify"), "nondeterminism": ("retry", "fail")}


def _check_number(name: str, value: Any, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def parse_tag_filter(text: str | None) -> TagSelection:
    """Read `default_only`, `any`, `none`, `{"tags": [...]}` or `{"default_and": [...]}`.

    Raises:
        ValueError: it is none of these.
    """
    if text is None:
        return TagSelection()
    try:
        if not text.startswith("{"):
            return TagSelection(TagMode(text))
        ((mode, tags),) = json.loads(text).items()
        return TagSelection(TagMode(mode), frozenset(_strings(tags)))
    except (AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"worker_tag_filter {text!r} is not a tag filter: {error}") from error


def _strings(tags: Any) -> list[str]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise TypeError("tags must be a list of strings")
    return tags
