"""Key-values: what code has stored, as clients see it and as an execution finds it when it begins."""

from __future__ import annotations

from typing import Any

from duroxide.providers.base import LeasedTurn, MessageKind, PruneOptions
from duroxide.state import (
    ClearKeyValue,
    ClearKeyValues,
    ExecutionStatus,
    KeyValueChange,
    SetKeyValue,
)
from duroxide.testing.provider_suite.driver import StoreDriver, SuiteBase, message


def put(key: str, value: str, at_ms: int = 1) -> SetKeyValue:
    return SetKeyValue(key=key, value=value, updated_at_ms=at_ms)


def drop(key: str) -> ClearKeyValue:
    return ClearKeyValue(key=key)


CLEAR = ClearKeyValues()


async def change(
    store: StoreDriver, *changes: KeyValueChange, instance_id: str = "i1", **more: Any
) -> None:
    """One turn that makes these changes, in order."""
    if instance_id not in await store.statuses(instance_id):
        await store.start(instance_id)
    else:
        await store.send(instance_id, "more")
    await store.commit_turn(await store.lease(instance_id), key_values=changes, **more)


async def values(store: StoreDriver, instance_id: str = "i1") -> dict[str, str]:
    """What a client reads."""
    stored = await store.provider.read_key_values(instance_id)
    return {key: value.value for key, value in stored.items()}


async def lease_next(store: StoreDriver, instance_id: str = "i1") -> LeasedTurn:
    await store.send(instance_id, "more")
    return await store.lease(instance_id)


async def snapshot(store: StoreDriver, instance_id: str = "i1") -> dict[str, str]:
    """What the next turn is given."""
    leased = await lease_next(store, instance_id)
    await store.abandon(leased, count_attempt=False)
    return {key: value.value for key, value in leased.key_values.items()}


async def continue_as_new(
    store: StoreDriver, *changes: KeyValueChange, then: tuple[KeyValueChange, ...] = ()
) -> None:
    """End the execution with these changes and begin the next one with those."""
    again = message("i1", "again", kind=MessageKind.CONTINUE_AS_NEW)
    await change(
        store, *changes, status=ExecutionStatus.CONTINUED_AS_NEW, output="", messages=(again,)
    )
    leased = await store.lease("i1")
    number = leased.execution_id + 1
    await store.commit_turn(leased, execution_id=number, first_event_id=1, key_values=then)


async def complete(store: StoreDriver, *changes: KeyValueChange, instance_id: str = "i1") -> None:
    await change(
        store, *changes, instance_id=instance_id, status=ExecutionStatus.COMPLETED, output="x"
    )


class KeyValueSuite(SuiteBase):
    # Setting, clearing, reading.

    async def test_kv_set_and_get(self, store: StoreDriver) -> None:
        await change(store, put("a", "1", 42))
        assert await values(store) == {"a": "1"}
        assert (await store.provider.read_key_values("i1"))["a"].updated_at_ms == 42

    async def test_kv_overwrite(self, store: StoreDriver) -> None:
        await change(store, put("a", "1", 1))
        await change(store, put("a", "2", 2))
        assert await values(store) == {"a": "2"}
        assert (await store.provider.read_key_values("i1"))["a"].updated_at_ms == 2

    async def test_kv_overwrite_within_one_turn(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"), put("a", "2"), put("a", "3"))
        assert await values(store) == {"a": "3"}

    async def test_kv_clear_single(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"), put("b", "2"))
        await change(store, drop("a"))
        assert await values(store) == {"b": "2"}

    async def test_kv_clear_all(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"), put("b", "2"))
        await change(store, CLEAR)
        assert await values(store) == {}

    async def test_kv_get_nonexistent(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"))
        assert "b" not in await values(store)

    async def test_kv_get_unknown_instance(self, store: StoreDriver) -> None:
        assert await values(store, "nobody") == {}

    async def test_kv_clear_nonexistent_key(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"))
        await change(store, drop("b"))
        assert await values(store) == {"a": "1"}

    async def test_kv_set_after_clear(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"), put("b", "2"))
        await change(store, CLEAR, put("a", "3"), drop("b"), put("c", "4"), drop("c"))
        assert await values(store) == {"a": "3"}

    async def test_kv_empty_value(self, store: StoreDriver) -> None:
        await change(store, put("a", ""))
        assert await values(store) == {"a": ""}

    async def test_kv_large_value(self, store: StoreDriver) -> None:
        await change(store, put("a", "ä" * 65_536))
        assert await values(store) == {"a": "ä" * 65_536}

    async def test_kv_special_chars_in_key(self, store: StoreDriver) -> None:
        keys = ["", " ", "a.b/c", "%", "_", "'", '"', "\\", "\n", "ключ", "😀"]
        await change(store, *(put(key, f"<{key}>") for key in keys))
        assert await values(store) == {key: f"<{key}>" for key in keys}

    async def test_kv_instance_isolation(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"))
        await change(store, put("a", "2"), instance_id="i2")
        assert await values(store) == {"a": "1"}
        assert await values(store, "i2") == {"a": "2"}

    async def test_kv_clear_isolation(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"))
        await change(store, put("a", "2"), instance_id="i2")
        await change(store, CLEAR, instance_id="i2")
        assert await values(store) == {"a": "1"}

    # What an execution is given when it begins.

    async def test_kv_snapshot_in_fetch(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1", 42))
        leased = await lease_next(store)
        assert leased.key_values["a"].value == "1"
        assert leased.key_values["a"].updated_at_ms == 42

    async def test_kv_snapshot_after_clear_single(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), put("b", "2"), drop("a"))
        assert await snapshot(store) == {"b": "2"}

    async def test_kv_snapshot_after_clear_all(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), CLEAR)
        assert await snapshot(store) == {}

    async def test_kv_snapshot_empty(self, store: StoreDriver) -> None:
        await store.start("i1")
        assert (await store.lease("i1")).key_values == {}

    async def test_kv_snapshot_cross_execution(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("old", "1"), then=(put("new", "2"),))
        assert await snapshot(store) == {"old": "1"}
        assert await values(store) == {"old": "1", "new": "2"}

    async def test_kv_snapshot_of_the_first_turn_of_an_execution(self, store: StoreDriver) -> None:
        again = message("i1", "again", kind=MessageKind.CONTINUE_AS_NEW)
        await change(
            store,
            put("a", "1"),
            status=ExecutionStatus.CONTINUED_AS_NEW,
            output="",
            messages=(again,),
        )
        leased = await store.lease("i1")
        assert {key: value.value for key, value in leased.key_values.items()} == {"a": "1"}

    # Over executions.

    async def test_kv_execution_id_tracking(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), then=(put("b", "2"),))
        await continue_as_new(store, put("c", "3"))
        assert await values(store) == {"a": "1", "b": "2", "c": "3"}

    async def test_kv_cross_execution_overwrite(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), then=(put("a", "2"),))
        assert await values(store) == {"a": "2"}
        assert await snapshot(store) == {"a": "1"}

    async def test_kv_cross_execution_remove_readd(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), then=(drop("a"),))
        assert await values(store) == {}
        await change(store, put("a", "2"))
        assert await values(store) == {"a": "2"}

    async def test_kv_delta_snapshot_excludes_current_execution(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"))
        assert await snapshot(store) == {}

    async def test_kv_delta_snapshot_includes_completed_execution(self, store: StoreDriver) -> None:
        await complete(store, put("a", "1"))
        assert await snapshot(store) == {"a": "1"}

    async def test_kv_delta_client_reads_merged(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), put("b", "1"), then=(put("b", "2"),))
        assert await values(store) == {"a": "1", "b": "2"}

    async def test_kv_delta_tombstone_overrides_store(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), then=(drop("a"),))
        assert await values(store) == {}
        assert await snapshot(store) == {"a": "1"}, "this execution found it when it began"

    async def test_kv_delta_clear_all_tombstones_store(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), put("b", "2"), then=(CLEAR, put("b", "3")))
        assert await values(store) == {"b": "3"}
        assert await snapshot(store) == {"a": "1", "b": "2"}

    async def test_kv_delta_merged_on_completion(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), put("b", "1"), then=(put("a", "2"),))
        await complete(store, drop("b"), put("c", "3"))
        assert await values(store) == {"a": "2", "c": "3"}
        assert await snapshot(store) == {"a": "2", "c": "3"}

    async def test_kv_delta_merged_on_can(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), then=(drop("a"), put("b", "2")))
        await continue_as_new(store)
        assert await snapshot(store) == {"b": "2"}

    async def test_kv_delta_merged_on_failure(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"), status=ExecutionStatus.FAILED, output="it broke")
        assert await values(store) == {"a": "1"}
        assert await snapshot(store) == {"a": "1"}

    # Pruning and deleting.

    async def test_kv_prune_preserves_overwritten(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), then=(put("a", "2"),))
        await store.admin.prune_executions("i1", PruneOptions(keep_last=1))
        assert await values(store) == {"a": "2"}

    async def test_kv_prune_preserves_all_keys(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"))
        await continue_as_new(store, put("b", "2"))
        await store.admin.prune_executions("i1", PruneOptions(keep_last=1))
        assert await values(store) == {"a": "1", "b": "2"}

    async def test_kv_prune_current_execution_protected(self, store: StoreDriver) -> None:
        await continue_as_new(store, then=(put("a", "1"),))
        await store.admin.prune_executions("i1", PruneOptions())
        assert await values(store) == {"a": "1"}

    async def test_kv_delta_prune_untouched_key_survives(self, store: StoreDriver) -> None:
        await continue_as_new(store, put("a", "1"), then=(put("b", "2"),))
        await store.admin.prune_executions("i1", PruneOptions())
        assert await snapshot(store) == {"a": "1"}

    async def test_kv_delete_instance_cascades(self, store: StoreDriver) -> None:
        await complete(store, put("a", "1"))
        await store.admin.delete_instances(["i1"])
        assert await values(store) == {}
        await store.running("i1")
        assert await values(store) == {}

    async def test_kv_delta_delete_instance_cascades(self, store: StoreDriver) -> None:
        await change(store, put("a", "1"))
        await store.admin.delete_instances(["i1"], force=True)
        await store.running("i1")
        assert await values(store) == {}

    async def test_kv_delete_instance_with_children(self, store: StoreDriver) -> None:
        await complete(store, put("a", "1"))
        await store.running("i1::sub::2", parent="i1")
        await complete(store, put("b", "2"), instance_id="i1::sub::2")
        await store.admin.delete_instances(["i1", "i1::sub::2"])
        assert await values(store) == {}
        assert await values(store, "i1::sub::2") == {}
