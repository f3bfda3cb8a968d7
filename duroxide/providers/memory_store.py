"""The rules of the storage contract on plain Python objects, without any waiting.

This is the model that other stores are compared with: obvious before fast. Every method takes the
time as an argument and is atomic because nothing else runs meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from duroxide.ids import ActivityToken, ExecutionId, InstanceId, MessageId, TurnToken
from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    Activity,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    Cursor,
    DeadLetter,
    Enqueue,
    FinishActivity,
    InstanceStatus,
    LeasedActivity,
    LeasedTurn,
    Message,
    MessageKind,
    ReceivedMessage,
    Reopening,
    SessionOwner,
    Suspension,
    TagSelection,
)
from duroxide.providers.eager import EagerChoice
from duroxide.providers.rules import (
    APPLIED,
    HISTORY_CONFLICT,
    LEASE_LOST,
    REPEATED,
    UNDESCRIBED,
    Position,
    SessionClaims,
    fingerprint,
    history_fits,
    is_run_by,
    is_undescribed,
    known_events,
)
from duroxide.providers.text import unstorable
from duroxide.state import (
    ClearKeyValue,
    ClearKeyValues,
    ExecutionStatus,
    KeyValue,
    KeyValueChange,
    SetKeyValue,
)
from duroxide.version import SemVer, VersionRange


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


class MemoryStore:
    """The tables, and what each call does to them."""

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

    # Polling.

    def lease_turns(
        self,
        now_ms: int,
        *,
        want: int,
        lease_ms: int,
        known: Mapping[InstanceId, Cursor],
        held: Sequence[TurnToken],
        versions: Sequence[VersionRange] | None,
    ) -> list[LeasedTurn]:
        turns: list[LeasedTurn] = []
        for token in dict.fromkeys(held):
            instance_id = self._leased_to.get(token, "")
            lease = self.leases.get(instance_id)
            if len(turns) < want and lease is not None and now_ms < lease.expires_at_ms:
                fresh = [
                    queued
                    for queued in self._visible(instance_id, now_ms)
                    if queued.message_id not in lease.message_ids
                ]
                if fresh:
                    turns.append(self._deliver(instance_id, lease, fresh, known, now_ms))
        self._resume_what_is_cancelled(now_ms)
        for instance_id in self._candidates(now_ms, versions)[: want - len(turns)]:
            lease = TurnLease(TurnToken(self._new_token()), now_ms + lease_ms)
            self._hold(instance_id, lease)
            visible = self._visible(instance_id, now_ms)
            turns.append(self._deliver(instance_id, lease, visible, known, now_ms))
        return turns

    def _hold(self, instance_id: InstanceId, lease: TurnLease) -> None:
        self.release(instance_id)
        self.leases[instance_id] = lease
        self._leased_to[lease.token] = instance_id

    def release(self, instance_id: InstanceId) -> None:
        lease = self.leases.pop(instance_id, None)
        if lease is not None:
            self._leased_to.pop(lease.token, None)

    def _visible(self, instance_id: InstanceId, now_ms: int) -> list[QueuedMessage]:
        queue = self.messages.get(instance_id, {})
        return [queued for queued in queue.values() if queued.visible_at_ms <= now_ms]

    def is_turn_leased(self, instance_id: InstanceId, now_ms: int) -> bool:
        lease = self.leases.get(instance_id)
        return lease is not None and now_ms < lease.expires_at_ms

    def _candidates(self, now_ms: int, versions: Sequence[VersionRange] | None) -> list[InstanceId]:
        """Free instances with something to do, the one that waits longest first."""
        since: list[tuple[int, int, InstanceId]] = []
        for instance_id in self.messages:
            visible = self._visible(instance_id, now_ms)
            if not visible or self.is_turn_leased(instance_id, now_ms):
                continue
            if self.is_suspended(instance_id):
                continue
            instance = self.instances.get(instance_id)
            engine_version = instance.current.engine_version if instance is not None else None
            if versions is not None and not is_run_by(engine_version, versions):
                continue
            visible_at_ms, message_id = min((q.visible_at_ms, q.message_id) for q in visible)
            since.append((visible_at_ms, message_id, instance_id))
        return [instance_id for _, _, instance_id in sorted(since)]

    def _deliver(
        self,
        instance_id: InstanceId,
        lease: TurnLease,
        queued: Sequence[QueuedMessage],
        known: Mapping[InstanceId, Cursor],
        now_ms: int,
    ) -> LeasedTurn:
        for message in queued:
            message.attempt_count += 1
            lease.message_ids.add(message.message_id)
        received = tuple(
            ReceivedMessage(message_id=q.message_id, kind=q.message.kind, body=q.message.body)
            for q in queued
        )
        attempt_count = max(q.attempt_count for q in queued)
        waited_ms = max(now_ms - min(q.visible_at_ms for q in queued), 0)
        instance = self.instances.get(instance_id)
        if instance is None:
            return LeasedTurn(
                instance_id=instance_id,
                token=lease.token,
                expires_at_ms=lease.expires_at_ms,
                execution_id=1,
                next_event_id=1,
                attempt_count=attempt_count,
                messages=received,
                history=(),
                incarnation=lease.token,
                waited_ms=waited_ms,
            )
        current = instance.current
        history_after = known_events(
            instance.position, instance.incarnation, known.get(instance_id)
        )
        return LeasedTurn(
            instance_id=instance_id,
            token=lease.token,
            expires_at_ms=lease.expires_at_ms,
            execution_id=current.execution_id,
            next_event_id=len(current.events) + 1,
            attempt_count=attempt_count,
            messages=received,
            history=tuple(current.events[history_after:]),
            history_after=history_after,
            status=current.status,
            name=instance.name,
            version=instance.version,
            parent_instance_id=instance.parent_instance_id,
            key_values=dict(instance.key_values),
            incarnation=instance.incarnation,
            waited_ms=waited_ms,
        )

    def lease_activities(
        self,
        now_ms: int,
        *,
        want: int,
        lease_ms: int,
        tags: TagSelection,
        sessions: SessionOwner | None,
    ) -> list[LeasedActivity]:
        leased: list[LeasedActivity] = []
        claims = SessionClaims(sessions, now_ms)
        for queued in self.activities.values():
            if len(leased) == want:
                break
            if queued.visible_at_ms > now_ms or queued.is_leased(now_ms):
                continue
            if not tags.accepts(queued.activity.tag):
                continue
            session_id = queued.activity.session_id
            if session_id is not None:
                session = self.sessions.get(session_id)
                holder = (session.owner, session.expires_at_ms) if session else (None, None)
                if not claims.may_take(session_id, *holder):
                    continue
            leased.append(self._lease_activity(queued, now_ms, lease_ms))
        if sessions is not None:
            for session_id in claims.taken:
                self.sessions[session_id] = Session(
                    sessions.owner, now_ms + sessions.lease_ms, now_ms
                )
        return leased

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

    # Suspending.

    def suspend(self, instance_id: InstanceId, now_ms: int) -> Suspension:
        instance = self.instances.get(instance_id)
        if instance is None:
            return Suspension.UNKNOWN
        if instance.current.status.is_terminal:
            return Suspension.ENDED
        if instance.suspended_at_ms is not None:
            return Suspension.UNCHANGED
        instance.suspended_at_ms = now_ms
        lease = self.leases.get(instance_id)
        queue = self.messages.get(instance_id, {})
        for message_id in lease.message_ids & queue.keys() if lease is not None else ():
            queue[message_id].attempt_count -= 1
        self.release(instance_id)
        return Suspension.CHANGED

    def resume(self, instance_id: InstanceId) -> Suspension:
        instance = self.instances.get(instance_id)
        if instance is None:
            return Suspension.UNKNOWN
        if instance.suspended_at_ms is None:
            return Suspension.UNCHANGED
        instance.suspended_at_ms = None
        return Suspension.CHANGED

    def is_suspended(self, instance_id: InstanceId) -> bool:
        instance = self.instances.get(instance_id)
        return instance is not None and instance.suspended_at_ms is not None

    def _resume_what_is_cancelled(self, now_ms: int) -> None:
        for instance_id in filter(self.is_suspended, self.messages):
            visible = self._visible(instance_id, now_ms)
            if any(queued.message.kind is MessageKind.CANCEL for queued in visible):
                self.resume(instance_id)

    # Leases.

    def renew_turn(self, token: TurnToken, now_ms: int, lease_ms: int) -> bool:
        lease = self.leases.get(self._leased_to.get(token, ""))
        if lease is None or lease.token != token or lease.expires_at_ms <= now_ms:
            return False
        lease.expires_at_ms = now_ms + lease_ms
        return True

    def renew_activity(self, token: ActivityToken, now_ms: int, lease_ms: int) -> bool:
        queued = self._leased_activity(token, now_ms)
        if queued is None:
            return False
        queued.expires_at_ms = now_ms + lease_ms
        self._touch_session(queued.activity.session_id, now_ms)
        return True

    def heartbeat(self, token: ActivityToken, text: str, now_ms: int) -> None:
        queued = self._leased_activity(token, now_ms)
        if queued is not None:
            queued.heartbeat = text

    def renew_sessions(self, owner: str, now_ms: int, lease_ms: int, idle_ms: int) -> int:
        renewed = 0
        for session in self.sessions.values():
            is_live = session.owner == owner and now_ms < session.expires_at_ms
            if is_live and now_ms - session.last_activity_ms < idle_ms:
                session.expires_at_ms = now_ms + lease_ms
                renewed += 1
        return renewed

    def _touch_session(self, session_id: str | None, now_ms: int) -> None:
        session = self.sessions.get(session_id) if session_id is not None else None
        if session is not None and now_ms < session.expires_at_ms:
            session.last_activity_ms = now_ms

    def _leased_activity(self, token: ActivityToken, now_ms: int) -> QueuedActivity | None:
        queued = self._leased.get(token)
        if queued is None or queued.token != token or queued.number not in self.activities:
            return None
        return queued if queued.is_leased(now_ms) else None

    def _drop_activity(self, queued: QueuedActivity) -> None:
        self.activities.pop(queued.number, None)
        if queued.token is not None:
            self._leased.pop(queued.token, None)

    # Committing. Each method looks at everything first and only then writes.

    def commit(self, item: CommitItem, now_ms: int, eager: EagerChoice | None) -> CommitResult:
        error = unstorable(item)
        if error is not None:
            return CommitResult(code=CommitCode.REFUSED, error=error)
        match item:
            case CommitTurn():
                return self._commit_turn(item, now_ms, eager)
            case FinishActivity():
                return self._finish_activity(item, now_ms)
            case AbandonTurn():
                return self._abandon_turn(item, now_ms)
            case AbandonActivity():
                return self._abandon_activity(item, now_ms)
            case Enqueue():
                self._enqueue(item.message, now_ms)
                return APPLIED

    def _commit_turn(
        self, turn: CommitTurn, now_ms: int, eager: EagerChoice | None
    ) -> CommitResult:
        instance = self.instances.get(turn.instance_id)
        if instance is not None and instance.last_turn == fingerprint(turn):
            return REPEATED
        lease = self.leases.get(turn.instance_id)
        if lease is None or lease.token != turn.token or lease.expires_at_ms <= now_ms:
            return LEASE_LOST
        finished = [self._leased_activity(token, now_ms) for token in turn.finished]
        if any(f is None or f.activity.instance_id != turn.instance_id for f in finished):
            return LEASE_LOST
        if not history_fits(instance.position if instance is not None else None, turn):
            return HISTORY_CONFLICT
        if is_undescribed(turn):
            return UNDESCRIBED
        if turn.new_execution is not None:
            instance = self._begin(turn, now_ms)
        if instance is not None:
            self._write_state(instance, turn, now_ms)
        if turn.bury is not None:
            self._bury(turn, turn.bury, now_ms)
        for message_id in turn.consumed:
            self._drop_message(turn.instance_id, message_id)
        for queued in finished:
            if queued is not None:
                self._drop_activity(queued)
                self._touch_session(queued.activity.session_id, now_ms)
        added = self._add_activities(turn, now_ms)
        for message in turn.messages:
            self._enqueue(message, now_ms)
        self._cancel_timers(turn)
        if turn.keep_lease_ms is None:
            self.release(turn.instance_id)
        else:
            lease.expires_at_ms = now_ms + turn.keep_lease_ms
        return CommitResult(
            code=CommitCode.APPLIED, activities=self._dispatch(added, now_ms, eager)
        )

    def _begin(self, turn: CommitTurn, now_ms: int) -> Instance:
        new = turn.new_execution
        assert new is not None
        instance = self.instances.get(turn.instance_id)
        if instance is None:
            instance = Instance(turn.instance_id, new.name, new.version, now_ms, now_ms)
            instance.incarnation = turn.token
            self.instances[turn.instance_id] = instance
        instance.name, instance.version = new.name, new.version
        if instance.parent_instance_id is None:
            instance.parent_instance_id = new.parent_instance_id
        execution = instance.executions.setdefault(
            turn.execution_id, Execution(turn.execution_id, new.engine_version, now_ms)
        )
        execution.engine_version = new.engine_version
        return instance

    def _write_state(self, instance: Instance, turn: CommitTurn, now_ms: int) -> None:
        instance.last_turn = fingerprint(turn)
        instance.updated_at_ms = now_ms
        execution = instance.current
        execution.events.extend(turn.events)
        if turn.custom_status is not None:
            instance.custom_status = turn.custom_status.status
            instance.custom_status_version += 1
        for change in turn.key_values:
            instance.apply_key_value(change)
        if execution.status is ExecutionStatus.RUNNING and turn.status is not execution.status:
            execution.status = turn.status
            execution.output = turn.output
            execution.completed_at_ms = now_ms
            if turn.bury is None:  # else it may be reopened
                instance.key_values = instance.live_key_values()
                instance.changed_key_values = {}

    def _add_activities(self, turn: CommitTurn, now_ms: int) -> list[QueuedActivity]:
        added = []
        for activity in turn.activities:
            queued = QueuedActivity(self._number(), activity, now_ms)
            self.activities[queued.number] = queued
            added.append(queued)
        if turn.cancelled_activities:
            self._cancel_activities(turn)
        return [queued for queued in added if queued.number in self.activities]

    def _cancel_activities(self, turn: CommitTurn) -> None:
        for queued in tuple(self.activities.values()):
            activity = queued.activity
            if (
                activity.instance_id == turn.instance_id
                and activity.execution_id == turn.execution_id
                and activity.activity_id in turn.cancelled_activities
            ):
                self._drop_activity(queued)

    def _dispatch(
        self, added: Sequence[QueuedActivity], now_ms: int, eager: EagerChoice | None
    ) -> tuple[LeasedActivity, ...]:
        if eager is None:
            return ()
        return tuple(
            self._lease_activity(queued, now_ms, eager.offer.lease_ms)
            for queued in added
            if eager.takes(queued.activity)
        )

    def _cancel_timers(self, turn: CommitTurn) -> None:
        cancelled = {(turn.execution_id, event_id) for event_id in turn.cancelled_timers}
        for queued in tuple(self.messages.get(turn.instance_id, {}).values()):
            if queued.message.timer in cancelled:
                self._drop_message(turn.instance_id, queued.message_id)

    def _finish_activity(self, item: FinishActivity, now_ms: int) -> CommitResult:
        queued = self._leased_activity(item.token, now_ms)
        if queued is None:
            return LEASE_LOST
        self._drop_activity(queued)
        self._touch_session(queued.activity.session_id, now_ms)
        if item.completion is not None:
            self._enqueue(item.completion, now_ms)
        return APPLIED

    def _abandon_turn(self, item: AbandonTurn, now_ms: int) -> CommitResult:
        lease = self.leases.get(item.instance_id)
        if lease is None or lease.token != item.token or lease.expires_at_ms <= now_ms:
            return LEASE_LOST
        queue = self.messages.get(item.instance_id, {})
        for message_id in lease.message_ids & queue.keys():
            queued = queue[message_id]
            if item.delay_ms > 0:
                queued.visible_at_ms = now_ms + item.delay_ms
            if not item.count_attempt:
                queued.attempt_count = max(0, queued.attempt_count - 1)
        self.release(item.instance_id)
        return APPLIED

    def _abandon_activity(self, item: AbandonActivity, now_ms: int) -> CommitResult:
        queued = self._leased_activity(item.token, now_ms)
        if queued is None:
            return LEASE_LOST
        self._leased.pop(item.token, None)
        queued.token = None
        queued.expires_at_ms = 0
        queued.visible_at_ms = now_ms + max(item.delay_ms, 0)
        if not item.count_attempt:
            queued.attempt_count = max(0, queued.attempt_count - 1)
        return APPLIED

    def _enqueue(self, message: Message, now_ms: int) -> None:
        visible_at_ms = now_ms if message.visible_at_ms is None else message.visible_at_ms
        queued = QueuedMessage(self._number(), message, visible_at_ms)
        self.messages.setdefault(message.instance_id, {})[queued.message_id] = queued

    def _drop_message(self, instance_id: InstanceId, message_id: MessageId) -> None:
        queue = self.messages.get(instance_id, {})
        queue.pop(message_id, None)
        if not queue:
            self.messages.pop(instance_id, None)

    def _number(self) -> int:
        self._last_number += 1
        return self._last_number

    # Dead letters.

    def _bury(self, turn: CommitTurn, reason: str, now_ms: int) -> None:
        queue = self.messages.get(turn.instance_id, {})
        for message_id in turn.consumed:
            queued = queue.get(message_id)
            if queued is not None:
                letter = DeadLetter(
                    letter_id=self._number(),
                    instance_id=turn.instance_id,
                    kind=queued.message.kind,
                    body=queued.message.body,
                    reason=reason,
                    attempt_count=queued.attempt_count,
                    buried_at_ms=now_ms,
                )
                self.letters[letter.letter_id] = (letter, queued.message)

    def dead_letters(self, instance_id: InstanceId | None) -> list[DeadLetter]:
        return [
            letter
            for letter, _ in self.letters.values()
            if instance_id is None or letter.instance_id == instance_id
        ]

    def requeue(self, instance_id: InstanceId, reopening: Reopening | None, now_ms: int) -> int:
        """How many letters were put back; -1: the instance can't be reopened like that."""
        if reopening is not None and not self._reopen(instance_id, reopening, now_ms):
            return -1
        letters = self.dead_letters(instance_id)
        for letter in letters:
            _, message = self.letters.pop(letter.letter_id)
            self._enqueue(replace(message, visible_at_ms=None), now_ms)
        if reopening is not None:
            for sent in reopening.messages:
                self._enqueue(sent, now_ms)
        return len(letters)

    def _reopen(self, instance_id: InstanceId, reopening: Reopening, now_ms: int) -> bool:
        instance = self.instances.get(instance_id)
        if instance is None:
            return False
        expected = Position(reopening.execution_id, reopening.event_count, ExecutionStatus.FAILED)
        if instance.position != expected:
            return False
        current = instance.current
        self.release(instance_id)
        instance.updated_at_ms, instance.last_turn = now_ms, None
        if reopening.keep_events:
            del current.events[reopening.keep_events :]
            current.status = ExecutionStatus.RUNNING
            current.output = current.completed_at_ms = None
        else:
            del instance.executions[current.execution_id]
            if not instance.executions:
                del self.instances[instance_id]
        for activity in reopening.activities:
            queued = QueuedActivity(self._number(), activity, now_ms)
            self.activities[queued.number] = queued
        return True

    # When a waiting poll should look again.

    def next_message_ms(self, now_ms: int) -> int | None:
        """When the next message becomes visible."""
        return min((t for t in self._message_times() if t > now_ms), default=None)

    def next_turn_ms(self, now_ms: int) -> int | None:
        """When, without anybody doing anything, the next turn may be there to be leased."""
        times = [*self._message_times(), *(lease.expires_at_ms for lease in self.leases.values())]
        return min((t for t in times if t > now_ms), default=None)

    def _message_times(self) -> Iterator[int]:
        for queue in self.messages.values():
            for queued in queue.values():
                yield queued.visible_at_ms

    def next_activity_ms(self, now_ms: int) -> int | None:
        """When, without anybody doing anything, the next activity may be there to be leased."""
        times = [session.expires_at_ms for session in self.sessions.values()]
        for queued in self.activities.values():
            times += [queued.visible_at_ms, queued.expires_at_ms]
        return min((t for t in times if t > now_ms), default=None)
