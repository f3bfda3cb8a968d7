"""The same id, deleted and started again, is another instance: nobody may take it for the old one."""

from __future__ import annotations

from duroxide.providers.base import Cursor, LeasedTurn
from duroxide.testing.provider_suite.driver import StoreDriver, SuiteBase


class IncarnationSuite(SuiteBase):
    async def begin(self, store: StoreDriver) -> LeasedTurn:
        await store.start("i1")
        turn = await store.lease("i1")
        await store.commit_turn(turn, 2)
        return turn

    async def again(self, store: StoreDriver, cursor: Cursor | None = None) -> LeasedTurn:
        await store.send("i1", "more")
        return await store.lease("i1", known={} if cursor is None else {"i1": cursor})

    async def test_an_incarnation_lasts_as_long_as_the_instance(self, store: StoreDriver) -> None:
        first = await self.begin(store)
        second = await self.again(store)
        assert second.incarnation == first.incarnation != ""
        await store.commit_turn(second, 2)
        assert (await self.again(store)).incarnation == first.incarnation

    async def test_it_is_that_of_the_turn_that_was_committed(self, store: StoreDriver) -> None:
        await store.start("i1")
        given_up = await store.lease("i1")
        await store.abandon(given_up)
        committed = await store.lease("i1")
        await store.commit_turn(committed)
        assert (await self.again(store)).incarnation == committed.incarnation

    async def test_the_same_id_started_again_has_another_one(self, store: StoreDriver) -> None:
        old = await self.begin(store)
        await store.admin.delete_instances(["i1"], force=True)
        new = await self.begin(store)
        assert new.incarnation != old.incarnation
        assert (await self.again(store)).incarnation == new.incarnation

    async def test_a_cursor_of_a_life_before_counts_for_nothing(self, store: StoreDriver) -> None:
        if not store.provider.capabilities.history_suffix:
            return
        old = await self.begin(store)
        await store.admin.delete_instances(["i1"], force=True)
        new = await self.begin(store)
        known = await self.again(store, Cursor(1, 2, new.incarnation))
        assert (known.history_after, known.history) == (2, ())
        await store.abandon(known)
        unknown = await store.lease("i1", known={"i1": Cursor(1, 2, old.incarnation)})
        assert (unknown.history_after, len(unknown.history)) == (0, 2)
