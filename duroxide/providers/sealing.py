"""Encrypts, compresses or checks in what is stored: a provider around a provider.

Everything that users wrote (payloads, failures, statuses, key-values, heartbeats) passes a `Seal` on
its way into the store and on its way out. The engine sees none of it, so replay compares what code
wrote, and a seal may give another text each time. What the store and its tools work with stays
readable: ids, kinds, names, versions, times, tags, sessions, keys.

What is in the store unsealed can still be read, so a seal can be introduced while instances run; and
what SQL sessions write without it (df.start, df.signal) is understood.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from duroxide.errors import CodecError
from duroxide.ids import ActivityToken, ExecutionId, InstanceId, TurnToken
from duroxide.providers.base import (
    UNTAGGED,
    Activity,
    ActivityPoll,
    CallerTransactions,
    Capabilities,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    Cursor,
    DeadLetter,
    DeadLetterStore,
    EagerDispatch,
    Enqueue,
    ExecutionInfo,
    FinishActivity,
    HeartbeatStore,
    InstancePage,
    InstanceQuery,
    InstanceStatus,
    LeasedActivity,
    LeasedTurn,
    Message,
    Provider,
    ProviderAdmin,
    Renewal,
    Reopening,
    SessionOwner,
    TagSelection,
    TurnPoll,
)
from duroxide.providers.text import unstorable
from duroxide.state import KeyValue, KeyValueChange, SetCustomStatus, SetKeyValue
from duroxide.version import VersionRange

_CLEAR = (
    "event_id", "source_event_id", "instance_id", "execution_id", "timestamp_ms", "duroxide_version",
    "type", "name", "version", "instance", "key", "fire_at_ms", "delay_ms", "tag", "session_id",
)  # fmt: skip
_SEALED = "sealed"
_MARK = '{"sealed":"'

_PASSED_ON = frozenset({
    "list_children", "instance_tree", "delete_instances", "delete_instances_by_filter",
    "prune_executions", "prune_executions_by_filter", "suspend_instances", "resume_instances",
    "system_metrics", "queue_depths", "instance_stats", "cleanup_sessions",
    "discard_dead_letters",
})  # fmt: skip


class Seal(Protocol):
    """What is done to texts on their way into the store, and undone on their way out.

    It runs on the event loop, for every event and message: it must be quick and do no I/O. The same
    seal, or one that opens what the other sealed, belongs in every worker and client of a store.
    """

    def seal(self, data: bytes) -> bytes:
        """Encrypt, compress or both; may give something else each time."""
        ...

    def open(self, data: bytes) -> bytes:
        """The bytes that were sealed.

        Raises:
            Exception: they can't be had (another key, damage). What needs them waits and is tried
                again, as anything that can't be read.
        """
        ...


class SealedProvider:
    """A provider whose store holds sealed texts only; pass it to runtimes and clients alike.

    Not sealed: names and other routing facts (above), and what code gives to `ctx.project()`.
    """

    def __init__(self, inner: Provider, seal: Seal) -> None:
        self.inner = inner
        self._seal = seal

    # One text.

    def _close(self, text: str) -> str:
        sealed = base64.b64encode(self._seal.seal(text.encode())).decode("ascii")
        return f'{_MARK}{sealed}"}}'

    def _open(self, text: str) -> str:
        """The text itself; one that was never sealed is returned as it is.

        Raises:
            CodecError: the seal can't open it.
        """
        if _SEALED not in text or not text.startswith("{"):
            return text
        try:
            sealed = json.loads(text).get(_SEALED)
        except ValueError:
            return text
        if not isinstance(sealed, str):
            return text
        try:
            return self._seal.open(base64.b64decode(sealed, validate=True)).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise CodecError(f"a sealed text is damaged: {error}") from error
        except Exception as error:
            raise CodecError(
                f"a sealed text can't be opened ({type(error).__name__}): does this process have the "
                "seal that it was written with?"
            ) from error

    def _close_optional(self, text: str | None) -> str | None:
        return None if text is None else self._close(text)

    def _open_optional(self, text: str | None) -> str | None:
        return None if text is None else self._open(text)

    def _open_or_leave(self, text: str) -> str:
        """Who reads it is told that it can't be read, and nobody else is disturbed."""
        try:
            return self._open(text)
        except CodecError:
            return text

    def _close_event(self, text: str) -> str:
        """The whole event sealed, with what tools look at beside it."""
        event = json.loads(text)
        clear = {name: event[name] for name in _CLEAR if name in event}
        sealed = base64.b64encode(self._seal.seal(text.encode())).decode("ascii")
        return json.dumps({**clear, _SEALED: sealed}, ensure_ascii=False, separators=(",", ":"))

    # What goes in.

    def _message(self, message: Message) -> Message:
        return replace(message, body=self._close(message.body))

    def _activity(self, activity: Activity) -> Activity:
        return replace(activity, body=self._close(activity.body))

    def _item(self, item: CommitItem) -> CommitItem:
        match item:
            case CommitTurn():
                return self._turn(item)
            case FinishActivity(completion=Message() as completion):
                return replace(item, completion=self._message(completion))
            case Enqueue(message=message):
                return replace(item, message=self._message(message))
            case _:
                return item

    def _turn(self, turn: CommitTurn) -> CommitTurn:
        status = turn.custom_status
        if status is not None:
            status = SetCustomStatus(status=self._close_optional(status.status))
        return replace(
            turn,
            events=tuple(map(self._close_event, turn.events)),
            output=self._close_optional(turn.output),
            activities=tuple(map(self._activity, turn.activities)),
            messages=tuple(map(self._message, turn.messages)),
            custom_status=status,
            key_values=tuple(map(self._change, turn.key_values)),
        )

    def _change(self, change: KeyValueChange) -> KeyValueChange:
        if isinstance(change, SetKeyValue):
            return replace(change, value=self._close(change.value))
        return change

    # What comes out.

    def _opened_turn(self, turn: LeasedTurn) -> LeasedTurn:
        messages = tuple(replace(m, body=self._open_or_leave(m.body)) for m in turn.messages)
        try:
            history = tuple(map(self._open, turn.history))
            key_values = self._values(turn.key_values)
        except CodecError as error:
            return replace(turn, messages=messages, history=(), history_error=str(error))
        return replace(turn, messages=messages, history=history, key_values=key_values)

    def _opened_activity(self, activity: LeasedActivity) -> LeasedActivity:
        heartbeat = activity.heartbeat
        return replace(
            activity,
            body=self._open_or_leave(activity.body),
            heartbeat=None if heartbeat is None else self._open_or_leave(heartbeat),
        )

    def _values(self, values: Mapping[str, KeyValue]) -> dict[str, KeyValue]:
        return {k: replace(v, value=self._open(v.value)) for k, v in values.items()}

    def _state(self, state: InstanceStatus) -> InstanceStatus:
        return replace(
            state,
            output=self._open_optional(state.output),
            custom_status=self._open_optional(state.custom_status),
        )

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
        return replace(poll, turns=tuple(map(self._opened_turn, poll.turns)))

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
        return replace(poll, activities=tuple(map(self._opened_activity, poll.activities)))

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        why_not = [unstorable(item) for item in batch]  # sealed, the store could not tell any more
        sound = [self._item(i) for i, why in zip(batch, why_not, strict=True) if why is None]
        answers = iter(await self.inner.commit(sound, eager=eager))
        return [
            self._result(next(answers))
            if why is None
            else CommitResult(code=CommitCode.REFUSED, error=why)
            for why in why_not
        ]

    def _result(self, result: CommitResult) -> CommitResult:
        return replace(result, activities=tuple(map(self._opened_activity, result.activities)))

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
        return {name: self._state(state) for name, state in found.items()}

    async def read_history(
        self, instance_id: InstanceId, execution_id: ExecutionId | None = None
    ) -> Sequence[str]:
        return [
            self._open(text) for text in await self.inner.read_history(instance_id, execution_id)
        ]

    async def read_key_values(self, instance_id: InstanceId) -> Mapping[str, KeyValue]:
        return self._values(await self.inner.read_key_values(instance_id))

    async def wait_for_change(self, instance_ids: Sequence[InstanceId], *, wait_ms: int) -> None:
        await self.inner.wait_for_change(instance_ids, wait_ms=wait_ms)

    def wake(self, *, turns: bool = False, activities: bool = False) -> None:
        self.inner.wake(turns=turns, activities=activities)

    async def heartbeat(self, beats: Mapping[ActivityToken, str]) -> None:
        store: HeartbeatStore = self.inner  # type: ignore[assignment]  # the capability says so
        await store.heartbeat({token: self._close(text) for token, text in beats.items()})

    async def list_dead_letters(
        self, *, instance_id: InstanceId | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        store: DeadLetterStore = self.inner  # type: ignore[assignment]  # likewise
        letters = await store.list_dead_letters(instance_id=instance_id, after=after, limit=limit)
        return [replace(letter, body=self._open_or_leave(letter.body)) for letter in letters]

    async def requeue(self, instance_id: InstanceId, reopening: Reopening | None = None) -> int:
        store: DeadLetterStore = self.inner  # type: ignore[assignment]  # likewise
        if reopening is not None:
            reopening = replace(
                reopening,
                activities=tuple(map(self._activity, reopening.activities)),
                messages=tuple(map(self._message, reopening.messages)),
            )
        return await store.requeue(instance_id, reopening)

    def send_within(self, connection: Any, messages: Sequence[Message]) -> None:
        store: CallerTransactions = self.inner  # type: ignore[assignment]  # likewise
        store.send_within(connection, tuple(map(self._message, messages)))

    async def send_within_async(self, connection: Any, messages: Sequence[Message]) -> None:
        store: CallerTransactions = self.inner  # type: ignore[assignment]  # likewise
        await store.send_within_async(connection, tuple(map(self._message, messages)))

    # Management.

    @property
    def _admin(self) -> ProviderAdmin:
        return self.inner  # type: ignore[return-value]  # if it is not, it lacks the method asked for

    async def list_instances(
        self, *, status: str | None = None, limit: int | None = None
    ) -> Sequence[InstanceStatus]:
        return [
            self._state(s) for s in await self._admin.list_instances(status=status, limit=limit)
        ]

    async def list_page(
        self, which: InstanceQuery, *, limit: int, cursor: str | None = None
    ) -> InstancePage:
        page = await self._admin.list_page(which, limit=limit, cursor=cursor)
        return replace(page, instances=tuple(map(self._state, page.instances)))

    async def list_executions(self, instance_id: InstanceId) -> Sequence[ExecutionInfo]:
        found = await self._admin.list_executions(instance_id)
        return [replace(e, output=self._open_optional(e.output)) for e in found]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Management that touches no text. Whatever else the inner provider has would pass the seal by."""
        if name in _PASSED_ON:
            found: Callable[..., Any] = getattr(self.inner, name)
            return found
        raise AttributeError(
            f"{type(self).__name__} has no {name!r}; if the provider inside has it, it does not pass "
            "the seal"
        )
