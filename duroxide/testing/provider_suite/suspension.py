"""An instance that is suspended gets no turns, and loses nothing."""

from __future__ import annotations

from duroxide.providers.base import CommitCode, InstanceQuery, MessageKind, Suspension
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
)


async def suspend(store: StoreDriver, instance_id: str = "i1") -> Suspension:
    return (await store.admin.suspend_instances([instance_id]))[instance_id]


async def resume(store: StoreDriver, instance_id: str = "i1") -> Suspension:
    return (await store.admin.resume_instances([instance_id]))[instance_id]


class SuspensionSuite(SuiteBase):
    async def test_a_suspended_instance_gets_no_turn_until_it_is_resumed(
        self, store: StoreDriver
    ) -> None:
        await store.running("i1")
        await store.send("i1", "before")
        assert await suspend(store) is Suspension.CHANGED
        await store.send("i1", "while")
        for _ in range(2):
            assert await store.poll() == ()
            store.clock.advance(10 * LEASE_MS)
        assert await resume(store) is Suspension.CHANGED
        await store.send("i1", "after")
        assert bodies(await store.lease("i1")) == ["before", "while", "after"]

    async def test_others_go_on_beside_a_suspended_instance(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.running("i2")
        await suspend(store)
        for number in range(40):  # more than a poll looks at in one go
            await store.send("i1", f"m{number}")
        await store.send("i2", "mine")
        assert bodies(await store.lease("i2")) == ["mine"]
        await resume(store)
        assert bodies(await store.lease("i1")) == [f"m{number}" for number in range(40)]

    async def test_timers_wait_and_fire_on_resume(self, store: StoreDriver) -> None:
        await store.running("i1")
        due_ms = store.now_ms() + 500
        await store.send("i1", "due", kind=MessageKind.TIMER, visible_at_ms=due_ms)
        await store.send("i1", "later", kind=MessageKind.TIMER, visible_at_ms=due_ms + LEASE_MS)
        await suspend(store)
        store.clock.advance(600)
        assert await store.poll() == ()
        assert (await store.admin.queue_depths()).timer_queue == 1
        await resume(store)
        turn = await store.lease("i1")
        assert bodies(turn) == ["due"]
        await store.commit_turn(turn)
        store.clock.advance(LEASE_MS)
        assert bodies(await store.lease("i1")) == ["later"]

    async def test_a_turn_in_hand_is_not_written_and_not_counted(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "more")
        turn = await store.lease("i1")
        await suspend(store)
        renewal = await store.provider.renew(turns=[turn.token], turn_lease_ms=LEASE_MS)
        assert renewal.lost_turns == {turn.token}
        assert await store.code(store.turn(turn)) is CommitCode.LEASE_LOST
        assert await store.abandon(turn) is CommitCode.LEASE_LOST
        assert await store.event_ids("i1") == [1]
        await resume(store)
        again = await store.lease("i1")
        assert (bodies(again), again.attempt_count) == (["more"], 1)

    async def test_it_is_said_what_became_of_it(self, store: StoreDriver) -> None:
        assert await suspend(store, "unknown") is Suspension.UNKNOWN
        assert await resume(store, "unknown") is Suspension.UNKNOWN
        await store.running("i1")
        assert await resume(store) is Suspension.UNCHANGED
        store.clock.advance(70)
        assert await suspend(store) is Suspension.CHANGED
        at_ms = store.now_ms()
        store.clock.advance(70)
        assert await suspend(store) is Suspension.UNCHANGED
        assert (await store.status("i1")).suspended_at_ms == at_ms
        assert await resume(store) is Suspension.CHANGED
        assert (await store.status("i1")).suspended_at_ms is None
        await store.send("i1", "end")
        await store.commit_turn(await store.lease("i1"), status=ExecutionStatus.COMPLETED)
        assert await suspend(store) is Suspension.ENDED
        assert await store.poll() == ()
        assert await resume(store) is Suspension.UNCHANGED

    async def test_a_failed_wish_takes_no_lease_away(self, store: StoreDriver) -> None:
        await store.start("i1")
        turn = await store.lease("i1")
        assert await suspend(store) is Suspension.UNKNOWN  # it has had no turn yet
        await store.commit_turn(turn)

    async def test_several_at_once(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.running("i2")
        answer = await store.admin.suspend_instances(["i2", "unknown", "i1", "i2"])
        assert dict(answer) == {
            "i1": Suspension.CHANGED,
            "i2": Suspension.CHANGED,
            "unknown": Suspension.UNKNOWN,
        }
        await store.running("i3")
        page = await store.admin.list_page(InstanceQuery(suspended_only=True), limit=9)
        assert {state.instance_id for state in page.instances} == {"i1", "i2"}

    async def test_a_cancellation_resumes_it(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "first")
        await suspend(store)
        assert await store.poll() == ()
        await store.send("i1", "stop", kind=MessageKind.CANCEL)
        turns = await store.poll()
        assert [bodies(turn) for turn in turns] == [["first", "stop"]]
        assert (await store.status("i1")).suspended_at_ms is None
        await store.commit_turn(turns[0])

    async def test_its_activities_go_on_and_their_results_wait(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "more")
        turn = await store.lease("i1")
        await store.commit_turn(turn, activities=(activity("i1", 2),))
        await suspend(store)
        assert await store.finish(await store.lease_activity(), "result") is CommitCode.APPLIED
        assert await store.poll() == ()
        assert (await store.admin.queue_depths()).orchestrator_queue == 0
        await resume(store)
        assert (await store.admin.queue_depths()).orchestrator_queue == 1
        assert bodies(await store.lease("i1")) == ["result"]

    async def test_queue_messages_are_counted_while_they_wait(self, store: StoreDriver) -> None:
        await store.running("i1")
        await suspend(store)
        await store.send("i1", "m", kind=MessageKind.QUEUE)
        assert await store.poll() == ()
        stats = await store.admin.instance_stats("i1")
        assert stats is not None
        assert stats.queue_pending_count == 1

    async def test_a_deleted_instance_leaves_no_suspension_behind(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "old")
        await suspend(store)
        assert await store.poll() == ()
        await store.admin.delete_instances(["i1"], force=True)
        await store.start("i1", "new")
        turn = await store.lease("i1")
        assert bodies(turn) == ["new"]
        await store.commit_turn(turn)
        assert (await store.status("i1")).suspended_at_ms is None
