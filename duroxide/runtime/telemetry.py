"""Hooks that observe a runtime. Logging, metrics and tracing are built on them.

A hook is called on the runtime's event loop and must be quick; one that raises is logged and
otherwise ignored. No hook ever sees a payload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from duroxide.failures import (
    ApplicationFailure,
    ApplicationKind,
    ConfigurationFailure,
    InfrastructureFailure,
    PoisonFailure,
)
from duroxide.history import Event, OrchestrationFailed
from duroxide.ids import EventId, ExecutionId, InstanceId
from duroxide.providers.base import QueueDepths, SystemMetrics
from duroxide.state import ExecutionStatus

logger = logging.getLogger("duroxide.runtime")


@dataclass(frozen=True, slots=True)
class FailureLabels:
    """What kind of failure it is, in words that are few enough to count by."""

    error_type: str  # app_error, infrastructure_error, config_error, poison
    error_category: str  # application: how it came about; else the same for all of the type

    @classmethod
    def of(cls, events: Sequence[Event]) -> FailureLabels | None:
        """Of what a turn adds; None if the execution does not fail with it."""
        last = events[-1].kind if events else None
        if not isinstance(last, OrchestrationFailed):
            return None
        match last.details.kind:
            case ApplicationFailure(kind=kind):
                return cls("app_error", kind.value)
            case InfrastructureFailure(operation=operation):
                return cls("infrastructure_error", operation)
            case ConfigurationFailure():
                return cls("config_error", "nondeterminism")
            case PoisonFailure(subject=subject):
                return cls("poison", type(subject).__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord:
    """A turn that was committed."""

    instance_id: InstanceId
    execution_id: ExecutionId
    orchestration_name: str
    orchestration_version: str
    status: ExecutionStatus
    is_first: bool
    attempt: int
    event_count: int  # added by this turn
    activity_count: int
    ignored_count: int
    run_seconds: float  # in the engine
    commit_seconds: float  # from ready to durable
    is_cached: bool
    history_events: int  # of the execution, with those of this turn
    began_ms: int  # the execution's first event
    waited_s: (
        float  # from when its first message was due to when it was leased; 0 of a kept instance
    )
    parent: tuple[InstanceId, ExecutionId] | None  # of a child that somebody waits for
    failure: FailureLabels | None = None  # of a turn with which the instance failed


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityRecord:
    """A delivery of an activity that begins here, or that ended here, one way or another."""

    instance_id: InstanceId
    execution_id: ExecutionId
    activity_id: EventId
    activity_name: str
    attempt: int
    tag: str | None
    outcome: str  # started, or success, finished, failure, cancelled, lost, poisoned, unregistered, handed_back
    seconds: float  # in the activity's code
    waited_s: float  # from when it was due to when its code began


class Observer:
    """Does nothing; a subclass overrides what it is interested in."""

    gauge_interval_s: float | None = None
    """How often `store_measured` is wanted; None: never, and the store is not asked."""

    def hears(self, hook: str) -> bool:
        """Whether calling the hook of this name does anything."""
        return getattr(type(self), hook) is not getattr(Observer, hook)

    def turn_committed(self, record: TurnRecord) -> None: ...

    def turn_refused(self, instance_id: InstanceId, reason: str) -> None:
        """The turn was not written: lease lost, history conflict, nondeterminism, no handler ..."""

    def activity_started(self, record: ActivityRecord) -> None:
        """Called in the context in which the activity's code will run."""

    def activity_ended(self, record: ActivityRecord) -> None: ...

    def cache_changed(self, entries: int, evicted: int) -> None:
        """So many executions are in memory; so many were dropped just now to make room."""

    def batch_committed(self, items: int, seconds: float) -> None: ...

    def store_failed(self, operation: str, error: Exception) -> None: ...

    def store_measured(self, metrics: SystemMetrics, depths: QueueDepths) -> None:
        """What is in the store, whichever processes put it there."""

    def instance_poisoned(self, instance_id: InstanceId, attempts: int) -> None: ...

    def message_dropped(self, instance_id: InstanceId, reason: str) -> None: ...


class Observers(Observer):
    """Tells several observers, none of whom can disturb the runtime or the others."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        intervals = [o.gauge_interval_s for o in observers if o.gauge_interval_s is not None]
        self.gauge_interval_s = min(intervals, default=None)

    def hears(self, hook: str) -> bool:
        return any(observer.hears(hook) for observer in self._observers)

    def _tell(self, name: str, *args: Any) -> None:
        for observer in self._observers:
            call: Callable[..., None] = getattr(observer, name)
            try:
                call(*args)
            except Exception:
                logger.exception("observer %r failed in %s", observer, name)

    def turn_committed(self, record: TurnRecord) -> None:
        self._tell("turn_committed", record)

    def turn_refused(self, instance_id: InstanceId, reason: str) -> None:
        self._tell("turn_refused", instance_id, reason)

    def activity_started(self, record: ActivityRecord) -> None:
        self._tell("activity_started", record)

    def activity_ended(self, record: ActivityRecord) -> None:
        self._tell("activity_ended", record)

    def cache_changed(self, entries: int, evicted: int) -> None:
        self._tell("cache_changed", entries, evicted)

    def batch_committed(self, items: int, seconds: float) -> None:
        self._tell("batch_committed", items, seconds)

    def store_failed(self, operation: str, error: Exception) -> None:
        self._tell("store_failed", operation, error)

    def store_measured(self, metrics: SystemMetrics, depths: QueueDepths) -> None:
        self._tell("store_measured", metrics, depths)

    def instance_poisoned(self, instance_id: InstanceId, attempts: int) -> None:
        self._tell("instance_poisoned", instance_id, attempts)

    def message_dropped(self, instance_id: InstanceId, reason: str) -> None:
        self._tell("message_dropped", instance_id, reason)


def _failure_level(failure: FailureLabels) -> int:
    if failure.error_category == ApplicationKind.CANCELLED.value:
        return logging.INFO
    return logging.WARNING if failure.error_type == "app_error" else logging.ERROR


_LEVELS = {
    "success": logging.DEBUG,
    "finished": logging.DEBUG,
    "failure": logging.WARNING,
    "unregistered": logging.WARNING,
    "poisoned": logging.WARNING,
}


class LoggingObserver(Observer):
    """Standard logging, with the facts as fields of the record (`extra`)."""

    def turn_committed(self, record: TurnRecord) -> None:
        failure = record.failure
        level = logging.DEBUG if failure is None else _failure_level(failure)
        if not logger.isEnabledFor(level):
            return
        logger.log(
            level,
            "turn of %s (%s) committed: %s",
            record.instance_id,
            record.orchestration_name,
            record.status.value if failure is None else f"failed, {failure.error_category}",
            extra={
                "instance_id": record.instance_id,
                "execution_id": record.execution_id,
                "orchestration_name": record.orchestration_name,
                "orchestration_version": record.orchestration_version,
                "history_events": record.history_events,
                "attempt_count": record.attempt,
                "outcome": record.status.value,
                "error_type": None if failure is None else failure.error_type,
                "duration_ms": record.run_seconds * 1000,
            },
        )

    def turn_refused(self, instance_id: InstanceId, reason: str) -> None:
        logger.warning(
            "turn of %s not written: %s",
            instance_id,
            reason,
            extra={"instance_id": instance_id, "error": reason},
        )

    def activity_ended(self, record: ActivityRecord) -> None:
        level = _LEVELS.get(record.outcome, logging.INFO)
        if not logger.isEnabledFor(level):
            return
        logger.log(
            level,
            "activity %s#%s of %s: %s",
            record.activity_name,
            record.activity_id,
            record.instance_id,
            record.outcome,
            extra={
                "instance_id": record.instance_id,
                "execution_id": record.execution_id,
                "activity_name": record.activity_name,
                "activity_id": record.activity_id,
                "activity_tag": record.tag,
                "attempt_count": record.attempt,
                "outcome": record.outcome,
                "duration_ms": record.seconds * 1000,
            },
        )

    def store_failed(self, operation: str, error: Exception) -> None:
        logger.warning(
            "the store failed in %s, trying again: %s",
            operation,
            error,
            extra={"operation": operation, "error": str(error)},
        )

    def instance_poisoned(self, instance_id: InstanceId, attempts: int) -> None:
        logger.warning(
            "instance %s is poison after %s attempts",
            instance_id,
            attempts,
            extra={"instance_id": instance_id, "attempt_count": attempts},
        )

    def message_dropped(self, instance_id: InstanceId, reason: str) -> None:
        logger.info(
            "a message to %s was dropped: %s",
            instance_id,
            reason,
            extra={"instance_id": instance_id, "error": reason},
        )
