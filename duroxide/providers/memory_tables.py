"""What the reference store keeps: its tables, and the steps that everything done to them consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from duroxide.ids import ActivityToken, ExecutionId, InstanceId, MessageId, TurnToken
from duroxide.providers.base import Activity, DeadLetter, InstanceStatus, LeasedActivity, Message
from duroxide.providers.rules import Position
from duroxide.state import (
    ClearKeyValue,
    ClearKeyValues,
    ExecutionStatus,
    KeyValue,
    KeyValueChange,
    SetKeyValue,
)
from duroxide.version import SemVer


@dataclass(slots=True)
class QueuedMessage:
    message_id: MessageId
    message: Message
    visible_at_ms: int
    attempt_count: int = 0


@dataclass(slots=True)
class QueuedActivity:
    number: int  # order of arrival
    activity: Activity
    visible_at_ms: int
    attempt_count: int = 0
    token: ActivityToken | None = None
    expires_at_ms: int = 0
    heartbeat: str | None = None

    def is_leased(self, now_ms: int) -> bool:
        return self.token is not None and now_ms < self.expires_at_ms


@dataclass(slots=True)
class TurnLease:
    token: TurnToken
    expires_at_ms: int
    message_ids: set[MessageId] = field(default_factory=set)


@dataclass(slots=True)
class Session:
    owner: str
    expires_at_ms: int
    last_activity_ms: int


@dataclass(slots=True)
class Execution:
    execution_id: ExecutionId
    engine_version: SemVer
    started_at_ms: int
    status: ExecutionStatus = ExecutionStatus.RUNNING
    output: str | None = None
    completed_at_ms: int | None = None
    events: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Instance:
    instance_id: InstanceId
    name: str
    version: str
    created_at_ms: int
    updated_at_ms: int
    parent_instance_id: InstanceId | None = None
    executions: dict[ExecutionId, Execution] = field(default_factory=dict)
    custom_status: str | None = None
    custom_status_version: int = 0
    key_values: dict[str, KeyValue] = field(default_factory=dict)  # as the execution began
    changed_key_values: dict[str, KeyValue | None] = field(default_factory=dict)  # None: cleared
    last_turn: str | None = None  # what makes a repeated commit recognisable
    suspended_at_ms: int | None = None
    incarnation: str = ""  # the lease of its first turn

    @property
    def current(self) -> Execution:
        return self.executions[max(self.executions)]

    @property
    def position(self) -> Position:
        current = self.current
        return Position(current.execution_id, len(current.events), current.status)

    def live_key_values(self) -> dict[str, KeyValue]:
        merged: dict[str, KeyValue | None] = {**self.key_values, **self.changed_key_values}
        return {key: value for key, value in merged.items() if value is not None}

    def apply_key_value(self, change: KeyValueChange) -> None:
        match change:
            case SetKeyValue(key=key, value=value, updated_at_ms=updated_at_ms):
                self.changed_key_values[key] = KeyValue(value=value, updated_at_ms=updated_at_ms)
            case ClearKeyValue(key=key):
                self.changed_key_values[key] = None
            case ClearKeyValues():
                for key in (*self.key_values, *self.changed_key_values):
                    self.changed_key_values[key] = None

    def status(self) -> InstanceStatus:
        current = self.current
        return InstanceStatus(
            instance_id=self.instance_id,
            execution_id=current.execution_id,
            name=self.name,
            version=self.version,
            status=current.status,
            output=current.output,
            custom_status=self.custom_status,
            custom_status_version=self.custom_status_version,
            created_at_ms=self.created_at_ms,
            updated_at_ms=self.updated_at_ms,
            completed_at_ms=current.completed_at_ms,
            parent_instance_id=self.parent_instance_id,
            suspended_at_ms=self.suspended_at_ms,
        )


class MemoryTables:
    """All tables."""

    def __init__(self, new_token: Callable[[], str]) -> None:
        self._new_token = new_token
        self._last_number = 0
        self.instances: dict[InstanceId, Instance] = {}
        self.messages: dict[InstanceId, dict[MessageId, QueuedMessage]] = {}
        self.leases: dict[InstanceId, TurnLease] = {}
        self._leased_to: dict[TurnToken, InstanceId] = {}
        self.activities: dict[int, QueuedActivity] = {}
        self._leased: dict[ActivityToken, QueuedActivity] = {}  # live, expired or gone
        self.sessions: dict[str, Session] = {}
        self.letters: dict[int, tuple[DeadLetter, Message]] = {}

    # Messages.

    def _enqueue(self, message: Message, now_ms: int) -> None:
        visible_at_ms = now_ms if message.visible_at_ms is None else message.visible_at_ms
        queued = QueuedMessage(self._number(), message, visible_at_ms)
        self.messages.setdefault(message.instance_id, {})[queued.message_id] = queued

    def _visible(self, instance_id: InstanceId, now_ms: int) -> list[QueuedMessage]:
        queue = self.messages.get(instance_id, {})
        return [queued for queued in queue.values() if queued.visible_at_ms <= now_ms]

    def _drop_message(self, instance_id: InstanceId, message_id: MessageId) -> None:
        queue = self.messages.get(instance_id, {})
        queue.pop(message_id, None)
        if not queue:
            self.messages.pop(instance_id, None)

    # Leases of instances.

    def _hold(self, instance_id: InstanceId, lease: TurnLease) -> None:
        self.release(instance_id)
        self.leases[instance_id] = lease
        self._leased_to[lease.token] = instance_id

    def release(self, instance_id: InstanceId) -> None:
        lease = self.leases.pop(instance_id, None)
        if lease is not None:
            self._leased_to.pop(lease.token, None)

    def is_turn_leased(self, instance_id: InstanceId, now_ms: int) -> bool:
        lease = self.leases.get(instance_id)
        return lease is not None and now_ms < lease.expires_at_ms

    def is_suspended(self, instance_id: InstanceId) -> bool:
        instance = self.instances.get(instance_id)
        return instance is not None and instance.suspended_at_ms is not None

    # Activities and their sessions.

    def _lease_activity(self, queued: QueuedActivity, now_ms: int, lease_ms: int) -> LeasedActivity:
        if queued.token is not None:
            self._leased.pop(queued.token, None)
        queued.token = ActivityToken(self._new_token())
        self._leased[queued.token] = queued
        queued.expires_at_ms = now_ms + lease_ms
        queued.attempt_count += 1
        activity = queued.activity
        return LeasedActivity(
            instance_id=activity.instance_id,
            execution_id=activity.execution_id,
            activity_id=activity.activity_id,
            token=queued.token,
            expires_at_ms=queued.expires_at_ms,
            attempt_count=queued.attempt_count,
            body=activity.body,
            tag=activity.tag,
            session_id=activity.session_id,
            heartbeat=queued.heartbeat,
            waited_ms=max(now_ms - queued.visible_at_ms, 0),
        )

    def _leased_activity(self, token: ActivityToken, now_ms: int) -> QueuedActivity | None:
        queued = self._leased.get(token)
        if queued is None or queued.token != token or queued.number not in self.activities:
            return None
        return queued if queued.is_leased(now_ms) else None

    def _drop_activity(self, queued: QueuedActivity) -> None:
        self.activities.pop(queued.number, None)
        if queued.token is not None:
            self._leased.pop(queued.token, None)

    def _touch_session(self, session_id: str | None, now_ms: int) -> None:
        session = self.sessions.get(session_id) if session_id is not None else None
        if session is not None and now_ms < session.expires_at_ms:
            session.last_activity_ms = now_ms

    def _number(self) -> int:
        self._last_number += 1
        return self._last_number
