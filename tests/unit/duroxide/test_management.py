"""Lists, trees, deletion and export, on the stores that need no server."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from duroxide.client import AsyncClient, InstanceExists
from duroxide.context import OrchestrationContext
from duroxide.decorators import orchestration
from duroxide.errors import (
    CannotDeleteSubOrchestration,
    ClientError,
    CodecError,
    InstanceNotFound,
    InstanceStillRunning,
    ManagementNotAvailable,
    NonDeterminismError,
    RegistrationError,
    WaitTimeout,
)
from duroxide.providers.base import Capabilities, InstanceFilter, InstanceQuery, PruneOptions
from duroxide.providers.memory import MemoryProvider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.registry import Registry
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.testing.exports import assert_export_replays, read_export
from duroxide.testing.replay import assert_replays


@orchestration
async def leaf(ctx: OrchestrationContext) -> int:
    return 1


@orchestration
async def root(ctx: OrchestrationContext) -> int:
    return int(await ctx.call_child(leaf))


@orchestration
async def rounds(ctx: OrchestrationContext, left: int) -> int:
    if left:
        ctx.continue_as_new(left - 1)
    return left


@orchestration
async def waiting(ctx: OrchestrationContext) -> None:
    await ctx.wait_event("never")


@asynccontextmanager
async def working(store: Any) -> AsyncIterator[AsyncClient]:
    registry = Registry().add(leaf, root, rounds, waiting)
    async with AsyncClient(store) as client, AsyncRuntime(store, registry):
        yield client
    await store.close()


@pytest.fixture(params=[MemoryProvider, SqliteProvider.in_memory])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[AsyncClient]:
    async with working(request.param()) as client:
        yield client


async def test_a_tree_is_deleted_as_a_whole_from_its_root(client: AsyncClient) -> None:
    await client.result(await client.start(root, instance_id="r"))
    tree = await client.tree("r")
    assert tree[0] == "r"
    assert len(tree) == 2
    with pytest.raises(CannotDeleteSubOrchestration, match="delete the root"):
        await client.delete(tree[1])
    deleted = await client.delete("r")
    assert deleted.instances_deleted == 2
    assert await client.instances() == []


async def test_what_runs_is_deleted_only_by_force(client: AsyncClient) -> None:
    await client.start(waiting, instance_id="w")
    await client.wait_until("w", lambda state: True)
    with pytest.raises(InstanceStillRunning, match="'w' is still running; cancel it first"):
        await client.delete("w")
    await client.delete("w", force=True)
    with pytest.raises(InstanceNotFound, match="'w'"):
        await client.delete("w")


async def test_lists_counts_and_bulk_deletion(client: AsyncClient) -> None:
    for number in range(3):
        await client.result(await client.start(leaf, instance_id=f"leaf-{number}"))
    await client.start(waiting, instance_id="w")
    await client.wait_until("w", lambda state: True)
    newest = await client.instances(limit=2)
    assert [state.instance_id for state in newest] == ["w", "leaf-2"]
    assert len(await client.instances(status="Completed")) == 3
    assert (await client.metrics()).running_instances == 1
    assert (await client.queue_depths()).worker_queue == 0
    stats = await client.stats("leaf-0")
    assert stats is not None
    assert stats.history_event_count == 2
    gone = await client.delete_many(InstanceFilter(limit=2))
    assert gone.instances_deleted == 2


async def test_pages_of_instances(client: AsyncClient) -> None:
    await client.result(await client.start(root, instance_id="r"))
    await client.start(waiting, instance_id="w")
    await client.wait_until("w", lambda state: True)
    first = await client.page(limit=1)
    assert [state.instance_id for state in first.instances] == ["w"]
    rest = await client.page(limit=9, cursor=first.next_cursor)
    assert {state.name for state in rest.instances} == {"root", "leaf"}
    assert rest.next_cursor is None
    roots = await client.page(InstanceQuery(roots_only=True))
    assert {state.instance_id for state in roots.instances} == {"r", "w"}
    with pytest.raises(ValueError, match="limit must be at least 1, not 0"):
        await client.page(limit=0)


@orchestration
async def fails(ctx: OrchestrationContext) -> None:
    raise ValueError("by itself")


@pytest.mark.parametrize("new_store", [MemoryProvider, SqliteProvider.in_memory])
async def test_what_nobody_could_run_is_found_and_started_again(new_store: Any) -> None:
    store = new_store()
    options = RuntimeOptions(max_attempts=1, unregistered_backoff_ms=(1, 1))
    async with AsyncClient(store) as client:
        async with AsyncRuntime(store, Registry().add(fails), options):
            await client.start(rounds, 0, instance_id="dead")
            await client.start(fails, instance_id="failed")
            await client.wait("dead")
            await client.wait("failed")
        page = await client.poisoned()
        assert [state.instance_id for state in page.instances] == ["dead"]
        with pytest.raises(InstanceExists):
            await client.start_again("dead", new_instance_id="failed")
        with pytest.raises(InstanceNotFound):
            await client.start_again("unknown")
        async with AsyncRuntime(store, Registry().add(rounds)):
            again = await client.start_again("dead")
            assert await client.result(again, rounds) == 0
    await store.close()


async def test_old_executions_are_pruned(client: AsyncClient) -> None:
    assert await client.result(await client.start(rounds, 4, instance_id="r")) == 0
    assert [info.execution_id for info in await client.executions("r")] == [1, 2, 3, 4, 5]
    assert (await client.prune("r", PruneOptions(keep_last=2))).executions_deleted == 3
    pruned = await client.prune_many(InstanceFilter(), PruneOptions(keep_last=1))
    assert pruned.executions_deleted == 1
    assert [info.execution_id for info in await client.executions("r")] == [5]
    with pytest.raises(InstanceNotFound):
        await client.executions("unknown")


async def test_an_exported_instance_can_be_replayed(client: AsyncClient) -> None:
    await client.result(await client.start(rounds, 1, instance_id="r"))
    lines = [line async for line in client.export("r")]
    about = json.loads(lines[0])
    assert (about["export"], about["name"], about["status"]) == ("instance", "rounds", "Completed")
    starts = [n for n, line in enumerate(lines) if json.loads(line).get("export") == "execution"]
    assert len(starts) == 2
    assert_replays(lines[starts[0] + 1 : starts[1]], rounds)
    assert_replays(lines[starts[1] + 1 :], rounds)
    assert list(assert_export_replays(lines, Registry().add(rounds))) == [1, 2]
    with pytest.raises(InstanceNotFound):
        [line async for line in client.export("unknown")]


@orchestration(name="tally")
async def tally(ctx: OrchestrationContext, left: int) -> str | None:
    total = int(ctx.get_kv_value("total") or 0) + left
    ctx.set_kv_value("total", str(total))
    if total > 3:  # what the execution before has stored decides
        await ctx.sleep(0)
    if left:
        ctx.continue_as_new(left - 1)
    ctx.set_custom_status("counted")
    return ctx.get_kv_value("total")


@orchestration(name="tally")
async def forgetful(ctx: OrchestrationContext, left: int) -> str | None:
    await ctx.sleep(0)
    return None


async def test_an_export_in_a_file_is_replayed_with_what_was_stored(tmp_path: Path) -> None:
    store = MemoryProvider()
    registry = Registry().add(tally)
    async with AsyncClient(store) as client, AsyncRuntime(store, registry):
        assert await client.result(await client.start(tally, 3, instance_id="t")) == "6"
        lines = [line async for line in client.export("t")]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with path.open() as file:
        exported = read_export(file)
    facts = exported.facts
    assert (facts["custom_status"], facts["key_values"]) == ("counted", {"total": "6"})
    statuses = assert_export_replays(exported, registry)
    assert [status.value for status in statuses.values()] == ["ContinuedAsNew"] * 3 + ["Completed"]
    with pytest.raises(NonDeterminismError):
        assert_export_replays(exported, Registry().add(forgetful))
    with pytest.raises(RegistrationError, match="'tally' version 1"):
        assert_export_replays(exported, Registry())


def test_what_is_no_export_is_refused() -> None:
    first = json.dumps({"export": "instance", "format": 1, "instance_id": "i"})
    newer = json.dumps({"export": "instance", "format": 2, "instance_id": "i"})
    for lines in ([], ["{}"], ["no JSON"], [first, first], [first, '{"event_id":1}'], [newer]):
        with pytest.raises(CodecError):
            read_export(lines)
    assert read_export([first]).executions == {}


async def test_an_export_becomes_a_whole_file(client: AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    path.write_text("older", encoding="utf-8")
    with pytest.raises(InstanceNotFound, match="'unknown'"):
        await client.export_to("unknown", path)
    assert path.read_text(encoding="utf-8") == "older"
    await client.result(await client.start(rounds, 2, instance_id="r"))
    count = await client.export_to("r", path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == [line async for line in client.export("r")]
    assert len(lines) == count
    with path.open(encoding="utf-8") as file:
        assert_export_replays(file, Registry().add(rounds))
    assert os.listdir(tmp_path) == ["kept.jsonl"]
    with pytest.raises(FileNotFoundError):
        await client.export_to("r", tmp_path / "nowhere" / "kept.jsonl")


class Bare:
    """A store without management."""

    def __init__(self, store: MemoryProvider) -> None:
        for name in ("name", "capabilities", "start", "close", "commit", "read_status"):
            setattr(self, name, getattr(store, name))


async def test_a_store_without_management_says_so() -> None:
    client = AsyncClient(cast("Any", Bare(MemoryProvider(capabilities=Capabilities()))))
    assert not client.has_management_capability
    await client.start("any", instance_id="i")
    for call in (client.metrics(), client.suspend("i"), client.instances()):
        with pytest.raises(ManagementNotAvailable, match="the memory provider has no management"):
            await call
    with pytest.raises(ClientError, match="the memory provider keeps no dead letters"):
        await client.dead_letters()


def test_errors_say_whether_the_call_may_be_made_again_and_survive_pickling() -> None:
    assert WaitTimeout("i", 5).retryable
    assert not InstanceNotFound("i").retryable
    lost = ClientError("connection lost")
    lost.retryable = True
    for error in (lost, InstanceStillRunning("i"), CannotDeleteSubOrchestration("i")):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.retryable) == (str(error), error.retryable)
