"""Activities that begin while the turn that adds them is being committed, and what if it is not."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from duroxide.activity_context import ActivityContext, Foreseen
from duroxide.context import OrchestrationContext
from duroxide.decorators import orchestration
from duroxide.definitions import ActivityDef, define_activity
from duroxide.providers.base import CommitTurn
from duroxide.runtime.admission import Admission
from duroxide.runtime.caps import TagCaps
from duroxide.runtime.headstarts import PATIENCE_S, REST_S, Begun, HeadStarts
from duroxide.runtime.slots import Slots
from duroxide.testing.virtualtime import LoopClock, run_virtual
from tests.unit.duroxide.runtime.stores import Scripted, refusal
from tests.unit.duroxide.runtime.test_runtime import working


@dataclass(eq=False)
class Start:
    """A head start that remembers what became of it."""

    foreseen: Foreseen
    is_dropped: bool = False

    def drop(self) -> None:
        self.is_dropped = True


@dataclass
class Seen:
    begun: list[Start] = field(default_factory=list)
    used: list[Start | None] = field(default_factory=list)

    def begin(self, foreseen: Foreseen) -> Start:
        self.begun.append(Start(foreseen))
        return self.begun[-1]

    def work(self, **options: Any) -> ActivityDef[Any, Any]:
        async def work(ctx: ActivityContext, number: int) -> int:
            start = ctx.head_start
            assert start is None or (isinstance(start, Start) and not start.is_dropped)
            self.used.append(start)
            return number + 1

        return define_activity(work, head_start=self.begin, **options)


@orchestration
async def twice(ctx: OrchestrationContext) -> int:
    number: int = await ctx.schedule_activity("work", 0)
    return int(await ctx.schedule_activity("work", number))


class Gated(Scripted):
    """Holds up the commit that adds the second activity."""

    def __init__(self) -> None:
        super().__init__(LoopClock())
        self.open = asyncio.Event()
        self.is_at_the_second = asyncio.Event()
        self.refuses = False

    async def commit(self, batch: Any, *, eager: Any = None) -> Any:
        for item in batch:
            if isinstance(item, CommitTurn) and item.activities and item.first_event_id > 1:
                self.is_at_the_second.set()
                await self.open.wait()
                if self.refuses:
                    self.refuses = False
                    raise refusal()
        return await super().commit(batch, eager=eager)


def test_it_begins_before_the_commit_and_is_found_by_the_activity() -> None:
    async def scenario() -> None:
        store, seen = Gated(), Seen()
        async with working(twice, seen.work(), provider=store) as (client, _):
            instance = await client.start(twice)
            await store.is_at_the_second.wait()
            await asyncio.sleep(0)
            (start,) = seen.begun
            assert start.foreseen.instance_id == instance
            assert start.foreseen.text == "1"
            assert seen.used == [None]  # the first turn of an instance gives none
            store.open.set()
            assert await client.result(instance) == 2
            assert seen.used == [None, start]

    run_virtual(scenario())


def test_it_is_undone_if_the_turn_is_refused() -> None:
    async def scenario() -> None:
        store, seen = Gated(), Seen()
        store.open.set()
        store.refuses = True
        async with working(twice, seen.work(), provider=store) as (client, _):
            assert await client.result(await client.start(twice)) == 2
        assert seen.begun[0].is_dropped
        assert seen.begun[0] not in seen.used

    run_virtual(scenario())


def test_it_does_not_wait_long_for_its_commit() -> None:
    """What was begun may hold what the commit waits for."""

    async def scenario() -> None:
        store, seen = Gated(), Seen()
        async with working(twice, seen.work(), provider=store) as (client, _):
            instance = await client.start(twice)
            await store.is_at_the_second.wait()
            await asyncio.sleep(PATIENCE_S * 1.5)
            assert [start.is_dropped for start in seen.begun] == [True]
            store.open.set()
            assert await client.result(instance) == 2
            assert seen.used == [None, None]
            # Perhaps all commits take that long, so there are none for a while.
            assert await client.result(await client.start(twice)) == 2
            assert len(seen.begun) == 1
            await asyncio.sleep(REST_S)
            assert await client.result(await client.start(twice)) == 2
            assert len(seen.begun) == 2

    run_virtual(scenario())


def test_without_a_second_slot_there_is_none() -> None:
    """One is for the head start and one for the lease."""

    async def scenario() -> None:
        seen = Seen()
        async with working(twice, seen.work(), worker_concurrency=1, prefetch_ms=0) as (client, _):
            assert await client.result(await client.start(twice)) == 2
        assert seen.begun == []
        assert seen.used == [None, None]

    run_virtual(scenario())


def test_of_those_that_run_one_at_a_time_the_next_one_may_begin() -> None:
    async def scenario() -> None:
        seen = Seen()
        async with working(twice, seen.work(max_concurrency=1)) as (client, _):
            assert await client.result(await client.start(twice)) == 2
        assert seen.used == [None, seen.begun[0]]

    run_virtual(scenario())


def test_stopping_undoes_it() -> None:
    async def scenario() -> None:
        store, seen = Gated(), Seen()
        async with working(twice, seen.work(), provider=store) as (client, runtime):
            await client.start(twice)
            await store.is_at_the_second.wait()
            await asyncio.sleep(0)
            stopping = asyncio.ensure_future(runtime.stop())
            await asyncio.sleep(0)
            assert [start.is_dropped for start in seen.begun] == [True]
            store.open.set()
            await stopping
        assert seen.used == [None]

    run_virtual(scenario())


def test_one_that_can_not_begin_is_left_out() -> None:
    async def scenario() -> None:
        seen = Seen()

        def broken(foreseen: Foreseen) -> Start:
            raise ValueError(foreseen.text)

        async def work(ctx: ActivityContext, number: int) -> int:
            seen.used.append(ctx.head_start)  # type: ignore[arg-type]  # there is none
            return number + 1

        definition = define_activity(work, head_start=broken)
        async with working(twice, definition) as (client, _):
            assert await client.result(await client.start(twice)) == 2
        assert seen.used == [None, None]

    run_virtual(scenario())


CAPS = {"a": 3, "a/x": 2}
TAGS = st.sampled_from([None, "a/x", "a/y", "b"])


@given(slots=st.integers(1, 6), tags=st.lists(TAGS, max_size=20), draw=st.randoms())
def test_places_are_counted_and_given_back(
    slots: int, tags: list[str | None], draw: Random
) -> None:
    """Whatever becomes of them, there is never more than may run, and at the end all places are free."""

    async def scenario() -> None:
        places, caps = Slots(slots), TagCaps(CAPS.get, lambda: 0.0)
        admission = Admission(slots)

        def free(tag: str | None) -> None:
            places.give()
            caps.give(tag)

        starts = HeadStarts(places, caps, admission, free)
        held: list[Begun] = []
        for number, tag in enumerate(tags):
            begun: list[Start] = []

            def begin(foreseen: Foreseen, begun: list[Start] = begun) -> Start:
                begun.append(Start(foreseen))
                return begun[0]

            key = "i", 1, number
            foreseen = Foreseen(instance_id="i", execution_id=1, activity_id=number, text="")
            starts.give(foreseen, begin, tag, caps.gates(tag))
            match draw.randrange(4):
                case 0:
                    starts.drop(key)
                    assert all(start.is_dropped for start in begun)
                case 1:
                    claimed = starts.claim(key)
                    assert (claimed is None) == (not begun)
                    held += [claimed] if claimed else []
                case 2 if held:
                    starts.undo(held.pop())
            assert places.free >= 1
            running = Counter(level for one in held for level, _ in one.gates)
            assert all(running[level] <= cap for level, cap in CAPS.items())
        await asyncio.sleep(PATIENCE_S * 2)
        for one in held:
            starts.undo(one)
        assert places.free == slots
        assert caps.has_room_to_run("a/x", 2)
        assert all(admission.is_open(caps.gates(tag)) for tag in ("a/x", "a/y", "b", None))

    run_virtual(scenario())
