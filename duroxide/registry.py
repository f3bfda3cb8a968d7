"""Which code a name stands for: orchestrations by name and version, activities by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from duroxide.definitions import (
    ActivityDef,
    OrchestrationDef,
    awaited_result,
    define_activity,
    define_orchestration,
)
from duroxide.errors import RegistrationError
from duroxide.schema import parameters_schema, schema_of
from duroxide.version import SemVer

__all__ = [
    "RESERVED_PREFIX",
    "ActivityDef",
    "OrchestrationDef",
    "Registry",
    "define_activity",
    "define_orchestration",
]

RESERVED_PREFIX = "__duroxide_syscall:"
"""Begins the names of activities that the runtime itself provides."""


@dataclass(slots=True)
class Registry:
    """Names and the code behind them. What a name and version stand for never changes once said."""

    _orchestrations: dict[str, dict[SemVer, OrchestrationDef[..., Any]]] = field(
        default_factory=dict
    )
    _activities: dict[str, ActivityDef[..., Any]] = field(default_factory=dict)
    _pinned: dict[str, SemVer] = field(default_factory=dict)

    def add_orchestration(self, definition: OrchestrationDef[..., Any]) -> None:
        """Register one version; versions may come in any order.

        Raises:
            RegistrationError: that name and version stand for other code already.
        """
        versions = self._orchestrations.setdefault(definition.name, {})
        known = versions.get(definition.semver)
        if known is not None and known.fn is not definition.fn:
            raise RegistrationError(
                f"duplicate orchestration registration: {definition.name}@{definition.version}"
            )
        versions[definition.semver] = definition

    def add_activity(self, definition: ActivityDef[..., Any]) -> None:
        """Register an activity.

        Raises:
            RegistrationError: the name is taken, or reserved for the runtime.
        """
        if definition.name.startswith(RESERVED_PREFIX):
            raise RegistrationError(
                f"activity name '{definition.name}' uses reserved prefix '{RESERVED_PREFIX}'"
            )
        known = self._activities.get(definition.name)
        if known is not None and known.fn is not definition.fn:
            raise RegistrationError(f"duplicate activity registration: {definition.name}")
        self._activities[definition.name] = definition

    def add(self, *definitions: ActivityDef[..., Any] | OrchestrationDef[..., Any]) -> Registry:
        """Register what decorated functions are; returns the registry, for chaining."""
        for definition in definitions:
            if isinstance(definition, ActivityDef):
                self.add_activity(definition)
            elif isinstance(definition, OrchestrationDef):
                self.add_orchestration(definition)
            else:
                raise RegistrationError(
                    f"{definition!r} is neither an activity nor an orchestration; decorate it with "
                    "@activity or @orchestration"
                )
        return self

    def merge(self, other: Registry) -> None:
        """Take over all that `other` has.

        Raises:
            RegistrationError: both know a name (and version), for different code.
        """
        self.add(*other.activities(), *other.orchestrations())
        self._pinned.update(other._pinned)

    def set_version_policy(self, name: str, version: str | None) -> None:
        """What a start without a version means: this version, or (None) the latest.

        Raises:
            RegistrationError: it is not registered.
        """
        if version is None:
            self._pinned.pop(name, None)
        elif self.orchestration(name, version) is None:
            raise RegistrationError(f"orchestration {name}@{version} is not registered")
        else:
            self._pinned[name] = SemVer.parse(version)

    def orchestration(
        self, name: str, version: str | None = None
    ) -> OrchestrationDef[..., Any] | None:
        """That very version, or without one what the policy of the name says (default: the latest).

        None if it is not registered, or the version is not of the form 1.2.3.
        """
        versions = self._orchestrations.get(name)
        if not versions:
            return None
        if version is None:
            return versions[self._pinned.get(name) or max(versions)]
        try:
            return versions.get(SemVer.parse(version))
        except ValueError:
            return None

    def activity(self, name: str) -> ActivityDef[..., Any] | None:
        return self._activities.get(name)

    def orchestrations(self) -> Iterator[OrchestrationDef[..., Any]]:
        """All, by name, then version."""
        for name in sorted(self._orchestrations):
            for version in sorted(self._orchestrations[name]):
                yield self._orchestrations[name][version]

    def activities(self) -> Iterator[ActivityDef[..., Any]]:
        """All, by name."""
        for name in sorted(self._activities):
            yield self._activities[name]

    def describe(self) -> list[dict[str, Any]]:
        """All that is registered, for people and tools: names, versions, documentation, JSON Schemas."""
        return [
            *(_described(d, "orchestration", version=d.version) for d in self.orchestrations()),
            *(_described(d, "activity") for d in self.activities()),
        ]


def _described(
    definition: ActivityDef[..., Any] | OrchestrationDef[..., Any], kind: str, **more: str
) -> dict[str, Any]:
    signature = definition.signature
    return {
        "kind": kind,
        "name": definition.name,
        **more,
        "doc": inspect.getdoc(definition.fn) or "",
        "parameters": list(signature.names),
        "input": {} if definition.raw else parameters_schema(signature),
        "output": {} if definition.raw else schema_of(awaited_result(signature.result)),
    }
