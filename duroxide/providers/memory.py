"""The reference store: everything in this process, nothing after it."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence

from duroxide.clock import Clock, SystemClock
from duroxide.ids import ActivityToken, ExecutionId, InstanceId, TurnToken
from duroxide.providers.base import (
    UNTAGGED,
    AbandonActivity,
    ActivityPoll,
    Capabilities,
    CommitItem,
    CommitResult,
    CommitTurn,
    Cursor,
    EagerDispatch,
    FinishActivity,
    InstanceStatus,
    Renewal,
    SessionOwner,
    TagMode,
    TagSelection,
    TurnPoll,
)
from duroxide.providers.eager import EagerChoice
from duroxide.providers.memory_admin import MemoryAdmin
from duroxide.providers.memory_store import MemoryStore
from duroxide.providers.rules import changes_what_clients_see
from duroxide.providers.wakeup import ChangeFeed, Wakeup
from duroxide.state import KeyValue
from duroxide.version import VersionRange


class MemoryProvider(MemoryAdmin):
    """A store for tests, and for work that may be lost with the process.

    It belongs to one event loop at a time: an object that several loops use at once is not safe.

    Args:
        clock: judges leases and visibility.
        new_token: makes lease tokens; each call must give another one.
        capabilities: what it admits to; a runtime takes the plain path for the rest.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        new_token: Callable[[], str] | None = None,
        capabilities: Capabilities | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._store = MemoryStore(new_token or _counted_tokens())
        self._capabilities = capabilities or Capabilities(
            history_suffix=True,
            sticky_lease=True,
            eager_dispatch=True,
            fused_completion=True,
            change_feed=True,
            next_due=True,
            heartbeats=True,
            dead_letters=True,
        )
        self._turns = Wakeup(self._clock)
        self._activities = Wakeup(self._clock)
        self._changes = ChangeFeed()
        self._turn_wakes = 0
        self._activity_wakes = 0

    @property
    def name(self) -> str:
        return "memory"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def poll_turns(
        self,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        wait_ms: int = 0,
        known: Mapping[InstanceId, Cursor] | None = None,
        held: Sequence[TurnToken] = (),
        versions: Sequence[VersionRange] | None = None,
    ) -> TurnPoll:
        deadline_ms = self._clock.now_ms() + wait_ms
        wakes = self._turn_wakes
        while True:
            now_ms = self._clock.now_ms()
            turns = self._store.lease_turns(
                now_ms,
                want=want,
                lease_ms=lease_ms,
                known=known if known is not None and self._capabilities.history_suffix else {},
                held=held,
                versions=versions,
            )
            if turns or now_ms >= deadline_ms or wakes != self._turn_wakes:
                due_ms = self._store.next_message_ms(now_ms)
                return TurnPoll(turns=tuple(turns), now_ms=now_ms, next_due_ms=due_ms)
            change_ms = self._store.next_turn_ms(now_ms)
            await self._turns.wait(min(deadline_ms, change_ms or deadline_ms))

    async def poll_activities(
        self,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        wait_ms: int = 0,
        tags: TagSelection = UNTAGGED,
        sessions: SessionOwner | None = None,
    ) -> ActivityPoll:
        deadline_ms = self._clock.now_ms() + wait_ms
        wakes = self._activity_wakes
        while True:
            now_ms = self._clock.now_ms()
            leased = (
                self._store.lease_activities(
                    now_ms, want=want, lease_ms=lease_ms, tags=tags, sessions=sessions
                )
                if tags.mode is not TagMode.NONE
                else []
            )
            change_ms = self._store.next_activity_ms(now_ms)
            if leased or now_ms >= deadline_ms or wakes != self._activity_wakes:
                return ActivityPoll(activities=tuple(leased), now_ms=now_ms, next_due_ms=change_ms)
            await self._activities.wait(min(deadline_ms, change_ms or deadline_ms))

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        now_ms = self._clock.now_ms()
        choice = None if eager is None else EagerChoice(eager)
        results = [self._store.commit(item, now_ms, choice) for item in batch]
        self._tell(batch)
        return results

    def _tell(self, batch: Sequence[CommitItem]) -> None:
        """Wake whom the batch may concern; most batches concern somebody."""
        if any(not isinstance(item, AbandonActivity) for item in batch):
            self._turns.notify()
        if any(isinstance(item, CommitTurn | FinishActivity | AbandonActivity) for item in batch):
            self._activities.notify()
        self._changes.tell(
            item.instance_id
            for item in batch
            if isinstance(item, CommitTurn) and changes_what_clients_see(item)
        )

    async def renew(
        self,
        *,
        turns: Sequence[TurnToken] = (),
        turn_lease_ms: int = 0,
        activities: Sequence[ActivityToken] = (),
        activity_lease_ms: int = 0,
    ) -> Renewal:
        now_ms, store = self._clock.now_ms(), self._store
        return Renewal(
            lost_turns=frozenset(
                token for token in turns if not store.renew_turn(token, now_ms, turn_lease_ms)
            ),
            lost_activities=frozenset(
                token
                for token in activities
                if not store.renew_activity(token, now_ms, activity_lease_ms)
            ),
            now_ms=now_ms,
        )

    async def heartbeat(self, beats: Mapping[ActivityToken, str]) -> None:
        now_ms = self._clock.now_ms()
        for token, text in beats.items():
            self._store.heartbeat(token, text, now_ms)

    async def renew_sessions(self, *, owner: str, lease_ms: int, idle_ms: int) -> int:
        return self._store.renew_sessions(owner, self._clock.now_ms(), lease_ms, idle_ms)

    async def read_status(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, InstanceStatus]:
        instances = self._store.instances
        return {i: instances[i].status() for i in instance_ids if i in instances}

    async def read_history(
        self, instance_id: InstanceId, execution_id: ExecutionId | None = None
    ) -> Sequence[str]:
        instance = self._store.instances.get(instance_id)
        if instance is None:
            return ()
        number = instance.current.execution_id if execution_id is None else execution_id
        execution = instance.executions.get(number)
        return tuple(execution.events) if execution is not None else ()

    async def read_key_values(self, instance_id: InstanceId) -> Mapping[str, KeyValue]:
        instance = self._store.instances.get(instance_id)
        return instance.live_key_values() if instance is not None else {}

    async def wait_for_change(self, instance_ids: Sequence[InstanceId], *, wait_ms: int) -> None:
        await self._changes.wait(instance_ids, wait_ms / 1000)

    def wake(self, *, turns: bool = False, activities: bool = False) -> None:
        if turns:
            self._turn_wakes += 1
            self._turns.notify()
        if activities:
            self._activity_wakes += 1
            self._activities.notify()


def _counted_tokens() -> Callable[[], str]:
    prefix = uuid.uuid4().hex[:12]
    return map("{}-{}".format, itertools.repeat(prefix), itertools.count(1)).__next__
