"""Messages that could not have their effect are kept, and can be given back as if never delivered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from duroxide.errors import ProviderError
from duroxide.providers.base import (
    CommitCode,
    DeadLetterStore,
    LeasedTurn,
    MessageKind,
    Reopening,
    TagMode,
    TagSelection,
)
from duroxide.state import ExecutionStatus, SetKeyValue
from duroxide.testing.provider_suite.capabilities import needs
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
    message,
    new_execution,
)

FAILED = ExecutionStatus.FAILED


def letters_of(store: StoreDriver) -> DeadLetterStore:
    needs(store, "dead_letters")
    return cast("DeadLetterStore", store.provider)


class DeadLetterSuite(SuiteBase):
    async def failed(self, store: StoreDriver) -> LeasedTurn:
        """An instance of one event that failed by a turn with two, with a message that is buried."""
        letters_of(store)
        await store.running("i1")
        await store.send("i1", "poison", kind=MessageKind.QUEUE)
        await store.abandon(await store.lease("i1"))
        turn = await store.lease("i1")
        await store.commit_turn(turn, 2, status=FAILED, output="why", bury="too often")
        return turn

    async def test_what_is_buried_is_kept_with_its_reason(self, store: StoreDriver) -> None:
        letters = letters_of(store)
        await store.send("i1", "first")
        await store.send("i1", "second", kind=MessageKind.QUEUE)
        await store.abandon(await store.lease("i1"))
        turn = await store.lease("i1")
        assert await store.code(store.turn(turn, 0, bury="nobody")) is CommitCode.APPLIED
        store.clock.advance(LEASE_MS)
        assert await store.poll() == ()
        first, second = await letters.list_dead_letters()
        assert [letter.body for letter in (first, second)] == ["first", "second"]
        assert (second.instance_id, second.kind) == ("i1", MessageKind.QUEUE)
        assert (second.reason, second.attempt_count) == ("nobody", 2)
        assert second.buried_at_ms == store.now_ms() - LEASE_MS

    async def test_a_refused_turn_buries_nothing(self, store: StoreDriver) -> None:
        letters = letters_of(store)
        await store.running("i1")
        await store.send("i1", "m")
        turn = await store.lease("i1")
        store.clock.advance(LEASE_MS)
        again = await store.lease("i1")
        assert await store.code(store.turn(turn, bury="late")) is CommitCode.LEASE_LOST
        assert await letters.list_dead_letters() == []
        await store.commit_turn(again)
        assert await letters.list_dead_letters() == []  # no reason was given

    async def test_letters_are_listed_in_pages_and_by_instance(self, store: StoreDriver) -> None:
        letters = letters_of(store)
        for instance_id in ("i1", "i2", "i1"):
            await store.send(instance_id, instance_id)
            await store.commit_turn(await store.lease(instance_id), 0, bury="x")
        every = await letters.list_dead_letters()
        assert [letter.body for letter in every] == ["i1", "i2", "i1"]
        page = await letters.list_dead_letters(limit=2)
        assert list(page) == list(every[:2])
        rest = await letters.list_dead_letters(limit=2, after=page[-1].letter_id)
        assert list(rest) == list(every[2:])
        mine = await letters.list_dead_letters(instance_id="i1")
        assert list(mine) == [every[0], every[2]]

    async def test_requeued_letters_come_in_order_as_never_delivered(
        self, store: StoreDriver
    ) -> None:
        letters = letters_of(store)
        await store.start("i1")
        await store.send("i1", "second")
        await store.abandon(await store.lease("i1"))
        await store.commit_turn(await store.lease("i1"), 0, bury="x")
        assert await letters.requeue("i1") == 2
        assert await letters.list_dead_letters() == []
        turn = await store.lease("i1")
        assert (bodies(turn), turn.attempt_count) == (["start", "second"], 1)
        assert turn.messages[0].kind is MessageKind.START
        assert await letters.requeue("i1") == 0

    async def test_discarded_letters_are_gone(self, store: StoreDriver) -> None:
        letters = letters_of(store)
        await store.send("i1", "m")
        await store.commit_turn(await store.lease("i1"), 0, bury="x")
        assert await letters.discard_dead_letters("i2") == 0
        assert await letters.discard_dead_letters("i1") == 1
        assert await letters.requeue("i1") == 0
        assert await store.poll() == ()

    async def test_deleting_an_instance_deletes_its_letters(self, store: StoreDriver) -> None:
        letters = letters_of(store)
        await self.failed(store)
        await store.admin.delete_instances(["i1"])
        assert await letters.list_dead_letters() == []

    async def test_a_failed_instance_goes_back_to_where_it_was(self, store: StoreDriver) -> None:
        letters = letters_of(store)
        turn = await self.failed(store)
        due_ms = store.now_ms() + 500
        timer = message("i1", "due", kind=MessageKind.TIMER, visible_at_ms=due_ms, timer=(1, 9))
        reopening = Reopening(
            execution_id=1,
            event_count=3,
            keep_events=1,
            activities=(activity("i1", 8, tag="gpu"),),
            messages=(timer,),
        )
        assert await letters.requeue("i1", reopening) == 1
        state = await store.status("i1")
        assert (state.status, state.output) == (ExecutionStatus.RUNNING, None)
        assert state.completed_at_ms is None
        assert await store.event_ids("i1") == [1]
        again = await store.lease("i1")
        assert (bodies(again), again.attempt_count) == (["poison"], 1)
        assert (again.next_event_id, len(again.history)) == (2, 1)
        assert await store.code(store.turn(turn)) is CommitCode.LEASE_LOST
        await store.commit_turn(again, 2)
        assert await store.event_ids("i1") == [1, 2, 3]
        given = await store.lease_activity(tags=TagSelection(TagMode.ANY))
        assert (given.activity_id, given.tag, given.attempt_count) == (8, "gpu", 1)
        store.clock.advance(500)
        fired = await store.lease("i1")
        assert bodies(fired) == ["due"]
        await store.commit_turn(fired, status=ExecutionStatus.COMPLETED)

    async def test_an_instance_that_never_began_is_as_if_never_seen(
        self, store: StoreDriver
    ) -> None:
        letters = letters_of(store)
        await store.start("i1")
        turn = await store.lease("i1")
        await store.commit_turn(turn, 2, status=FAILED, output="why", bury="no code")
        never = Reopening(execution_id=1, event_count=2, keep_events=0)
        assert await letters.requeue("i1", never) == 1
        assert await store.statuses("i1") == {}
        again = await store.lease("i1")
        assert (bodies(again), again.name, again.next_event_id) == (["start"], None, 1)
        await store.commit_turn(again)
        assert await store.event_ids("i1") == [1]

    async def test_a_next_execution_that_never_began_goes_back_to_the_one_before(
        self, store: StoreDriver
    ) -> None:
        letters = letters_of(store)
        await store.running("i1")
        await store.send("i1", "more")
        chained = message("i1", "next", kind=MessageKind.CONTINUE_AS_NEW)
        await store.commit_turn(
            await store.lease("i1"),
            status=ExecutionStatus.CONTINUED_AS_NEW,
            output="input",
            messages=(chained,),
        )
        second: dict[str, Any] = {"execution_id": 2, "first_event_id": 1, "new": new_execution()}
        await store.commit_turn(
            await store.lease("i1"), 2, **second, status=FAILED, output="why", bury="no code"
        )
        never = Reopening(execution_id=2, event_count=2, keep_events=0)
        assert await letters.requeue("i1", never) == 1
        state = await store.status("i1")
        assert (state.execution_id, state.status) == (1, ExecutionStatus.CONTINUED_AS_NEW)
        again = await store.lease("i1")
        assert (bodies(again), again.execution_id, again.next_event_id) == (["next"], 1, 3)
        await store.commit_turn(again, **second)
        assert await store.event_ids("i1", 2) == [1]

    async def test_what_has_changed_is_not_reopened(self, store: StoreDriver) -> None:
        letters = letters_of(store)
        await self.failed(store)
        fits = Reopening(execution_id=1, event_count=3, keep_events=1)
        for wrong in (replace(fits, execution_id=2), replace(fits, event_count=2)):
            with pytest.raises(ProviderError, match="'i1' can't be reopened"):
                await letters.requeue("i1", wrong)
        with pytest.raises(ProviderError, match="'nobody' can't be reopened"):
            await letters.requeue("nobody", fits)
        assert len(await letters.list_dead_letters()) == 1
        assert (await store.status("i1")).status is FAILED
        assert await letters.requeue("i1", fits) == 1
        with pytest.raises(ProviderError, match="'i1' can't be reopened"):
            await letters.requeue("i1", fits)  # it runs already

    async def test_an_execution_that_was_given_up_keeps_what_its_values_began_with(
        self, store: StoreDriver
    ) -> None:
        letters = letters_of(store)
        await store.running("i1")
        await store.send("i1", "m")
        change = SetKeyValue(key="k", value="v", updated_at_ms=store.now_ms())
        await store.commit_turn(await store.lease("i1"), key_values=(change,))
        await store.send("i1", "poison")
        await store.commit_turn(
            await store.lease("i1"), 1, status=FAILED, output="why", bury="too often"
        )
        assert (await store.provider.read_key_values("i1"))["k"].value == "v"
        await letters.requeue("i1", Reopening(execution_id=1, event_count=3, keep_events=2))
        assert (await store.lease("i1")).key_values == {}
        assert (await store.provider.read_key_values("i1"))["k"].value == "v"
