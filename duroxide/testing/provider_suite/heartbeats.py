"""What an activity leaves for its next delivery (`heartbeats`)."""

from __future__ import annotations

from typing import cast

from duroxide.providers.base import AbandonActivity, HeartbeatStore, LeasedActivity
from duroxide.testing.provider_suite.capabilities import needs
from duroxide.testing.provider_suite.driver import LEASE_MS, StoreDriver, SuiteBase, activity


class HeartbeatSuite(SuiteBase):
    async def leased(self, store: StoreDriver) -> LeasedActivity:
        needs(store, "heartbeats")
        await store.start("i1")
        await store.commit_turn(await store.lease("i1"), 2, activities=(activity("i1", 2),))
        leased = await store.lease_activity()
        assert leased.heartbeat is None
        return leased

    async def beat(self, store: StoreDriver, leased: LeasedActivity, text: str) -> None:
        await cast("HeartbeatStore", store.provider).heartbeat({leased.token: text})

    async def test_the_next_delivery_has_the_last_heartbeat(self, store: StoreDriver) -> None:
        leased = await self.leased(store)
        await self.beat(store, leased, '{"done":1}')
        await self.beat(store, leased, '{"done":2}')
        store.clock.advance(LEASE_MS)
        again = await store.lease_activity()
        assert (again.attempt_count, again.heartbeat) == (2, '{"done":2}')
        await store.provider.commit([AbandonActivity(token=again.token)])
        assert (await store.lease_activity()).heartbeat == '{"done":2}'

    async def test_a_heartbeat_extends_no_lease(self, store: StoreDriver) -> None:
        leased = await self.leased(store)
        store.clock.advance(LEASE_MS - 1)
        await self.beat(store, leased, "1")
        store.clock.advance(1)
        assert (await store.lease_activity()).activity_id == leased.activity_id

    async def test_only_the_holder_is_heard(self, store: StoreDriver) -> None:
        leased = await self.leased(store)
        store.clock.advance(LEASE_MS)
        await self.beat(store, leased, '"too late"')
        again = await store.lease_activity()
        assert again.heartbeat is None
        await self.beat(store, leased, '"of somebody else"')
        store.clock.advance(LEASE_MS)
        assert (await store.lease_activity()).heartbeat is None

    async def test_other_activities_have_other_heartbeats(self, store: StoreDriver) -> None:
        leased = await self.leased(store)
        await self.beat(store, leased, '"of the first"')
        await store.finish(leased)
        await store.commit_turn(await store.lease("i1"), 1, activities=(activity("i1", 3),))
        assert (await store.lease_activity()).heartbeat is None
