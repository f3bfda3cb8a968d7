"""Giving out work under leases, and taking note of who still has it, in the reference store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from duroxide.ids import ActivityToken, InstanceId, TurnToken
from duroxide.providers.base import (
    Cursor,
    LeasedActivity,
    LeasedTurn,
    MessageKind,
    ReceivedMessage,
    SessionOwner,
    Suspension,
    TagSelection,
)
from duroxide.providers.memory_tables import MemoryTables, QueuedMessage, Session, TurnLease
from duroxide.providers.rules import SessionClaims, is_run_by, known_events
from duroxide.version import VersionRange


class MemoryLeasing(MemoryTables):
    """Polling, leases and suspension."""

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
