"""What can't be read is neither dropped nor hidden, is counted, and disturbs nobody else."""

from __future__ import annotations

import dataclasses

import pytest

from duroxide.codec import decode_event
from duroxide.errors import CodecError, ProviderError
from duroxide.providers.base import CommitCode, LeasedTurn, MessageKind
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import (
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
    message,
    new_execution,
)
from duroxide.version import SemVer, VersionRange

GARBAGE = "{not an event"
OLD, NEW = SemVer.parse("1.0.0"), SemVer.parse("2.0.0")
FAILURE = "poison: history deserialization failed after 11 attempts (max 10)"


def tells(leased: LeasedTurn) -> bool:
    """Whether a turn says that its history can't be read: in so many words, or by handing it over."""
    if leased.history_error is not None:
        return leased.history == ()
    try:
        for text in leased.history:
            decode_event(text)
    except CodecError:
        return GARBAGE in "\n".join(leased.history)
    return False


class CorruptionSuite(SuiteBase):
    async def corrupted(self, store: StoreDriver) -> None:
        """An instance of engine version 1.0.0 with an unreadable event, and a message."""
        await store.start("i1")
        await store.commit_turn(await store.lease("i1"), new=new_execution(engine_version=OLD))
        await self.corrupt_history(store.provider, "i1", GARBAGE)
        await store.send("i1", "more")

    async def test_fetch_corrupted_history_filtered_vs_unfiltered(self, store: StoreDriver) -> None:
        await self.corrupted(store)
        assert await store.poll(versions=(VersionRange(NEW, NEW),)) == ()
        leased = await store.lease("i1", versions=(VersionRange(OLD, OLD),))
        assert tells(leased)
        assert (leased.next_event_id, bodies(leased)) == (2, ["more"])
        assert leased.attempt_count == 1, "being passed over is no delivery"

    async def test_fetch_filter_applied_before_history_deserialization(
        self, store: StoreDriver
    ) -> None:
        await self.corrupted(store)
        await store.start("i2")
        assert [t.instance_id for t in await store.poll(versions=(VersionRange(NEW, NEW),))] == [
            "i2"
        ]

    async def test_fetch_deserialization_error_increments_attempt_count(
        self, store: StoreDriver
    ) -> None:
        await self.corrupted(store)
        for attempt in (1, 2, 3):
            leased = await store.lease("i1")
            assert tells(leased)
            assert leased.attempt_count == attempt
            await store.abandon(leased)

    async def test_fetch_deserialization_error_eventually_reaches_poison(
        self, store: StoreDriver
    ) -> None:
        await self.corrupted(store)
        for _ in range(10):
            await store.abandon(await store.lease("i1"))
        leased = await store.lease("i1")
        assert (leased.attempt_count, bodies(leased)) == (11, ["more"])
        assert (leased.name, tells(leased)) == ("Greet", True)

    async def test_ack_appends_event_to_corrupted_history(self, store: StoreDriver) -> None:
        await self.corrupted(store)
        leased = await store.lease("i1")
        await store.commit_turn(leased, status=ExecutionStatus.FAILED, output=FAILURE)
        state = await store.status("i1")
        assert (state.status, state.output) == (ExecutionStatus.FAILED, FAILURE)
        await store.send("i1", "late")
        late = await store.lease("i1")
        assert late.next_event_id == 3
        assert tells(late), "what was there is kept for whoever can read it"

    async def test_reading_an_unreadable_history_never_shortens_it(
        self, store: StoreDriver
    ) -> None:
        await self.corrupted(store)
        try:
            texts = await store.provider.read_history("i1")
        except ProviderError:
            return
        assert GARBAGE in "\n".join(texts)

    @confirms("storage_error_is_no_corruption")
    async def test_a_store_that_fails_is_no_corrupt_history(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "more")
        async with self.failing_reads(store.provider):
            with pytest.raises(ProviderError):
                await store.poll()
        leased = await store.lease("i1")
        assert (leased.attempt_count, len(leased.history)) == (1, 1), "nothing was delivered"

    async def test_others_have_nothing_to_do_with_it(self, store: StoreDriver) -> None:
        await store.running("i2")
        await self.corrupted(store)
        await store.send("i2", "more")
        turns = await store.poll()
        assert [turn.instance_id for turn in turns] == ["i1", "i2"]
        assert turns[1].history_error is None
        assert len(turns[1].history) == 1
        await store.commit_turn(turns[1])

    @confirms("test_corrupted_serialization_data", "unreadable_message_surfaces")
    async def test_an_unreadable_message_comes_with_the_others_and_is_counted(
        self, store: StoreDriver
    ) -> None:
        await store.running("i1")
        for body in ("one", GARBAGE, ""):
            await store.send("i1", body, kind=MessageKind.QUEUE)
        for attempt in range(1, 12):
            leased = await store.lease("i1")
            assert (bodies(leased), leased.attempt_count) == (["one", GARBAGE, ""], attempt)
            await store.abandon(leased)
        await store.start("i2")
        assert {turn.instance_id for turn in await store.poll()} == {"i1", "i2"}

    @confirms("test_corrupted_serialization_data", "unreadable_activity_is_counted")
    async def test_an_unreadable_activity_is_delivered_and_counted(
        self, store: StoreDriver
    ) -> None:
        unreadable = dataclasses.replace(activity("i1", 2), body=GARBAGE)
        await store.schedule(unreadable, activity("i1", 3))
        for attempt in range(1, 12):
            leased = await store.lease_activity()
            assert (leased.activity_id, leased.body) == (2, GARBAGE)
            assert leased.attempt_count == attempt
            await store.abandon_activity(leased)
        assert [a.activity_id for a in await store.poll_activities()] == [2, 3]

    async def test_an_unreadable_activity_can_be_finished(self, store: StoreDriver) -> None:
        unreadable = dataclasses.replace(activity("i1", 2), body=GARBAGE)
        await store.schedule(unreadable)
        assert await store.finish(await store.lease_activity(), "poison") is CommitCode.APPLIED
        assert bodies(await store.lease("i1")) == ["poison"]

    async def test_text_that_was_refused_leaves_no_trace(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "more")
        leased = await store.lease("i1")
        unstorable = store.turn(leased, messages=(message("i1", "a\x00b"),))
        assert await store.code(unstorable) is CommitCode.REFUSED
        assert await store.event_ids("i1") == [1]
        await store.commit_turn(leased)
