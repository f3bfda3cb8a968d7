"""A turn is written whole or not at all."""

from __future__ import annotations

import asyncio
import dataclasses

from duroxide.ids import TurnToken
from duroxide.providers.base import AbandonTurn, CommitCode, MessageKind
from duroxide.state import SetCustomStatus, SetKeyValue
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
    message,
)


class AtomicitySuite(SuiteBase):
    @confirms("test_atomicity_failure_rollback")
    async def test_a_conflicting_turn_writes_nothing_and_keeps_the_lease(
        self, store: StoreDriver
    ) -> None:
        await store.running("i1")
        await store.send("i1", "again")
        leased = await store.lease("i1")
        conflicting = store.turn(
            leased,
            first_event_id=1,
            activities=(activity("i1", 1),),
            messages=(message("i2", "hello", kind=MessageKind.START),),
            custom_status=SetCustomStatus(status="written"),
            key_values=(SetKeyValue(key="k", value="v", updated_at_ms=1),),
        )
        assert await store.code(conflicting) is CommitCode.HISTORY_CONFLICT
        assert await store.event_ids("i1") == [1]
        assert await store.poll_activities() == ()
        assert (await store.status("i1")).custom_status is None
        assert await store.provider.read_key_values("i1") == {}
        assert await store.poll() == (), "still leased, and i2 was not started"
        assert await store.code(store.turn(leased)) is CommitCode.APPLIED

    @confirms("test_multi_operation_atomic_ack")
    async def test_everything_in_one_turn_is_stored_together(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        await store.commit_turn(
            leased,
            5,
            activities=tuple(activity("i1", number) for number in (2, 3, 4)),
            messages=(
                message(
                    "i1",
                    "timer",
                    kind=MessageKind.TIMER,
                    visible_at_ms=store.now_ms() - 1,
                    timer=(1, 5),
                ),
                message("i1", "event"),
            ),
            custom_status=SetCustomStatus(status="busy"),
            key_values=(SetKeyValue(key="k", value="v", updated_at_ms=7),),
        )
        assert await store.event_ids("i1") == [1, 2, 3, 4, 5]
        leased_activities = await store.poll_activities()
        assert [a.activity_id for a in leased_activities] == [2, 3, 4]
        assert [a.body for a in leased_activities] == ["i1#2", "i1#3", "i1#4"]
        assert bodies(await store.lease("i1")) == ["timer", "event"]
        assert (await store.status("i1")).custom_status == "busy"
        assert (await store.provider.read_key_values("i1"))["k"].value == "v"

    @confirms("test_lock_released_only_on_successful_ack")
    async def test_only_a_successful_commit_gives_the_lease_back(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        bogus = dataclasses.replace(store.turn(leased), token=TurnToken("bogus/i1"))
        assert await store.code(bogus) is CommitCode.LEASE_LOST
        assert await store.poll() == ()
        store.clock.advance(LEASE_MS)
        assert (await store.lease("i1")).attempt_count == 2

    @confirms("test_concurrent_ack_prevention")
    async def test_of_two_simultaneous_commits_one_is_applied(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        one = store.turn(leased, 1)
        other = store.turn(leased, 2)
        codes = await asyncio.gather(store.code(one), store.code(other))
        assert sorted(code is CommitCode.APPLIED for code in codes) == [False, True]
        assert await store.event_ids("i1") in ([1], [1, 2])

    @confirms("test_invalid_lock_token_on_ack")
    async def test_unknown_tokens_are_answered_not_raised(self, store: StoreDriver) -> None:
        abandon = AbandonTurn(instance_id="nobody", token=TurnToken("bogus/nobody"))
        assert await store.code(abandon) is CommitCode.LEASE_LOST
        await store.start("i1")
        leased = await store.lease("i1")
        bogus = dataclasses.replace(store.turn(leased), token=TurnToken("bogus/i1"))
        assert await store.code(bogus) is CommitCode.LEASE_LOST
        assert await store.statuses("i1") == {}

    @confirms("test_duplicate_event_id_rejection")
    async def test_an_event_id_is_written_once(self, store: StoreDriver) -> None:
        await store.running("i1")
        first = await store.history("i1")
        await store.send("i1", "again")
        leased = await store.lease("i1")
        again = store.turn(leased, first_event_id=1)
        assert await store.code(again) is CommitCode.HISTORY_CONFLICT
        assert await store.history("i1") == first

    async def test_history_has_no_gap(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "again")
        leased = await store.lease("i1")
        gap = store.turn(leased, first_event_id=3)
        assert await store.code(gap) is CommitCode.HISTORY_CONFLICT
        assert await store.event_ids("i1") == [1]

    @confirms("test_missing_instance_metadata")
    async def test_an_unknown_instance_reads_as_empty(self, store: StoreDriver) -> None:
        assert await store.history("nobody") == []
        assert await store.statuses("nobody") == {}
        assert await store.provider.read_key_values("nobody") == {}

    @confirms("test_lock_expiration_during_ack")
    async def test_a_commit_after_the_lease_ended_writes_nothing(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        store.clock.advance(LEASE_MS)
        assert await store.code(store.turn(leased)) is CommitCode.LEASE_LOST
        assert await store.history("i1") == []
        assert await store.statuses("i1") == {}
