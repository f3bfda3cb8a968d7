"""The small words that the engine and the stores share about an instance's state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


class ExecutionStatus(Enum):
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CONTINUED_AS_NEW = "ContinuedAsNew"

    @property
    def is_terminal(self) -> bool:
        """The instance has ended (a continued one has not)."""
        return self in (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    value: str
    updated_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetKeyValue:
    key: str
    value: str
    updated_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearKeyValue:
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearKeyValues:
    pass


KeyValueChange: TypeAlias = SetKeyValue | ClearKeyValue | ClearKeyValues


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCustomStatus:
    """Set (or with None clear) the custom status; its version grows by one for each turn that has one."""

    status: str | None
