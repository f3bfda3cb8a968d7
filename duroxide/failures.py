"""Failures as data: what a history says about an activity, a child or an execution that failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias


class ApplicationKind(Enum):
    """Who or what ended an application failure."""

    ACTIVITY_FAILED = "ActivityFailed"
    ORCHESTRATION_FAILED = "OrchestrationFailed"
    PANICKED = "Panicked"
    CANCELLED = "Cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationFailure:
    """The author's code failed; visible to the code that waits for it."""

    kind: ApplicationKind
    message: str
    retryable: bool = False
    reason: str | None = None  # of a cancellation, and only of one
    error_type: str | None = None  # the exception's class name
    traceback: str | None = None  # formatted, for people
    data: str | None = None  # JSON text that the failing code attached

    def __str__(self) -> str:
        match self.kind:
            case ApplicationKind.CANCELLED:
                return f"canceled: {self.reason or ''}"
            case ApplicationKind.PANICKED:
                return f"orchestration panicked: {self.message}"
            case _:
                return self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class InfrastructureFailure:
    """Storage or the runtime failed; never shown to orchestration code."""

    operation: str
    message: str
    retryable: bool = False

    def __str__(self) -> str:
        return f"infrastructure:{self.operation}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationFailure:
    """What runs is not what was recorded (nondeterminism)."""

    resource: str = ""
    message: str | None = None

    def __str__(self) -> str:
        if self.message is None:
            return f"nondeterministic in {self.resource}"
        return f"nondeterministic: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonedOrchestration:
    instance_id: str
    execution_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonedActivity:
    instance_id: str
    execution_id: int
    activity_name: str
    activity_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonedHistory:
    """The stored history could not be read."""

    instance_id: str
    execution_id: int
    error: str


PoisonSubject: TypeAlias = PoisonedOrchestration | PoisonedActivity | PoisonedHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonFailure:
    """Delivered more often than allowed without ever being finished."""

    attempt_count: int
    max_attempts: int
    subject: PoisonSubject
    message: str = ""  # the messages that could not be processed, as JSON text

    def __str__(self) -> str:
        attempts = f"{self.attempt_count} attempts (max {self.max_attempts})"
        match self.subject:
            case PoisonedOrchestration(instance_id=instance):
                return f"poison: orchestration {instance} exceeded {attempts}"
            case PoisonedActivity(activity_name=name, activity_id=number):
                return f"poison: activity {name}#{number} exceeded {attempts}"
            case PoisonedHistory(instance_id=instance, error=error):
                return (
                    f"poison: orchestration {instance} history deserialization failed "
                    f"after {attempts}: {error}"
                )


FailureKind: TypeAlias = (
    ApplicationFailure | InfrastructureFailure | ConfigurationFailure | PoisonFailure
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failure as a history holds it; `str()` is the text that people and callers see."""

    kind: FailureKind
    extra: Mapping[str, object] = field(default_factory=dict)  # fields of a newer writer, kept

    def __str__(self) -> str:
        return str(self.kind)

    @property
    def is_system(self) -> bool:
        """Not the fault of the awaited code: it ends the waiting orchestration as well."""
        return not isinstance(self.kind, ApplicationFailure)


def activity_failure(
    message: str,
    *,
    error_type: str | None = None,
    retryable: bool = True,
    traceback: str | None = None,
    data: str | None = None,
) -> Failure:
    """The failure of an activity that raised."""
    return Failure(
        kind=ApplicationFailure(
            kind=ApplicationKind.ACTIVITY_FAILED,
            message=message,
            retryable=retryable,
            error_type=error_type,
            traceback=traceback,
            data=data,
        )
    )


def orchestration_failure(
    message: str,
    *,
    error_type: str | None = None,
    traceback: str | None = None,
    data: str | None = None,
) -> Failure:
    """The failure of an orchestration that raised."""
    return Failure(
        kind=ApplicationFailure(
            kind=ApplicationKind.ORCHESTRATION_FAILED,
            message=message,
            error_type=error_type,
            traceback=traceback,
            data=data,
        )
    )


def cancellation(reason: str) -> Failure:
    """The end of an orchestration that was cancelled."""
    return Failure(
        kind=ApplicationFailure(kind=ApplicationKind.CANCELLED, message="", reason=reason)
    )


def nondeterminism(message: str) -> Failure:
    """The end of an orchestration whose code no longer does what its history says."""
    return Failure(kind=ConfigurationFailure(message=message))
