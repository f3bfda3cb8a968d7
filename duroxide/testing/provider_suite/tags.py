"""Which worker is given which activity."""

from __future__ import annotations

from duroxide.providers.base import TagMode, TagSelection
from duroxide.testing.provider_suite.driver import StoreDriver, SuiteBase, activity

ANY = TagSelection(TagMode.ANY)
NONE = TagSelection(TagMode.NONE)


def only(*tags: str) -> TagSelection:
    return TagSelection(TagMode.TAGS, frozenset(tags))


def default_and(*tags: str) -> TagSelection:
    return TagSelection(TagMode.DEFAULT_AND, frozenset(tags))


def but(*tags: str) -> TagSelection:
    return TagSelection(TagMode.EXCEPT, frozenset(tags))


async def mixed(store: StoreDriver) -> None:
    """2 untagged, 3 gpu, 4 untagged, 5 big."""
    await store.schedule(
        activity("i1", 2),
        activity("i1", 3, tag="gpu"),
        activity("i1", 4),
        activity("i1", 5, tag="big"),
    )


async def found(store: StoreDriver, tags: TagSelection) -> list[int]:
    """Whom a poll with this selection leases; they are given back."""
    leased = await store.poll_activities(tags=tags)
    for item in leased:
        await store.abandon_activity(item, count_attempt=False)
    return [item.activity_id for item in leased]


class TagSuite(SuiteBase):
    async def test_default_only_fetches_untagged(self, store: StoreDriver) -> None:
        await mixed(store)
        assert await found(store, TagSelection()) == [2, 4]

    async def test_tags_fetches_only_matching(self, store: StoreDriver) -> None:
        await mixed(store)
        assert await found(store, only("gpu")) == [3]
        assert await found(store, only("other")) == []

    async def test_default_and_fetches_untagged_and_matching(self, store: StoreDriver) -> None:
        await mixed(store)
        assert await found(store, default_and("gpu")) == [2, 3, 4]

    async def test_none_filter_returns_nothing(self, store: StoreDriver) -> None:
        await mixed(store)
        assert await found(store, NONE) == []

    async def test_any_filter_fetches_everything(self, store: StoreDriver) -> None:
        await mixed(store)
        assert await found(store, ANY) == [2, 3, 4, 5]

    async def test_multi_tag_filter(self, store: StoreDriver) -> None:
        await mixed(store)
        assert await found(store, only("gpu", "big")) == [3, 5]

    async def test_tag_round_trip_preservation(self, store: StoreDriver) -> None:
        await mixed(store)
        assert [a.tag for a in await store.poll_activities(tags=ANY)] == [None, "gpu", None, "big"]

    async def test_tag_survives_abandon_and_refetch(self, store: StoreDriver) -> None:
        await store.schedule(activity("i1", 2, tag="gpu"))
        await store.abandon_activity(await store.lease_activity(tags=only("gpu")))
        assert await store.poll_activities() == ()
        assert (await store.lease_activity(tags=only("gpu"))).tag == "gpu"

    async def test_multi_runtime_tag_isolation(self, store: StoreDriver) -> None:
        await mixed(store)
        gpu = await store.poll_activities(tags=only("gpu"))
        rest = await store.poll_activities(tags=default_and("gpu"))
        everything = await store.poll_activities(tags=ANY)
        assert [a.activity_id for a in gpu] == [3]
        assert [a.activity_id for a in rest] == [2, 4]
        assert [a.activity_id for a in everything] == [5]

    async def test_tag_preserved_through_ack_orchestration_item(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "more")
        await store.commit_turn(await store.lease("i1"), activities=(activity("i1", 2, tag="gpu"),))
        assert (await store.lease_activity(tags=only("gpu"))).tag == "gpu"

    async def test_tags_are_compared_exactly(self, store: StoreDriver) -> None:
        names = ["a", "A", "a ", "ä", "a%", "other"]
        await store.schedule(
            *(activity("i1", number, tag=name) for number, name in enumerate(names, 2))
        )
        for number, name in enumerate(names[:-1], 2):
            assert await found(store, only(name)) == [number]

    async def test_other_tags_at_the_head_do_not_hide_mine(self, store: StoreDriver) -> None:
        many = tuple(activity("i1", number, tag="slow") for number in range(2, 302))
        await store.schedule(*many, activity("i1", 302))
        assert await found(store, TagSelection()) == [302]

    async def test_except_fetches_untagged_and_what_is_not_below(self, store: StoreDriver) -> None:
        await store.schedule(
            activity("i1", 2),
            activity("i1", 3, tag="sql/ann"),
            activity("i1", 4, tag="sql/ann/x"),
            activity("i1", 5, tag="sql/anne"),
            activity("i1", 6, tag="sql"),
            activity("i1", 7, tag="s_l/ann"),
        )
        assert await found(store, but("sql/ann")) == [2, 5, 6, 7]
        assert await found(store, but("sql")) == [2, 7]
        assert await found(store, but("sql", "s_l/ann", "x", "y", "z", "%")) == [2]
        assert await found(store, ANY) == [2, 3, 4, 5, 6, 7]
