"""What a worker can be told: arguments first, then the environment, then the defaults.

Every field is also an environment variable: `activity_lease` is PG_DURABLE_ACTIVITY_LEASE. Durations
are in seconds. The table in docs/reference/worker.md is made from this class.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Self

from duroxide.errors import DuroxideError
from pg_durable.egress import Egress, Policy
from pg_durable.identity import Identity
from pg_durable.rolecaps import RoleCaps, read_role_counts

PREFIX = "PG_DURABLE_"
_EXPECTED: Mapping[object, str] = {int: "a whole number", float: "a number"}


class SettingError(DuroxideError, ValueError):
    """A setting has a value that can't be meant; the message names both."""


def _number(kind: type, default: float, lowest: float, highest: float, meaning: str) -> Any:
    metadata = {"kind": kind, "lowest": lowest, "highest": highest, "meaning": meaning}
    return field(default=default, metadata=metadata)


def _count(default: int, lowest: int, highest: int, meaning: str) -> Any:
    return _number(int, default, lowest, highest, meaning)


def _seconds(default: float, lowest: float, highest: float, meaning: str) -> Any:
    return _number(float, default, lowest, highest, meaning)


def _words(meaning: str) -> Any:
    return field(default=(), metadata={"kind": _split, "meaning": meaning})


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[\s,]+", text) if part)


def _flag(default: bool, meaning: str) -> Any:
    return field(default=default, metadata={"kind": _read_flag, "meaning": meaning})


def _read_flag(text: str) -> bool:
    if text.lower() not in ("on", "off", "true", "false", "yes", "no", "1", "0"):
        raise ValueError(text)
    return text.lower() in ("on", "true", "yes", "1")


def _word(default: str, meaning: str) -> Any:
    return field(default=default, metadata={"kind": str, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one worker behaves. All fields are optional."""

    turn_concurrency: int = _count(64, 1, 10_000, "turns at once")
    sql_concurrency: int = _count(16, 1, 10_000, "SQL steps at once, each with a connection")
    sql_concurrency_per_role: int = _count(
        8, 0, 10_000, "SQL steps of one role at once; 0: only the total counts"
    )
    role_concurrency: tuple[str, ...] = _words("role=number, instead of sql_concurrency_per_role")
    system_concurrency: int = _count(16, 1, 10_000, "short calls at once, such as for signals")
    turn_lease: float = _seconds(10.0, 0.1, 3600.0, "for how long a worker takes an instance")
    activity_lease: float = _seconds(
        30.0, 0.1, 3600.0, "for how long a worker takes a step; the longest that a crash delays it"
    )
    poll_interval: float = _seconds(
        5.0, 0.01, 3600.0, "how often to look for work that no notification told about"
    )
    heartbeat_interval: float = _seconds(5.0, 0.1, 3600.0, "how often to show in df._workers")
    max_attempts: int = _count(10, 1, 10_000, "deliveries before something is given up as poison")
    shutdown_grace: float = _seconds(10.0, 0.0, 3600.0, "for steps to end when asked to stop")
    connect_timeout: float = _seconds(30.0, 2.0, 3600.0, "for opening a step's connection")
    sql_timeout: float = _seconds(0.0, 0.0, 86_400.0, "statement_timeout of a step; 0: the role's")
    max_result_rows: int = _count(100_000, 1, 100_000_000, "rows that a step may return")
    max_result_bytes: int = _count(
        16 * 1024 * 1024, 1024, 512 * 1024 * 1024, "bytes of a step's result document"
    )
    on_ambiguous: str = _word(
        "retry", "a step outside of a transaction that may have run: retry, or fail"
    )
    identity: tuple[str, ...] = _words(
        "login, unless set_role is said; role=mechanism for single roles"
    )
    allow_unsafe_set_role: bool = _flag(False, "set_role although the worker is a superuser")
    http_mode: str = _word("off", "where HTTP steps may go: off, allowlist, public, unrestricted")
    http_allow: tuple[str, ...] = _words("hosts, .suffixes, with scheme or port; preset:azure")
    http_private_allow: tuple[str, ...] = _words("networks that may be reached though not public")
    http_ports: tuple[str, ...] = _words(
        "ports besides 80 and 443 of public names and private addresses"
    )
    http_allow_metadata: bool = _flag(False, "reach link-local metadata in mode unrestricted")
    http_roles: tuple[str, ...] = _words("role=host, role=off or role=public, instead of the above")
    http_concurrency: int = _count(50, 1, 10_000, "HTTP steps at once")
    http_concurrency_per_role: int = _count(
        10, 0, 10_000, "HTTP steps of one role at once; 0: only the total counts"
    )
    http_max_response_bytes: int = _count(
        10 * 1024 * 1024, 1024, 512 * 1024 * 1024, "bytes of a response's body"
    )
    reconcile_interval: float = _seconds(
        3600.0, 0.1, 86_400.0, "how often to remove old instances; how old is in df._settings"
    )
    workflow_timezone: str = _word("UTC", "TimeZone of a step's session")
    engine_schema: str = _word("duroxide", "the schema of the engine's tables")

    def __post_init__(self) -> None:
        for setting in fields(self):
            _check(setting, getattr(self, setting.name))
        _ = self.egress  # so that a mistake shows at the start
        if self.on_ambiguous not in ("retry", "fail"):
            raise SettingError(f"on_ambiguous must be retry or fail, not {self.on_ambiguous!r}")
        try:
            Identity.parse(self.identity, "")
            read_role_counts(self.role_concurrency)
        except ValueError as error:
            raise SettingError(str(error)) from error

    @property
    def role_caps(self) -> RoleCaps:
        """How many steps of a kind and of a role run at once."""
        return RoleCaps(
            total={"sql": self.sql_concurrency, "http": self.http_concurrency},
            per_role={"sql": self.sql_concurrency_per_role, "http": self.http_concurrency_per_role},
            by_role=read_role_counts(self.role_concurrency),
        )

    @property
    def egress(self) -> Egress:
        """Where HTTP steps may go.

        Raises:
            SettingError: an entry is not what it should be.
        """
        try:
            ports = [int(port) for port in self.http_ports]
            policy = Policy.parse(
                self.http_mode,
                self.http_allow,
                self.http_private_allow,
                ports,
                self.http_allow_metadata,
            )
            return Egress(default=policy).with_roles(self.http_roles)
        except ValueError as error:
            raise SettingError(f"the http settings can't be used: {error}") from error

    @classmethod
    def load(
        cls, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
    ) -> Self:
        """Combine arguments and environment.

        Args:
            overrides: values by field name; None leaves a field to the environment.

        Raises:
            SettingError: an unknown name, or a value of the wrong kind or out of range.
        """
        environ = os.environ if environ is None else environ
        values = {name: value for name, value in (overrides or {}).items() if value is not None}
        known = {setting.name: setting for setting in fields(cls)}
        for name in values:
            if name not in known:
                raise SettingError(f"there is no setting {name!r}; there are {', '.join(known)}")
        for name, setting in known.items():
            text = environ.get(PREFIX + name.upper())
            if name not in values and text:
                values[name] = _read(setting, text)
        return cls(**values)


def _read(setting: Field[Any], text: str) -> Any:
    kind: Callable[[str], Any] = setting.metadata["kind"]
    try:
        return kind(text)
    except ValueError:
        expected = _EXPECTED.get(kind, "on or off")
        raise SettingError(
            f"{PREFIX}{setting.name.upper()} must be {expected}, not {text!r}"
        ) from None


def _check(setting: Field[Any], value: Any) -> None:
    lowest, highest = setting.metadata.get("lowest"), setting.metadata.get("highest")
    if lowest is not None and not lowest <= value <= highest:
        raise SettingError(f"{setting.name} must be between {lowest} and {highest}, not {value}")
    if setting.metadata["kind"] is str and not value:
        raise SettingError(f"{setting.name} must not be empty")
