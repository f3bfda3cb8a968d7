"""An instance is a sequence of executions, each with a history of its own."""

from __future__ import annotations

from typing import Any

from duroxide.providers.base import CommitCode, LeasedTurn, MessageKind
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.driver import (
    StoreDriver,
    SuiteBase,
    bodies,
    event,
    message,
    new_execution,
)


async def continued(store: StoreDriver, instance_id: str, **more: Any) -> LeasedTurn:
    """Let the current execution continue as new; the lease of the next one's first turn."""
    if instance_id not in await store.statuses(instance_id):
        await store.start(instance_id)
    else:
        await store.send(instance_id, "go on")
    leased = await store.lease(instance_id)
    again = message(instance_id, "again", kind=MessageKind.CONTINUE_AS_NEW)
    await store.commit_turn(
        leased,
        status=ExecutionStatus.CONTINUED_AS_NEW,
        output="next input",
        messages=(again,),
        **more,
    )
    return await store.lease(instance_id)


async def begin(store: StoreDriver, leased: LeasedTurn, events: int = 1, **more: Any) -> None:
    """Commit the first turn of the next execution."""
    await store.commit_turn(
        leased, events, execution_id=leased.execution_id + 1, first_event_id=1, **more
    )


class ExecutionSuite(SuiteBase):
    async def test_execution_isolation(self, store: StoreDriver) -> None:
        await begin(store, await continued(store, "i1"), 3)
        assert await store.event_ids("i1", 1) == [1]
        assert await store.event_ids("i1", 2) == [1, 2, 3]
        assert await store.event_ids("i1") == [1, 2, 3], "the newest"

    async def test_latest_execution_detection(self, store: StoreDriver) -> None:
        leased = await continued(store, "i1")
        await begin(store, leased, events=1)
        await begin(store, await continued(store, "i1"), events=2)
        assert (await store.status("i1")).execution_id == 3
        assert await store.event_ids("i1") == [1, 2]

    async def test_execution_id_sequencing(self, store: StoreDriver) -> None:
        leased = await continued(store, "i1")
        assert (leased.execution_id, leased.next_event_id) == (1, 2)
        assert leased.status is ExecutionStatus.CONTINUED_AS_NEW
        await begin(store, leased, 2)
        await store.send("i1", "more")
        leased = await store.lease("i1")
        assert (leased.execution_id, leased.next_event_id) == (2, 3)
        assert leased.status is ExecutionStatus.RUNNING

    async def test_continue_as_new_creates_new_execution(self, store: StoreDriver) -> None:
        leased = await continued(store, "i1")
        assert bodies(leased) == ["again"]
        await begin(store, leased, new=new_execution("Greet", "2.0.0"))
        status = await store.status("i1")
        assert (status.execution_id, status.version) == (2, "2.0.0")
        assert (status.status, status.output) == (ExecutionStatus.RUNNING, None)

    async def test_execution_history_persistence(self, store: StoreDriver) -> None:
        await begin(store, await continued(store, "i1"), 2)
        leased = await continued(store, "i1")
        await begin(store, leased, events=1)
        assert await store.event_ids("i1", 1) == [1]
        assert await store.event_ids("i1", 2) == [1, 2, 3]
        assert await store.event_ids("i1", 3) == [1]
        assert await store.event_ids("i1", 4) == []

    async def test_a_turn_gets_the_history_of_its_execution_only(self, store: StoreDriver) -> None:
        await begin(store, await continued(store, "i1"), 2)
        await store.send("i1", "more")
        leased = await store.lease("i1")
        assert leased.history == (event(1), event(2))
        assert leased.history_after == 0

    async def test_an_execution_may_not_be_skipped(self, store: StoreDriver) -> None:
        leased = await continued(store, "i1")
        skipping = store.turn(leased, execution_id=3, first_event_id=1)
        assert await store.code(skipping) is CommitCode.HISTORY_CONFLICT
        assert (await store.status("i1")).execution_id == 1

    async def test_an_earlier_execution_gets_no_more_events(self, store: StoreDriver) -> None:
        await begin(store, await continued(store, "i1"))
        await store.send("i1", "more")
        leased = await store.lease("i1")
        stale = store.turn(leased, execution_id=1)
        assert await store.code(stale) is CommitCode.HISTORY_CONFLICT
        assert await store.event_ids("i1", 1) == [1]

    async def test_an_instance_begins_with_execution_one(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        second = store.turn(leased, execution_id=2)
        assert await store.code(second) is CommitCode.HISTORY_CONFLICT
        assert await store.statuses("i1") == {}

    async def test_each_execution_keeps_its_own_end(self, store: StoreDriver) -> None:
        leased = await continued(store, "i1")
        between = await store.status("i1")
        assert (between.status, between.output) == (
            ExecutionStatus.CONTINUED_AS_NEW,
            "next input",
        )
        store.clock.advance(1_000)
        await begin(store, leased, status=ExecutionStatus.FAILED, output="it broke")
        status = await store.status("i1")
        assert (status.status, status.output) == (ExecutionStatus.FAILED, "it broke")
        assert status.completed_at_ms == store.now_ms()
