"""Only events that the caller does not have are sent (`history_suffix`)."""

from __future__ import annotations

from duroxide.providers.base import Cursor
from duroxide.testing.provider_suite.capabilities import needs
from duroxide.testing.provider_suite.driver import StoreDriver, SuiteBase, event


class HistorySuffixSuite(SuiteBase):
    async def waiting(self, store: StoreDriver) -> None:
        """An instance with three events and a message."""
        needs(store, "history_suffix")
        await store.start("i1")
        await store.commit_turn(await store.lease("i1"), 3)
        await store.send("i1", "more")

    async def test_a_known_history_is_not_sent_again(self, store: StoreDriver) -> None:
        await self.waiting(store)
        leased = await store.lease("i1", known={"i1": Cursor(1, 3)})
        assert (leased.history, leased.history_after, leased.next_event_id) == ((), 3, 4)

    async def test_only_what_is_missing_is_sent(self, store: StoreDriver) -> None:
        await self.waiting(store)
        await store.commit_turn(await store.lease("i1"), 2)
        await store.send("i1", "more")
        leased = await store.lease("i1", known={"i1": Cursor(1, 3)})
        assert leased.next_event_id == 6
        if leased.history_after:
            assert (leased.history_after, leased.history) == (3, (event(4), event(5)))
        else:
            assert len(leased.history) == 5

    async def test_a_cursor_of_another_execution_counts_for_nothing(
        self, store: StoreDriver
    ) -> None:
        await self.waiting(store)
        leased = await store.lease("i1", known={"i1": Cursor(2, 3)})
        assert (leased.history_after, len(leased.history)) == (0, 3)

    async def test_a_cursor_ahead_of_the_store_counts_for_nothing(self, store: StoreDriver) -> None:
        await self.waiting(store)
        leased = await store.lease("i1", known={"i1": Cursor(1, 4)})
        assert (leased.history_after, len(leased.history)) == (0, 3)

    async def test_cursors_of_others_do_not_matter(self, store: StoreDriver) -> None:
        await self.waiting(store)
        leased = await store.lease("i1", known={"i2": Cursor(1, 3), "nobody": Cursor(1, 1)})
        assert (leased.history_after, len(leased.history)) == (0, 3)
