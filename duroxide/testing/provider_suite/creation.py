"""When an instance begins to exist, and what is known about it."""

from __future__ import annotations

from duroxide.providers.base import MessageKind
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import (
    StoreDriver,
    SuiteBase,
    bodies,
    message,
    new_execution,
)


class CreationSuite(SuiteBase):
    async def test_instance_creation_via_metadata(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.commit_turn(await store.lease("i1"), new=new_execution("Greet", "1.2.3"))
        status = await store.status("i1")
        assert (status.instance_id, status.name, status.version) == ("i1", "Greet", "1.2.3")
        assert (status.execution_id, status.status) == (1, ExecutionStatus.RUNNING)
        assert status.output is None
        assert status.completed_at_ms is None

    async def test_no_instance_creation_on_enqueue(self, store: StoreDriver) -> None:
        await store.start("i1")
        assert await store.statuses("i1") == {}
        leased = await store.lease("i1")
        assert (leased.name, leased.version, leased.execution_id) == (None, None, 1)
        assert (leased.next_event_id, leased.history, leased.history_after) == (1, (), 0)
        assert leased.status is ExecutionStatus.RUNNING
        assert await store.statuses("i1") == {}

    async def test_polling_creates_nothing(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.abandon(await store.lease("i1"))
        assert await store.statuses("i1") == {}

    async def test_null_version_handling(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        assert leased.version is None
        await store.commit_turn(leased, new=new_execution(version="7.0.0"))
        await store.send("i1", "more")
        assert (await store.lease("i1")).version == "7.0.0"

    async def test_sub_orchestration_instance_creation(self, store: StoreDriver) -> None:
        await store.start("parent")
        child = message("parent::sub::2", "start child", kind=MessageKind.START)
        await store.commit_turn(await store.lease("parent"), 2, messages=(child,))
        leased = await store.lease("parent::sub::2")
        assert bodies(leased) == ["start child"]
        await store.commit_turn(leased, new=new_execution("Child", parent="parent"))
        assert (await store.status("parent::sub::2")).parent_instance_id == "parent"
        assert (await store.status("parent")).parent_instance_id is None

    async def test_the_parent_is_kept_once_set(self, store: StoreDriver) -> None:
        await store.running("child", parent="parent")
        await store.send("child", "again", kind=MessageKind.CONTINUE_AS_NEW)
        leased = await store.lease("child")
        assert leased.parent_instance_id == "parent"
        await store.commit_turn(leased, execution_id=2, first_event_id=1, new=new_execution())
        assert (await store.status("child")).parent_instance_id == "parent"

    @confirms("times_are_kept")
    async def test_times_come_from_the_clock_of_the_store(self, store: StoreDriver) -> None:
        began_ms = store.now_ms()
        await store.running("i1")
        store.clock.advance(1_000)
        await store.send("i1", "more")
        await store.commit_turn(await store.lease("i1"))
        status = await store.status("i1")
        assert (status.created_at_ms, status.updated_at_ms) == (began_ms, began_ms + 1_000)
        store.clock.advance(1_000)
        await store.send("i1", "last")
        leased = await store.lease("i1")
        await store.commit_turn(leased, status=ExecutionStatus.COMPLETED, output="x")
        status = await store.status("i1")
        assert status.completed_at_ms == began_ms + 2_000
        assert status.created_at_ms == began_ms

    async def test_many_states_are_read_at_once(self, store: StoreDriver) -> None:
        for name in ("a", "b"):
            await store.running(name)
        states = await store.statuses("a", "b", "nobody", "a")
        assert set(states) == {"a", "b"}
        assert await store.statuses() == {}

    async def test_ids_are_compared_exactly(self, store: StoreDriver) -> None:
        names = ["i", "I", "i ", "i%", "i_", "ï", "i'", 'i"', "i::1", "😀"]
        for name in names:
            await store.running(name)
        assert set(await store.statuses(*names)) == set(names)
