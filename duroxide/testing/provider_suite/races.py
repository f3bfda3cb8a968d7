"""Things that happen at once: whatever comes first, nothing is half done."""

from __future__ import annotations

import asyncio

from duroxide.errors import ProviderError
from duroxide.providers.base import CommitCode
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
    new_execution,
)

TIMES = 5  # each race is run so often, with instances of its own


async def deleted(store: StoreDriver, *instance_ids: str, force: bool = False) -> bool:
    """Whether the deletion was made; a refusal is an answer too."""
    try:
        await store.admin.delete_instances(list(instance_ids), force=force)
    except ProviderError as error:
        if error.retryable:
            raise
        return False
    return True


class RaceSuite(SuiteBase):
    @confirms("a_lost_race_finds_other_work")
    async def test_polls_at_once_leave_nothing_lying(self, store: StoreDriver) -> None:
        names = [f"i{number:02}" for number in range(16)]
        for name in names:
            await store.start(name)
        polls = await asyncio.gather(*(store.poll(4) for _ in range(4)))
        taken = [turn.instance_id for turns in polls for turn in turns]
        assert sorted(taken) == names

    @confirms("a_lost_race_finds_other_work")
    async def test_polls_for_activities_at_once_leave_nothing_lying(
        self, store: StoreDriver
    ) -> None:
        numbers = list(range(2, 18))
        await store.schedule(*(activity("i1", number) for number in numbers))
        polls = await asyncio.gather(*(store.poll_activities(4) for _ in range(4)))
        taken = [item.activity_id for items in polls for item in items]
        assert sorted(taken) == numbers

    @confirms("deletion_and_progress_exclude_each_other")
    async def test_a_deletion_and_the_last_turn_at_once(self, store: StoreDriver) -> None:
        for number in range(TIMES):
            name = f"i{number}"
            await store.running(name)
            await store.send(name, "last")
            last = store.turn(
                await store.lease(name), status=ExecutionStatus.COMPLETED, output="out"
            )
            code, is_deleted = await asyncio.gather(store.code(last), deleted(store, name))
            assert code is CommitCode.APPLIED, "a running instance is not deleted"
            if is_deleted:
                assert await store.statuses(name) == {}
                assert await store.history(name) == []
            else:
                assert (await store.status(name)).status is ExecutionStatus.COMPLETED
                assert await store.event_ids(name) == [1, 2]

    @confirms("deletion_and_progress_exclude_each_other")
    async def test_a_forced_deletion_and_a_turn_at_once(self, store: StoreDriver) -> None:
        for number in range(TIMES):
            name = f"i{number}"
            await store.running(name)
            await store.send(name, "more")
            turn = store.turn(await store.lease(name), activities=(activity(name, 2),))
            code, is_deleted = await asyncio.gather(
                store.code(turn), deleted(store, name, force=True)
            )
            assert is_deleted
            assert code in (CommitCode.APPLIED, CommitCode.LEASE_LOST)
            assert await store.statuses(name) == {}
            assert await store.history(name) == []
            assert await store.poll_activities() == (), "nothing of it comes back"

    @confirms("parents_and_children_end_apart")
    async def test_a_parent_is_deleted_while_its_child_begins(self, store: StoreDriver) -> None:
        for number in range(TIMES):
            parent, child = f"i{number}", f"i{number}::sub::2"
            await store.start(parent)
            await store.commit_turn(
                await store.lease(parent), status=ExecutionStatus.COMPLETED, output="out"
            )
            await store.start(child)
            begins = store.turn(await store.lease(child), new=new_execution("Child", parent=parent))
            code, is_deleted = await asyncio.gather(store.code(begins), deleted(store, parent))
            assert code is CommitCode.APPLIED, "a child does not depend on its parent's row"
            assert await store.event_ids(child) == [1]
            assert (await store.status(child)).parent_instance_id == parent
            assert (parent in await store.statuses(parent)) is not is_deleted

    @confirms("parents_and_children_end_apart")
    async def test_a_tree_is_deleted_while_a_child_ends(self, store: StoreDriver) -> None:
        for number in range(TIMES):
            parent, child = f"i{number}", f"i{number}::sub::2"
            await store.running(parent)
            await store.running(child, parent=parent)
            await store.send(child, "last")
            last = store.turn(
                await store.lease(child), status=ExecutionStatus.COMPLETED, output="out"
            )
            code, is_deleted = await asyncio.gather(
                store.code(last), deleted(store, parent, child, force=True)
            )
            assert is_deleted
            assert code in (CommitCode.APPLIED, CommitCode.LEASE_LOST)
            assert await store.statuses(parent, child) == {}
            assert await store.history(child) == []

    async def test_a_finish_and_a_cancellation_at_once(self, store: StoreDriver) -> None:
        for number in range(TIMES):
            name = f"i{number}"
            await store.schedule(activity(name, 2))
            leased = await store.lease_activity()
            await store.send(name, "more")
            cancelling = store.turn(await store.lease(name), cancelled_activities=(2,))
            code, finished = await asyncio.gather(store.code(cancelling), store.finish(leased))
            assert code is CommitCode.APPLIED
            assert finished in (CommitCode.APPLIED, CommitCode.LEASE_LOST)
            store.clock.advance(LEASE_MS)
            assert await store.poll_activities() == ()
            turns = await store.poll()
            expected = [["done"]] if finished is CommitCode.APPLIED else []
            assert [bodies(turn) for turn in turns] == expected
            for turn in turns:
                await store.commit_turn(turn, 0)

    async def test_two_finish_one_activity_at_once(self, store: StoreDriver) -> None:
        for number in range(TIMES):
            name = f"i{number}"
            await store.schedule(activity(name, 2))
            leased = await store.lease_activity()
            codes = await asyncio.gather(store.finish(leased, "one"), store.finish(leased, "two"))
            assert sorted(codes) == [CommitCode.APPLIED, CommitCode.LEASE_LOST]
            assert len((await store.lease(name)).messages) == 1
