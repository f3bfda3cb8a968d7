"""Encrypts, compresses or checks in what is stored: a provider around a provider.

Everything that users wrote (payloads, failures, statuses, key-values, heartbeats) passes a `Seal` on
its way into the store and on its way out. The engine sees none of it, so replay compares what code
wrote, and a seal may give another text each time. What the store and its tools work with stays
readable: ids, kinds, names, versions, times, tags, sessions, keys.

What is in the store unsealed can still be read, so a seal can be introduced while instances run; and
what SQL sessions write without it (df.start, df.signal) is understood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from duroxide.ids import ActivityToken, ExecutionId, InstanceId, TurnToken
from duroxide.providers.base import (
    UNTAGGED,
    ActivityPoll,
    CallerTransactions,
    Capabilities,
    CommitCode,
    CommitItem,
    CommitResult,
    Cursor,
    DeadLetter,
    DeadLetterStore,
    EagerDispatch,
    ExecutionInfo,
    HeartbeatStore,
    InstancePage,
    InstanceQuery,
    InstanceStatus,
    Message,
    Provider,
    ProviderAdmin,
    Renewal,
    Reopening,
    SessionOwner,
    TagSelection,
    TurnPoll,
)
from duroxide.providers.seals import Seal, SealedTexts
from duroxide.providers.text import unstorable
from duroxide.state import KeyValue
from duroxide.version import VersionRange

__all__ = ["Seal", "SealedProvider"]

_PASSED_ON = frozenset({
    "list_children", "instance_tree", "delete_instances", "delete_instances_by_filter",
    "prune_executions", "prune_executions_by_filter", "suspend_instances", "resume_instances",
    "system_metrics", "queue_depths", "instance_stats", "cleanup_sessions",
    "discard_dead_letters",
})  # fmt: skip


class SealedProvider:
    """A provider whose store holds sealed texts only; pass it to runtimes and clients alike.

    Not sealed: names and other routing facts (above), and what code gives to `ctx.project()`.
    """

    def __init__(self, inner: Provider, seal: Seal) -> None:
        self.inner = inner
        self._texts = SealedTexts(seal)

    # The contract.

    @property
    def name(self) -> str:
        return f"sealed {self.inner.name}"

    @property
    def capabilities(self) -> Capabilities:
        """Those of the inner provider, all of which pass the seal."""
        can = self.inner.capabilities
        return Capabilities(
            contract_version=can.contract_version,
            history_suffix=can.history_suffix,
            sticky_lease=can.sticky_lease,
            eager_dispatch=can.eager_dispatch,
            fused_completion=can.fused_completion,
            change_feed=can.change_feed,
            next_due=can.next_due,
            commit_hook=can.commit_hook,
            caller_transaction=can.caller_transaction,
            heartbeats=can.heartbeats,
            dead_letters=can.dead_letters,
        )

    async def start(self) -> None:
        await self.inner.start()

    async def close(self) -> None:
        await self.inner.close()

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
        poll = await self.inner.poll_turns(
            worker=worker,
            want=want,
            lease_ms=lease_ms,
            wait_ms=wait_ms,
            known=known,
            held=held,
            versions=versions,
        )
        return replace(poll, turns=tuple(map(self._texts.open_turn, poll.turns)))

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
        poll = await self.inner.poll_activities(
            worker=worker,
            want=want,
            lease_ms=lease_ms,
            wait_ms=wait_ms,
            tags=tags,
            sessions=sessions,
        )
        return replace(poll, activities=tuple(map(self._texts.open_activity, poll.activities)))

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        why_not = [unstorable(item) for item in batch]  # sealed, the store could not tell any more
        sound = [
            self._texts.close_item(i) for i, why in zip(batch, why_not, strict=True) if why is None
        ]
        answers = iter(await self.inner.commit(sound, eager=eager))
        return [
            self._result(next(answers))
            if why is None
            else CommitResult(code=CommitCode.REFUSED, error=why)
            for why in why_not
        ]

    def _result(self, result: CommitResult) -> CommitResult:
        return replace(result, activities=tuple(map(self._texts.open_activity, result.activities)))

    async def renew(
        self,
        *,
        turns: Sequence[TurnToken] = (),
        turn_lease_ms: int = 0,
        activities: Sequence[ActivityToken] = (),
        activity_lease_ms: int = 0,
    ) -> Renewal:
        return await self.inner.renew(
            turns=turns,
            turn_lease_ms=turn_lease_ms,
            activities=activities,
            activity_lease_ms=activity_lease_ms,
        )

    async def renew_sessions(self, *, owner: str, lease_ms: int, idle_ms: int) -> int:
        return await self.inner.renew_sessions(owner=owner, lease_ms=lease_ms, idle_ms=idle_ms)

    async def read_status(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, InstanceStatus]:
        found = await self.inner.read_status(instance_ids)
        return {name: self._texts.open_state(state) for name, state in found.items()}

    async def read_history(
        self, instance_id: InstanceId, execution_id: ExecutionId | None = None
    ) -> Sequence[str]:
        return [
            self._texts.open(text)
            for text in await self.inner.read_history(instance_id, execution_id)
        ]

    async def read_key_values(self, instance_id: InstanceId) -> Mapping[str, KeyValue]:
        return self._texts.open_values(await self.inner.read_key_values(instance_id))

    async def wait_for_change(self, instance_ids: Sequence[InstanceId], *, wait_ms: int) -> None:
        await self.inner.wait_for_change(instance_ids, wait_ms=wait_ms)

    def wake(self, *, turns: bool = False, activities: bool = False) -> None:
        self.inner.wake(turns=turns, activities=activities)

    async def heartbeat(self, beats: Mapping[ActivityToken, str]) -> None:
        store: HeartbeatStore = self.inner  # type: ignore[assignment]  # the capability says so
        await store.heartbeat({token: self._texts.close(text) for token, text in beats.items()})

    async def list_dead_letters(
        self, *, instance_id: InstanceId | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        store: DeadLetterStore = self.inner  # type: ignore[assignment]  # likewise
        letters = await store.list_dead_letters(instance_id=instance_id, after=after, limit=limit)
        return [replace(letter, body=self._texts.open_or_leave(letter.body)) for letter in letters]

    async def requeue(self, instance_id: InstanceId, reopening: Reopening | None = None) -> int:
        store: DeadLetterStore = self.inner  # type: ignore[assignment]  # likewise
        if reopening is not None:
            reopening = replace(
                reopening,
                activities=tuple(map(self._texts.close_activity, reopening.activities)),
                messages=tuple(map(self._texts.close_message, reopening.messages)),
            )
        return await store.requeue(instance_id, reopening)

    def send_within(self, connection: Any, messages: Sequence[Message]) -> None:
        store: CallerTransactions = self.inner  # type: ignore[assignment]  # likewise
        store.send_within(connection, tuple(map(self._texts.close_message, messages)))

    async def send_within_async(self, connection: Any, messages: Sequence[Message]) -> None:
        store: CallerTransactions = self.inner  # type: ignore[assignment]  # likewise
        await store.send_within_async(connection, tuple(map(self._texts.close_message, messages)))

    # Management.

    @property
    def _admin(self) -> ProviderAdmin:
        return self.inner  # type: ignore[return-value]  # if it is not, it lacks the method asked for

    async def list_instances(
        self, *, status: str | None = None, limit: int | None = None
    ) -> Sequence[InstanceStatus]:
        return [
            self._texts.open_state(s)
            for s in await self._admin.list_instances(status=status, limit=limit)
        ]

    async def list_page(
        self, which: InstanceQuery, *, limit: int, cursor: str | None = None
    ) -> InstancePage:
        page = await self._admin.list_page(which, limit=limit, cursor=cursor)
        return replace(page, instances=tuple(map(self._texts.open_state, page.instances)))

    async def list_executions(self, instance_id: InstanceId) -> Sequence[ExecutionInfo]:
        found = await self._admin.list_executions(instance_id)
        return [replace(e, output=self._texts.open_optional(e.output)) for e in found]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Management that touches no text. Whatever else the inner provider has would pass the seal by."""
        if name in _PASSED_ON:
            found: Callable[..., Any] = getattr(self.inner, name)
            return found
        raise AttributeError(
            f"{type(self).__name__} has no {name!r}; if the provider inside has it, it does not pass "
            "the seal"
        )
