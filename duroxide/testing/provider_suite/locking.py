"""An instance has at most one holder, who owns exactly the messages he was given."""

from __future__ import annotations

import asyncio
import dataclasses

from duroxide.ids import TurnToken
from duroxide.providers.base import AbandonTurn, CommitCode, MessageKind
from duroxide.testing.provider_suite.driver import LEASE_MS, StoreDriver, SuiteBase, bodies


class LockingSuite(SuiteBase):
    async def test_exclusive_instance_lock(self, store: StoreDriver) -> None:
        await store.start("i1")
        first = await store.lease("i1")
        assert await store.poll() == ()
        store.clock.advance(LEASE_MS - 1)
        assert await store.poll() == ()
        store.clock.advance(1)
        assert (await store.lease("i1")).token != first.token

    async def test_lock_token_uniqueness(self, store: StoreDriver) -> None:
        for number in range(5):
            await store.start(f"i{number}")
        assert len({turn.token for turn in await store.poll()}) == 5

    async def test_invalid_lock_token_rejection(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        bogus = TurnToken("bogus/i1")
        turn = dataclasses.replace(store.turn(leased), token=bogus)
        assert await store.code(turn) is CommitCode.LEASE_LOST
        abandon = AbandonTurn(instance_id="i1", token=bogus)
        assert await store.code(abandon) is CommitCode.LEASE_LOST
        assert await store.poll() == ()
        assert await store.code(store.turn(leased)) is CommitCode.APPLIED

    async def test_concurrent_instance_fetching(self, store: StoreDriver) -> None:
        names = {f"i{number}" for number in range(10)}
        for name in sorted(names):
            await store.start(name)
        polls = await asyncio.gather(*(store.poll(1) for _ in names))
        assert sorted(turn.instance_id for turns in polls for turn in turns) == sorted(names)

    async def test_completions_arriving_during_lock_blocked(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.lease("i1")
        for number in range(3):
            await store.send("i1", f"done {number}", kind=MessageKind.ACTIVITY)
        assert await store.poll() == ()
        store.clock.advance(LEASE_MS)
        assert bodies(await store.lease("i1")) == ["start", "done 0", "done 1", "done 2"]

    async def test_cross_instance_lock_isolation(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.lease("i1")
        await store.start("i2")
        second = await store.lease("i2")
        await store.commit_turn(second)
        await store.send("i2", "more")
        assert bodies(await store.lease("i2")) == ["more"]

    async def test_message_tagging_during_lock(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        await store.send("i1", "late")
        await store.commit_turn(leased)
        late = await store.lease("i1")
        assert bodies(late) == ["late"]
        assert late.attempt_count == 1

    async def test_ack_only_affects_locked_messages(self, store: StoreDriver) -> None:
        await store.start("i1")
        leased = await store.lease("i1")
        await store.send("i1", "late 1")
        await store.send("i1", "late 2")
        await store.commit_turn(leased)
        assert bodies(await store.lease("i1")) == ["late 1", "late 2"]

    async def test_messages_that_a_turn_does_not_consume_come_again(
        self, store: StoreDriver
    ) -> None:
        await store.start("i1")
        await store.send("i1", "one")
        leased = await store.lease("i1")
        await store.commit_turn(leased, consumed=(leased.messages[0].message_id,))
        assert bodies(await store.lease("i1")) == ["one"]

    async def test_multi_threaded_lock_contention(self, store: StoreDriver) -> None:
        await store.start("i1")
        polls = await asyncio.gather(*(store.poll(1) for _ in range(10)))
        assert sum(len(turns) for turns in polls) == 1

    async def test_multi_threaded_no_duplicate_processing(self, store: StoreDriver) -> None:
        for number in range(20):
            await store.start(f"i{number}")
        polls = await asyncio.gather(*(store.poll(1) for _ in range(40)))
        taken = [turn.instance_id for turns in polls for turn in turns]
        assert len(taken) == len(set(taken))
        taken += [turn.instance_id for turn in await store.poll(20)]
        assert sorted(taken) == sorted(f"i{number}" for number in range(20))

    async def test_multi_threaded_lock_expiration_recovery(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.lease("i1")
        assert await store.poll(2) == ()
        store.clock.advance(LEASE_MS)
        polls = await asyncio.gather(store.poll(1), store.poll(1))
        assert sum(len(turns) for turns in polls) == 1

    async def test_one_poll_gives_distinct_instances(self, store: StoreDriver) -> None:
        for number in range(3):
            await store.start(f"i{number}")
            await store.send(f"i{number}", "more")
        turns = await store.poll(10)
        assert [turn.instance_id for turn in turns] == ["i0", "i1", "i2"]
        assert all(bodies(turn) == ["start", "more"] for turn in turns)

    async def test_a_poll_takes_no_more_than_it_wants(self, store: StoreDriver) -> None:
        for number in range(5):
            await store.start(f"i{number}")
        assert [turn.instance_id for turn in await store.poll(2)] == ["i0", "i1"]
        assert [turn.instance_id for turn in await store.poll(10)] == ["i2", "i3", "i4"]

    async def test_a_locked_instance_at_the_head_does_not_hide_others(
        self, store: StoreDriver
    ) -> None:
        for number in range(200):
            await store.start(f"busy{number:03}")
        assert len(await store.poll(200)) == 200
        await store.start("free")
        await store.lease("free")
