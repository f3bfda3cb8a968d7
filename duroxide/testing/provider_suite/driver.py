"""What every group of checks uses: a store with short words for the usual calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest
import pytest_asyncio

from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    Activity,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    EagerDispatch,
    Enqueue,
    FinishActivity,
    InstanceStatus,
    LeasedActivity,
    LeasedTurn,
    Message,
    MessageKind,
    NewExecution,
    Provider,
    ProviderAdmin,
)
from duroxide.testing.clocks import ManualClock
from duroxide.version import ENGINE_VERSION, SemVer

LEASE_MS = 5_000
WORKER = "worker-1"


def event(event_id: int, text: str = "") -> str:
    """An event as a store sees it: one compact JSON object."""
    return json.dumps({"event_id": event_id, "text": text}, separators=(",", ":"))


def new_execution(
    name: str = "Greet",
    version: str = "1.0.0",
    *,
    engine_version: SemVer = ENGINE_VERSION,
    parent: str | None = None,
) -> NewExecution:
    return NewExecution(
        name=name, version=version, engine_version=engine_version, parent_instance_id=parent
    )


def activity(
    instance_id: str,
    activity_id: int,
    *,
    execution_id: int = 1,
    tag: str | None = None,
    session_id: str | None = None,
) -> Activity:
    return Activity(
        instance_id=instance_id,
        execution_id=execution_id,
        activity_id=activity_id,
        body=f"{instance_id}#{activity_id}",
        tag=tag,
        session_id=session_id,
    )


def message(
    instance_id: str,
    body: str,
    *,
    kind: MessageKind = MessageKind.EVENT,
    visible_at_ms: int | None = None,
    timer: tuple[int, int] | None = None,
) -> Message:
    return Message(
        instance_id=instance_id, kind=kind, body=body, visible_at_ms=visible_at_ms, timer=timer
    )


def bodies(turn: LeasedTurn) -> list[str]:
    return [received.body for received in turn.messages]


class StoreDriver:
    """A provider, its clock, and short words for the usual calls."""

    def __init__(self, provider: Provider, clock: ManualClock) -> None:
        self.provider = provider
        self.clock = clock

    @property
    def admin(self) -> ProviderAdmin:
        """The management half; a provider that has none is skipped."""
        if not hasattr(self.provider, "delete_instances"):
            pytest.skip("the provider has no management methods")
        return cast("ProviderAdmin", self.provider)

    def now_ms(self) -> int:
        return self.clock.now_ms()

    # Putting work in.

    async def send(
        self,
        instance_id: str,
        body: str,
        *,
        kind: MessageKind = MessageKind.EVENT,
        visible_at_ms: int | None = None,
    ) -> None:
        sent = message(instance_id, body, kind=kind, visible_at_ms=visible_at_ms)
        assert (await self.commit(Enqueue(message=sent))).ok

    async def start(self, instance_id: str, body: str = "start") -> None:
        await self.send(instance_id, body, kind=MessageKind.START)

    async def running(self, instance_id: str, *, parent: str | None = None) -> None:
        """An instance that has had its first turn and waits, with one event."""
        await self.start(instance_id)
        turn = await self.lease(instance_id)
        assert (await self.commit(self.turn(turn, 1, new=new_execution(parent=parent)))).ok

    async def schedule(self, *activities: Activity) -> None:
        """Put activities on the queue, by a first turn of each of their instances."""
        for instance_id in dict.fromkeys(a.instance_id for a in activities):
            await self.start(instance_id)
            turn = await self.lease(instance_id)
            mine = tuple(a for a in activities if a.instance_id == instance_id)
            assert (await self.commit(self.turn(turn, 1, activities=mine))).ok

    # Taking work out.

    async def poll(
        self, want: int = 10, *, lease_ms: int = LEASE_MS, **more: Any
    ) -> Sequence[LeasedTurn]:
        answer = await self.provider.poll_turns(worker=WORKER, want=want, lease_ms=lease_ms, **more)
        return answer.turns

    async def lease(self, instance_id: str, **more: Any) -> LeasedTurn:
        """Poll for one instance and insist that it is this one."""
        turns = await self.poll(1, **more)
        assert [turn.instance_id for turn in turns] == [instance_id]
        return turns[0]

    async def poll_activities(
        self, want: int = 10, *, lease_ms: int = LEASE_MS, worker: str = WORKER, **more: Any
    ) -> Sequence[LeasedActivity]:
        answer = await self.provider.poll_activities(
            worker=worker, want=want, lease_ms=lease_ms, **more
        )
        return answer.activities

    async def lease_activity(self, **more: Any) -> LeasedActivity:
        """Poll for one activity and insist that there is one."""
        leased = await self.poll_activities(1, **more)
        assert len(leased) == 1
        return leased[0]

    # Answering.

    async def commit(self, item: CommitItem, *, eager: EagerDispatch | None = None) -> CommitResult:
        (result,) = await self.provider.commit([item], eager=eager)
        return result

    async def code(self, item: CommitItem) -> CommitCode:
        return (await self.commit(item)).code

    def turn(
        self, leased: LeasedTurn, events: int = 1, *, new: NewExecution | None = None, **more: Any
    ) -> CommitTurn:
        """A turn that consumes all its messages and appends `events` events."""
        first_event_id: int = more.pop("first_event_id", leased.next_event_id)
        if first_event_id == 1 and new is None:
            new = new_execution()
        fields: dict[str, Any] = {
            "instance_id": leased.instance_id,
            "token": leased.token,
            "execution_id": leased.execution_id,
            "first_event_id": first_event_id,
            "events": tuple(event(first_event_id + n) for n in range(events)),
            "consumed": tuple(received.message_id for received in leased.messages),
            "new_execution": new,
        }
        return CommitTurn(**{**fields, **more})

    async def commit_turn(self, leased: LeasedTurn, events: int = 1, **more: Any) -> None:
        """Commit such a turn and insist that it is applied."""
        result = await self.commit(self.turn(leased, events, **more))
        assert result.code is CommitCode.APPLIED, result

    async def abandon(
        self, leased: LeasedTurn, *, delay_ms: int = 0, count_attempt: bool = True
    ) -> CommitCode:
        return await self.code(
            AbandonTurn(
                instance_id=leased.instance_id,
                token=leased.token,
                delay_ms=delay_ms,
                count_attempt=count_attempt,
            )
        )

    async def abandon_activity(
        self, leased: LeasedActivity, *, delay_ms: int = 0, count_attempt: bool = True
    ) -> CommitCode:
        return await self.code(
            AbandonActivity(token=leased.token, delay_ms=delay_ms, count_attempt=count_attempt)
        )

    async def finish(self, leased: LeasedActivity, body: str | None = "done") -> CommitCode:
        completion = None
        if body is not None:
            completion = message(leased.instance_id, body, kind=MessageKind.ACTIVITY)
        return await self.code(FinishActivity(token=leased.token, completion=completion))

    # Looking.

    async def history(self, instance_id: str, execution_id: int | None = None) -> list[Any]:
        texts = await self.provider.read_history(instance_id, execution_id)
        return [json.loads(text) for text in texts]

    async def event_ids(self, instance_id: str, execution_id: int | None = None) -> list[int]:
        return [entry["event_id"] for entry in await self.history(instance_id, execution_id)]

    async def status(self, instance_id: str) -> InstanceStatus:
        return (await self.statuses(instance_id))[instance_id]

    async def statuses(self, *instance_ids: str) -> Mapping[str, InstanceStatus]:
        return await self.provider.read_status(instance_ids)


class SuiteBase:
    """Gives each check a fresh `store`; a subclass says where it comes from."""

    pytestmark = pytest.mark.asyncio

    async def new_provider(self, clock: ManualClock) -> Provider:
        """A fresh, empty, started store that judges time by `clock`."""
        raise NotImplementedError(f"{type(self).__name__} must define new_provider(clock)")

    async def corrupt_history(self, provider: Provider, instance_id: str, text: str) -> None:
        """Write `text` over the first stored event of the current execution, behind the store's back.

        Optional: without it the checks of unreadable histories are skipped.
        """
        pytest.skip(f"{type(self).__name__} does not define corrupt_history")

    def failing_reads(self, provider: Provider) -> AbstractAsyncContextManager[None]:
        """Within it, the storage fails whenever histories are read. Optional, likewise."""
        pytest.skip(f"{type(self).__name__} does not define failing_reads")

    def caller_transaction(
        self, provider: Provider, *, is_async: bool, begins: bool = True
    ) -> AbstractAsyncContextManager[Any]:
        """A connection of a caller's to the store's database, in a transaction that is open.

        It commits at the end, or rolls back if an exception comes out. `is_async`: one for
        `send_within_async` rather than for `send_within`. Not `begins`: a connection that commits each
        statement by itself. Optional, likewise; for stores with the capability `caller_transaction`.
        """
        pytest.skip(f"{type(self).__name__} does not define caller_transaction")

    @pytest_asyncio.fixture
    async def store(self) -> AsyncIterator[StoreDriver]:
        clock = ManualClock()
        provider = await self.new_provider(clock)
        try:
            yield StoreDriver(provider, clock)
        finally:
            await provider.close()
