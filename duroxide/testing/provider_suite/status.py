"""The custom status of an instance, and its version."""

from __future__ import annotations

from duroxide.providers.base import CommitCode
from duroxide.state import ExecutionStatus, SetCustomStatus
from duroxide.testing.provider_suite.driver import StoreDriver, SuiteBase


async def set_status(store: StoreDriver, status: str | None) -> None:
    await store.send("i1", "more")
    turn = await store.lease("i1")
    await store.commit_turn(turn, custom_status=SetCustomStatus(status=status))


async def read(store: StoreDriver) -> tuple[str | None, int]:
    status = await store.status("i1")
    return status.custom_status, status.custom_status_version


class CustomStatusSuite(SuiteBase):
    async def test_custom_status_set(self, store: StoreDriver) -> None:
        await store.running("i1")
        await set_status(store, "half way")
        assert await read(store) == ("half way", 1)

    async def test_custom_status_set_by_the_first_turn(self, store: StoreDriver) -> None:
        await store.start("i1")
        await store.commit_turn(
            await store.lease("i1"), custom_status=SetCustomStatus(status="begun")
        )
        assert await read(store) == ("begun", 1)

    async def test_custom_status_clear(self, store: StoreDriver) -> None:
        await store.running("i1")
        await set_status(store, "half way")
        await set_status(store, None)
        assert await read(store) == (None, 2)

    async def test_custom_status_none_preserves(self, store: StoreDriver) -> None:
        await store.running("i1")
        await set_status(store, "half way")
        await store.send("i1", "more")
        await store.commit_turn(await store.lease("i1"))
        assert await read(store) == ("half way", 1)

    async def test_custom_status_version_increments(self, store: StoreDriver) -> None:
        await store.running("i1")
        for version in (1, 2, 3):
            await set_status(store, "same")
            assert await read(store) == ("same", version)

    async def test_custom_status_polling_no_change(self, store: StoreDriver) -> None:
        await store.running("i1")
        await set_status(store, "half way")
        assert await read(store) == await read(store)

    async def test_custom_status_nonexistent_instance(self, store: StoreDriver) -> None:
        assert await store.statuses("nobody") == {}

    async def test_custom_status_default_on_new_instance(self, store: StoreDriver) -> None:
        await store.running("i1")
        assert await read(store) == (None, 0)

    async def test_custom_status_survives_the_end(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "last")
        await store.commit_turn(
            await store.lease("i1"),
            status=ExecutionStatus.FAILED,
            output="it broke",
            custom_status=SetCustomStatus(status="broken"),
        )
        assert await read(store) == ("broken", 1)

    async def test_custom_status_of_a_refused_turn_is_not_set(self, store: StoreDriver) -> None:
        await store.running("i1")
        await store.send("i1", "more")
        leased = await store.lease("i1")
        refused = store.turn(
            leased, first_event_id=9, custom_status=SetCustomStatus(status="never")
        )
        assert await store.code(refused) is CommitCode.HISTORY_CONFLICT
        assert await read(store) == (None, 0)

    async def test_an_empty_and_a_long_custom_status(self, store: StoreDriver) -> None:
        await store.running("i1")
        await set_status(store, "")
        assert await read(store) == ("", 1)
        await set_status(store, "ü" * 100_000)
        assert await read(store) == ("ü" * 100_000, 2)

    async def test_of_an_id_that_no_store_can_keep_there_is_nothing(
        self, store: StoreDriver
    ) -> None:
        """And whoever asks for it along with others takes nothing from them."""
        await store.running("i1")
        for impossible in ("i\0", "\ud800"):
            assert list(await store.statuses(impossible, "i1")) == ["i1"]
            assert await store.provider.read_history(impossible) in ((), [])
            assert await store.provider.read_key_values(impossible) == {}
