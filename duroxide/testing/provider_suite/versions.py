"""A worker is given only executions that its engine understands."""

from __future__ import annotations

import asyncio
import dataclasses

from duroxide.providers.base import MessageKind
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import StoreDriver, SuiteBase, new_execution
from duroxide.version import SemVer, VersionRange


def v(text: str) -> SemVer:
    return SemVer.parse(text)


def between(low: str, high: str) -> tuple[VersionRange, ...]:
    return (VersionRange(v(low), v(high)),)


async def waiting(store: StoreDriver, *versions: str) -> None:
    """Instances named like the engine version of their execution, each with a message waiting."""
    for version in versions:
        await store.start(version)
        pinned = new_execution(engine_version=v(version))
        await store.commit_turn(await store.lease(version), new=pinned)
    for version in versions:
        await store.send(version, "more")


async def found(store: StoreDriver, versions: tuple[VersionRange, ...] | None) -> list[str]:
    """Whom a poll with these versions leases; they are given back."""
    turns = await store.poll(versions=versions)
    for turn in turns:
        await store.abandon(turn, count_attempt=False)
    return [turn.instance_id for turn in turns]


class VersionSuite(SuiteBase):
    async def test_fetch_with_filter_none_returns_any_item(self, store: StoreDriver) -> None:
        await waiting(store, "99.0.0")
        assert await found(store, None) == ["99.0.0"]

    async def test_fetch_with_compatible_filter_returns_item(self, store: StoreDriver) -> None:
        await waiting(store, "1.5.0")
        assert await found(store, between("1.0.0", "1.9.0")) == ["1.5.0"]

    async def test_fetch_with_incompatible_filter_skips_item(self, store: StoreDriver) -> None:
        await waiting(store, "2.0.0")
        assert await found(store, between("1.0.0", "1.9.0")) == []

    async def test_fetch_filter_skips_incompatible_selects_compatible(
        self, store: StoreDriver
    ) -> None:
        await waiting(store, "1.0.0", "2.0.0")
        assert await found(store, between("1.0.0", "1.9.9")) == ["1.0.0"]
        assert await found(store, between("2.0.0", "2.9.9")) == ["2.0.0"]

    async def test_fetch_filter_does_not_lock_skipped_instances(self, store: StoreDriver) -> None:
        await waiting(store, "2.0.0")
        assert await found(store, between("1.0.0", "1.9.9")) == []
        leased = await store.lease("2.0.0")
        assert leased.attempt_count == 1, "being skipped is not a delivery"

    async def test_fetch_filter_null_pinned_version_always_compatible(
        self, store: StoreDriver
    ) -> None:
        await store.start("new")
        assert await found(store, between("1.0.0", "1.0.0")) == ["new"]

    async def test_fetch_filter_boundary_versions(self, store: StoreDriver) -> None:
        await waiting(store, "1.0.0", "1.9.99", "2.0.0")
        assert await found(store, between("1.0.0", "1.9.99")) == ["1.0.0", "1.9.99"]
        assert await found(store, between("1.0.1", "2.0.0")) == ["1.9.99", "2.0.0"]

    @confirms("all_version_ranges_count")
    async def test_numbers_of_a_thousand_and_more(self, store: StoreDriver) -> None:
        await waiting(store, "1.0.5000", "1.5000.0", "2.0.0")
        assert await found(store, between("1.0.0", "1.0.9999")) == ["1.0.5000"]
        assert await found(store, between("1.1.0", "1.9999.0")) == ["1.5000.0"]

    async def test_pinned_version_stored_via_ack_metadata(self, store: StoreDriver) -> None:
        await waiting(store, "1.2.3")
        assert await found(store, between("0.0.0", "1.2.2")) == []
        assert await found(store, between("1.2.4", "9.9.9")) == []
        assert await found(store, between("1.2.3", "1.2.3")) == ["1.2.3"]

    async def test_pinned_version_immutable_across_ack_cycles(self, store: StoreDriver) -> None:
        await waiting(store, "1.0.0")
        await store.commit_turn(await store.lease("1.0.0"))
        await store.send("1.0.0", "more")
        assert await found(store, between("2.0.0", "2.9.9")) == []
        assert await found(store, between("1.0.0", "1.9.9")) == ["1.0.0"]

    @confirms("test_ack_stores_pinned_version_via_metadata_update")
    async def test_provider_updates_pinned_version_when_told(self, store: StoreDriver) -> None:
        await waiting(store, "1.0.0")
        leased = await store.lease("1.0.0")
        await store.commit_turn(leased, new=new_execution(engine_version=v("2.0.0")))
        await store.send("1.0.0", "more")
        assert await found(store, between("1.0.0", "1.9.9")) == []
        assert await found(store, between("2.0.0", "2.9.9")) == ["1.0.0"]

    async def test_continue_as_new_execution_gets_own_pinned_version(
        self, store: StoreDriver
    ) -> None:
        await waiting(store, "1.0.0")
        await store.send("1.0.0", "again", kind=MessageKind.CONTINUE_AS_NEW)
        leased = await store.lease("1.0.0")
        await store.commit_turn(
            leased,
            execution_id=2,
            first_event_id=1,
            new=new_execution(engine_version=v("3.0.0")),
        )
        await store.send("1.0.0", "more")
        assert await found(store, between("1.0.0", "1.9.9")) == []
        assert await found(store, between("3.0.0", "3.0.0")) == ["1.0.0"]

    async def test_filter_with_empty_supported_versions_returns_nothing(
        self, store: StoreDriver
    ) -> None:
        await waiting(store, "1.0.0")
        await store.start("new")
        assert await found(store, ()) == []

    @confirms("test_fetch_single_range_only_uses_first_range", "all_version_ranges_count")
    async def test_all_ranges_count(self, store: StoreDriver) -> None:
        await waiting(store, "1.0.0", "2.0.0", "3.0.0")
        ranges = (*between("1.0.0", "1.9.9"), *between("3.0.0", "3.9.9"))
        assert await found(store, ranges) == ["1.0.0", "3.0.0"]

    async def test_concurrent_filtered_fetch_no_double_lock(self, store: StoreDriver) -> None:
        await waiting(store, "1.0.0")
        versions = between("1.0.0", "1.9.9")
        polls = await asyncio.gather(*(store.poll(versions=versions) for _ in range(5)))
        assert sum(len(turns) for turns in polls) == 1

    async def test_incompatible_instances_do_not_hide_others(self, store: StoreDriver) -> None:
        for number in range(200):
            await store.start(f"new{number:03}")
        turns = await store.poll(200)
        pinned = new_execution(engine_version=v("2.0.0"))
        await store.provider.commit([store.turn(turn, new=pinned) for turn in turns])
        for turn in turns:
            await store.send(turn.instance_id, "more")
        await store.start("mine")
        assert await found(store, between("1.0.0", "1.9.9")) == ["mine"]

    async def test_a_repeated_description_of_an_execution(self, store: StoreDriver) -> None:
        await waiting(store, "1.0.0")
        leased = await store.lease("1.0.0")
        described = dataclasses.replace(new_execution("Other", "9.9.9"), parent_instance_id="p")
        await store.commit_turn(leased, new=described)
        status = await store.status("1.0.0")
        assert (status.name, status.version) == ("Other", "9.9.9")
        assert status.parent_instance_id == "p"
