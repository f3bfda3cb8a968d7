"""Activities that a commit gives to the committing worker (`eager_dispatch`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from duroxide.providers.base import CommitCode, EagerDispatch, TagMode, TagSelection
from duroxide.testing.provider_suite.capabilities import needs
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    WORKER,
    StoreDriver,
    SuiteBase,
    activity,
)


def eager(limit: int, tags: TagSelection | None = None) -> EagerDispatch:
    return EagerDispatch(worker=WORKER, limit=limit, lease_ms=LEASE_MS, tags=tags or TagSelection())


class EagerDispatchSuite(SuiteBase):
    async def test_a_commit_gives_its_own_activities(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("i1")
        turn = store.turn(
            await store.lease("i1"), activities=(activity("i1", 2), activity("i1", 3))
        )
        result = await store.commit(turn, eager=eager(10))
        assert [a.activity_id for a in result.activities] == [2, 3]
        first = result.activities[0]
        assert (first.instance_id, first.execution_id, first.body) == ("i1", 1, "i1#2")
        assert (first.attempt_count, first.expires_at_ms) == (1, store.now_ms() + LEASE_MS)
        assert await store.poll_activities() == ()
        assert await store.finish(first) is CommitCode.APPLIED

    async def test_the_limit_holds_for_the_whole_batch(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("a")
        await store.start("b")
        turns = [
            store.turn(t, activities=tuple(activity(t.instance_id, n) for n in (2, 3)))
            for t in await store.poll()
        ]
        results = await store.provider.commit(turns, eager=eager(3))
        given = [(a.instance_id, a.activity_id) for r in results for a in r.activities]
        assert given == [("a", 2), ("a", 3), ("b", 2)]
        rest = await store.poll_activities()
        assert [(a.instance_id, a.activity_id) for a in rest] == [("b", 3)]

    async def test_tags_decide_and_sessions_are_left_to_the_poll(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("i1")
        turn = store.turn(
            await store.lease("i1"),
            activities=(
                activity("i1", 2),
                activity("i1", 3, tag="gpu"),
                activity("i1", 4, session_id="s"),
            ),
        )
        gpu = TagSelection(TagMode.TAGS, frozenset({"gpu"}))
        result = await store.commit(turn, eager=eager(10, gpu))
        assert [a.activity_id for a in result.activities] == [3]

    async def test_the_room_of_a_tag_holds_for_the_whole_batch(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("a")
        await store.start("b")
        turns = [
            store.turn(
                t,
                activities=(
                    activity(t.instance_id, 2, tag="sql/ann"),
                    activity(t.instance_id, 3, tag="sql/ann"),
                    activity(t.instance_id, 4, tag="sql/bob"),
                    activity(t.instance_id, 5),
                ),
            )
            for t in await store.poll()
        ]

        def room(tag: str) -> Sequence[tuple[str, int]]:
            return ((tag, 1 if tag == "sql/ann" else 9), ("sql", 2))

        offer = dataclasses.replace(eager(10, TagSelection(TagMode.ANY)), room=room)
        results = await store.provider.commit(turns, eager=offer)
        given = [(a.instance_id, a.activity_id) for r in results for a in r.activities]
        assert given == [("a", 2), ("a", 4), ("a", 5), ("b", 5)]

    async def test_an_activity_cancelled_in_the_same_turn_is_not_given(
        self, store: StoreDriver
    ) -> None:
        needs(store, "eager_dispatch")
        await store.start("i1")
        turn = store.turn(
            await store.lease("i1"),
            activities=(activity("i1", 2), activity("i1", 3)),
            cancelled_activities=(2,),
        )
        result = await store.commit(turn, eager=eager(10))
        assert [a.activity_id for a in result.activities] == [3]

    async def test_a_refused_turn_gives_nothing(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("i1")
        turn = store.turn(
            await store.lease("i1"), first_event_id=5, activities=(activity("i1", 2),)
        )
        result = await store.commit(turn, eager=eager(10))
        assert (result.code, result.activities) == (CommitCode.HISTORY_CONFLICT, ())

    async def test_what_was_given_and_lost_comes_by_the_queue(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        await store.start("i1")
        turn = store.turn(await store.lease("i1"), activities=(activity("i1", 2),))
        await store.commit(turn, eager=eager(1))
        store.clock.advance(LEASE_MS)
        assert (await store.lease_activity()).attempt_count == 2
