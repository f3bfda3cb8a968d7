"""What an activity has said of its progress reaches the next worker that runs it."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from duroxide.activity_context import ActivityContext
from duroxide.client import AsyncClient
from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.errors import CodecError, LimitExceeded
from duroxide.ids import ActivityToken
from duroxide.providers.base import Capabilities, Provider
from duroxide.providers.memory import MemoryProvider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.registry import Registry
from duroxide.runtime.heartbeats import Heartbeats
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.runtime.telemetry import Observer
from tests.unit.duroxide.runtime.stores import outage

seen: list[Any] = []
reached: list[asyncio.Event] = []


@activity
async def copy(ctx: ActivityContext, rows: int) -> int:
    """Copies rows; its first worker gets stuck half way."""
    seen.append(ctx.last_heartbeat)
    done = 0 if ctx.last_heartbeat is None else ctx.last_heartbeat["done"]
    for row in range(done, rows):
        ctx.heartbeat({"done": row + 1})
        if len(seen) == 1 and row + 1 == rows // 2:
            reached[0].set()
            await ctx.cancelled()
    return rows - done


@orchestration
async def job(ctx: OrchestrationContext, rows: int) -> int:
    return int(await ctx.call(copy, rows))


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()
    reached[:] = [asyncio.Event()]


async def resumed(store: Provider) -> int:
    registry = Registry().add(job, copy)
    async with AsyncClient(store) as client:
        instance_id = await client.start(job, 10)
        first = AsyncRuntime(store, registry)
        await first.start()
        await reached[0].wait()
        await first.stop()
        async with AsyncRuntime(store, registry):
            return int(await client.result(instance_id, job))


@pytest.mark.parametrize("new_store", [MemoryProvider, SqliteProvider.in_memory])
async def test_work_goes_on_where_another_worker_stopped(new_store: Any) -> None:
    store = new_store()
    assert await resumed(store) == 5
    assert seen == [None, {"done": 5}]
    await store.close()


async def test_a_store_that_keeps_none_begins_again() -> None:
    assert await resumed(MemoryProvider(capabilities=Capabilities())) == 10
    assert seen == [None, None]


class Recording(MemoryProvider):
    def __init__(self) -> None:
        super().__init__()
        self.beats: list[dict[ActivityToken, str]] = []
        self.fails = False

    async def heartbeat(self, beats: Any) -> None:
        if self.fails:
            raise outage("heartbeat")
        self.beats.append(dict(beats))


async def test_only_the_newest_word_is_written() -> None:
    store = Recording()
    heartbeats = Heartbeats(store, Observer())
    token = ActivityToken("t")
    beat = heartbeats.of(token)
    assert beat is not None
    for number in range(100):
        beat(number)
    await asyncio.sleep(0)
    await heartbeats.flush()
    assert store.beats == [{token: "99"}]
    store.fails = True
    beat("kept")
    await asyncio.sleep(0)
    await heartbeats.flush()
    store.fails = False
    await heartbeats.flush()
    assert store.beats[1:] == [{token: '"kept"'}]
    beat("of no use")
    await asyncio.sleep(0)
    heartbeats.forget(token)
    await heartbeats.flush()
    assert len(store.beats) == 2


async def test_what_cannot_be_kept_is_refused() -> None:
    beat = Heartbeats(MemoryProvider(), Observer()).of(ActivityToken("t"))
    assert beat is not None
    with pytest.raises(LimitExceeded, match="heartbeat"):
        beat("x" * 65_536)
    with pytest.raises(CodecError):
        beat(object())


async def test_a_context_in_another_process_beats_for_nobody() -> None:
    beats: list[Any] = []
    context = ActivityContext(
        instance_id="i",
        execution_id=1,
        activity_id=2,
        activity_name="a",
        orchestration_name="o",
        orchestration_version="1.0.0",
        worker_id="w",
        attempt=1,
        token=ActivityToken("t"),
        expires_at_ms=0,
        last_heartbeat=[1],
        _beat=beats.append,
    )
    copied = pickle.loads(pickle.dumps(context))
    copied.heartbeat("lost")
    context.heartbeat("heard")
    assert (copied.last_heartbeat, beats) == ([1], ["heard"])


async def test_a_flush_waits_for_the_write_that_is_under_way() -> None:
    """Or an activity could be given back before the word that its next delivery should find."""
    written: list[dict[ActivityToken, str]] = []
    begun, go = asyncio.Event(), asyncio.Event()

    class Slow(MemoryProvider):
        async def heartbeat(self, beats: Any) -> None:
            begun.set()
            await go.wait()
            written.append(dict(beats))

    heartbeats = Heartbeats(Slow(), Observer())
    beat = heartbeats.of(ActivityToken("t"))
    assert beat is not None
    beat("half way")
    await asyncio.sleep(0)
    first = asyncio.create_task(heartbeats.flush())
    await begun.wait()
    last = asyncio.create_task(heartbeats.flush())
    await asyncio.sleep(0)
    assert not last.done()
    go.set()
    await last
    assert written == [{ActivityToken("t"): '"half way"'}]
    await first
