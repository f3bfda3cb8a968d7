"""A batch is many calls in one transaction: independent answers, in order, safe to repeat."""

from __future__ import annotations

import dataclasses

import pytest

from duroxide.ids import ActivityToken, TurnToken
from duroxide.providers.base import (
    AbandonActivity,
    CommitCode,
    CommitItem,
    CommitTurn,
    Enqueue,
    FinishActivity,
    MessageKind,
)
from duroxide.state import ExecutionStatus, SetCustomStatus
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
    message,
)


class BatchSuite(SuiteBase):
    async def test_an_empty_batch_has_no_results(self, store: StoreDriver) -> None:
        assert list(await store.provider.commit([])) == []

    async def test_a_refused_item_leaves_its_neighbours_alone(self, store: StoreDriver) -> None:
        for instance_id in ("a", "b", "c", "d"):
            await store.start(instance_id)
        a, b, c, d = await store.poll()
        batch: list[CommitItem] = [
            store.turn(a),
            dataclasses.replace(store.turn(b), token=TurnToken("bogus/b")),
            store.turn(c, first_event_id=2),
            FinishActivity(token=ActivityToken("bogus/a/7"), completion=message("a", "x")),
            AbandonActivity(token=ActivityToken("bogus/a/8")),
            Enqueue(message=message("a", "hello")),
            store.turn(d),
        ]
        codes = [result.code for result in await store.provider.commit(batch)]
        assert codes == [
            CommitCode.APPLIED,
            CommitCode.LEASE_LOST,
            CommitCode.HISTORY_CONFLICT,
            CommitCode.LEASE_LOST,
            CommitCode.LEASE_LOST,
            CommitCode.APPLIED,
            CommitCode.APPLIED,
        ]
        assert set(await store.statuses("a", "b", "c", "d")) == {"a", "d"}
        assert bodies(await store.lease("a")) == ["hello"]

    async def test_results_are_in_the_order_of_the_batch(self, store: StoreDriver) -> None:
        for number in range(6):
            await store.start(f"i{number}")
        turns = list(await store.poll())
        batch: list[CommitTurn] = []
        for number, leased in enumerate(reversed(turns)):
            fitting = store.turn(leased)
            broken = dataclasses.replace(fitting, token=TurnToken(f"bogus/{leased.instance_id}"))
            batch.append(fitting if number % 2 else broken)
        codes = [result.code for result in await store.provider.commit(batch)]
        assert codes == [CommitCode.LEASE_LOST, CommitCode.APPLIED] * 3

    async def test_text_that_cannot_be_stored_is_refused_alone(self, store: StoreDriver) -> None:
        await store.start("a")
        await store.start("b")
        a, b = await store.poll()
        batch: list[CommitItem] = [
            store.turn(a, custom_status=SetCustomStatus(status="broken \ud800 text")),
            Enqueue(message=message("b", "a NUL \0 here")),
            store.turn(b),
        ]
        results = await store.provider.commit(batch)
        assert [result.code for result in results] == [
            CommitCode.REFUSED,
            CommitCode.REFUSED,
            CommitCode.APPLIED,
        ]
        assert results[0].error
        assert results[1].error
        assert set(await store.statuses("a", "b")) == {"b"}
        assert await store.code(store.turn(a)) is CommitCode.APPLIED

    @pytest.mark.parametrize("finish_first", [True, False])
    async def test_an_activity_ends_in_the_batch_that_gives_it_up(
        self, store: StoreDriver, finish_first: bool
    ) -> None:
        await store.schedule(activity("i1", 2))
        leased = await store.lease_activity()
        await store.send("i1", "give up")
        cancelling = store.turn(await store.lease("i1"), cancelled_activities=(2,))
        finishing = FinishActivity(
            token=leased.token, completion=message("i1", "done", kind=MessageKind.ACTIVITY)
        )
        pair: list[CommitItem] = (
            [finishing, cancelling] if finish_first else [cancelling, finishing]
        )
        neighbour = Enqueue(message=message("i2", "start", kind=MessageKind.START))
        codes = [result.code for result in await store.provider.commit([*pair, neighbour])]
        assert codes[pair.index(cancelling)] is CommitCode.APPLIED
        finished = codes[pair.index(finishing)]
        assert finished in (CommitCode.APPLIED, CommitCode.LEASE_LOST)
        assert codes[2] is CommitCode.APPLIED
        store.clock.advance(LEASE_MS)
        assert await store.poll_activities() == ()
        arrived = {turn.instance_id: bodies(turn) for turn in await store.poll()}
        expected = {"i1": ["done"]} if finished is CommitCode.APPLIED else {}
        assert arrived == {"i2": ["start"], **expected}

    @confirms("repeated_commit_is_recognised")
    async def test_a_turn_that_is_sent_again_was_applied_once(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        turn = store.turn(
            leased, 2, activities=(activity("i1", 2),), messages=(message("i1", "note"),)
        )
        assert await store.code(turn) is CommitCode.APPLIED
        result = await store.commit(turn)
        assert result.code is CommitCode.REPEATED
        assert result.ok
        assert await store.event_ids("i1") == [1, 2]
        assert len(await store.poll_activities()) == 1
        assert bodies(await store.lease("i1")) == ["note"]

    async def test_a_turn_sent_again_after_another_turn_is_not_written(
        self, store: StoreDriver
    ) -> None:
        await store.start("i1")
        first = store.turn(await store.lease("i1"))
        assert await store.code(first) is CommitCode.APPLIED
        await store.send("i1", "next")
        await store.commit_turn(await store.lease("i1"))
        assert not (await store.commit(first)).ok
        assert await store.event_ids("i1") == [1, 2]

    async def test_a_whole_batch_sent_again_changes_nothing(self, store: StoreDriver) -> None:
        await store.schedule(activity("a", 2))
        await store.start("b")
        finished = FinishActivity(
            token=(await store.lease_activity()).token,
            completion=message("a", "done", kind=MessageKind.ACTIVITY),
        )
        turn = store.turn(await store.lease("b"))
        await store.provider.commit([finished, turn])
        codes = [result.code for result in await store.provider.commit([finished, turn])]
        assert codes == [CommitCode.LEASE_LOST, CommitCode.REPEATED]
        assert bodies(await store.lease("a")) == ["done"]
        assert await store.event_ids("b") == [1]

    async def test_many_items_at_once(self, store: StoreDriver) -> None:
        names = [f"i{number:03}" for number in range(100)]
        batch = [Enqueue(message=message(n, n, kind=MessageKind.START)) for n in names]
        assert all(result.ok for result in await store.provider.commit(batch))
        turns = await store.poll(100)
        assert [turn.instance_id for turn in turns] == names
        results = await store.provider.commit([store.turn(turn) for turn in turns])
        assert {result.code for result in results} == {CommitCode.APPLIED}
        assert len(await store.statuses(*names)) == 100

    async def test_messages_to_one_instance_keep_the_order_of_the_batch(
        self, store: StoreDriver
    ) -> None:
        batch = [Enqueue(message=message("i1", "start", kind=MessageKind.START))]
        batch += [Enqueue(message=message("i1", f"m{number}")) for number in range(20)]
        await store.provider.commit(batch)
        assert bodies(await store.lease("i1")) == ["start", *(f"m{n}" for n in range(20))]

    async def test_a_turn_without_events_leaves_the_state_alone(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.commit_turn(
            await store.lease("i1"), status=ExecutionStatus.COMPLETED, output="42"
        )
        before = await store.status("i1")
        await store.send("i1", "too late")
        leased = await store.lease("i1")
        assert leased.status is ExecutionStatus.COMPLETED
        await store.commit_turn(leased, 0)
        after = await store.status("i1")
        assert (after.status, after.output) == (ExecutionStatus.COMPLETED, "42")
        assert after.completed_at_ms == before.completed_at_ms
        assert await store.poll() == ()

    async def test_nothing_follows_the_terminal_event(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.commit_turn(
            await store.lease("i1"), status=ExecutionStatus.COMPLETED, output="42"
        )
        await store.send("i1", "too late")
        leased = await store.lease("i1")
        assert await store.code(store.turn(leased, 1)) is CommitCode.HISTORY_CONFLICT
        assert await store.event_ids("i1") == [1]

    @confirms("test_orphan_queue_messages_dropped")
    async def test_messages_to_an_instance_that_never_was_can_be_consumed(
        self, store: StoreDriver
    ) -> None:
        await store.send("nobody", "lost")
        leased = await store.lease("nobody")
        empty = dataclasses.replace(store.turn(leased, 0), new_execution=None)
        assert await store.code(empty) is CommitCode.APPLIED
        store.clock.advance(LEASE_MS)
        assert await store.poll() == ()
        assert await store.statuses("nobody") == {}
