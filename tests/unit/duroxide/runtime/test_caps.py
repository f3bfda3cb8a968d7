"""What is taken of each tag, and what the store is asked for when some are full."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duroxide import (
    ActivityContext,
    AsyncClient,
    AsyncRuntime,
    OrchestrationContext,
    Registry,
    RuntimeOptions,
    activity,
    orchestration,
)
from duroxide.providers.base import Activity, EagerDispatch, TagMode, TagSelection
from duroxide.providers.eager import EagerChoice
from duroxide.providers.memory import MemoryProvider
from duroxide.runtime.activities import LONGEST_WAIT_S
from duroxide.runtime.caps import TagCaps, levels
from duroxide.runtime.telemetry import ActivityRecord, Observer

ANY = TagSelection(TagMode.ANY)
CAPS = {"sql": 3, "sql/ann": 2, "sql/bob": 2}


def no_lookahead() -> float:
    return 0.0


def test_a_tag_has_those_above_it() -> None:
    assert levels("a/b/c") == ("a/b/c", "a/b", "a")
    assert levels(None) == ()


def test_a_full_tag_is_left_out_with_those_below() -> None:
    caps = TagCaps(CAPS.get, no_lookahead)
    assert caps.selection(ANY) is ANY
    caps.take("sql/ann")
    caps.take("sql/ann")
    assert caps.selection(ANY).tags == {"sql/ann"}
    assert caps.selection(ANY).accepts("sql/bob")
    caps.take("sql/bob")
    full = caps.selection(ANY)
    assert full.tags == {"sql/ann", "sql"}
    assert not full.accepts("sql/carl")
    assert full.accepts(None)
    assert full.accepts("sqlite")
    assert caps.give("sql/bob")
    assert caps.selection(ANY).tags == {"sql/ann"}
    assert caps.give("sql/ann")
    assert caps.selection(ANY) is ANY
    assert not caps.give("sql/ann")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([*CAPS, None, "http"])), max_size=40))
def test_as_many_as_were_asked_for_always_fit(moves: list[tuple[bool, str | None]]) -> None:
    caps = TagCaps(CAPS.get, no_lookahead)
    for level in CAPS:  # each has been there before
        caps.take(level)
        caps.give(level)
    taken: list[str | None] = []
    for takes, tag in moves:
        if takes and caps.selection(ANY).accepts(tag):
            for _ in range(caps.at_most(10)):
                taken.append(tag)
                caps.take(tag)
        elif tag in taken:
            taken.remove(tag)
            caps.give(tag)
        for level, cap in CAPS.items():
            count = sum(level in levels(each) for each in taken)
            assert count <= cap
            assert (count >= cap) == (level in caps.selection(ANY).tags)


@given(
    st.lists(st.sampled_from([*CAPS, None, "http"]), max_size=9),
    st.lists(st.sampled_from([*CAPS, None, "http"]), max_size=20),
    st.integers(0, 12),
)
def test_what_a_commit_gives_always_fits(
    before: list[str | None], added: list[str | None], limit: int
) -> None:
    caps = TagCaps(CAPS.get, no_lookahead)
    for tag in before:
        if caps.has_room(tag):
            caps.take(tag)
    offer = EagerDispatch(
        worker="w", limit=limit, lease_ms=1, tags=caps.selection(ANY), room=caps.room()
    )
    choice = EagerChoice(offer)
    for number, tag in enumerate(added):
        new = Activity(instance_id="i", execution_id=1, activity_id=number, body="", tag=tag)
        if choice.takes(new):
            assert caps.has_room(tag), "nothing is given that is handed back at once"
            caps.take(tag)
            limit -= 1
        else:
            assert limit == 0 or not caps.has_room(tag), "nothing is left out that fits"


def test_caps_need_the_filter_that_accepts_all() -> None:
    with pytest.raises(ValueError, match="tag_caps needs the worker_tag_filter 'any'"):
        RuntimeOptions(tag_caps=CAPS.get)


async def test_a_tag_that_is_full_holds_up_no_other_and_is_not_leased() -> None:
    running: list[str] = []
    gate, full = asyncio.Event(), asyncio.Event()

    @activity
    async def work(ctx: ActivityContext) -> str:
        running.append(str(ctx.tag))
        if len(running) == 2:
            full.set()
        if ctx.tag == "sql/ann":
            await gate.wait()
        return str(ctx.tag)

    @orchestration
    async def fan(ctx: OrchestrationContext, tag: str, count: int) -> int:
        answers = await ctx.gather(*(ctx.call(work, tag=tag) for _ in range(count)))
        return len(answers)

    provider = MemoryProvider()
    options = RuntimeOptions(
        worker_concurrency=20, worker_tag_filter="any", tag_caps={"sql/ann": 2, "sql": 3}.get
    )
    async with (
        AsyncClient(provider) as client,
        AsyncRuntime(provider, Registry().add(work, fan), options),
    ):
        blocked = await client.start(fan, "sql/ann", 30)
        await full.wait()
        other = await client.start(fan, "sql/bob", 5)
        assert (await client.wait(other)).output == "5"
        assert running.count("sql/ann") == 2
        gate.set()
        assert (await client.wait(blocked)).output == "30"


async def test_a_burst_of_one_tag_leaves_the_places_to_others() -> None:
    """The commit that adds the burst could give this process more than may run of the tag."""
    gate = asyncio.Event()
    handed_back: list[str] = []

    class Counting(Observer):
        def activity_ended(self, record: ActivityRecord) -> None:
            if record.outcome == "handed_back":
                handed_back.append(record.instance_id)

    @activity
    async def work(ctx: ActivityContext) -> str:
        if ctx.tag == "sql/ann":
            await gate.wait()
        return str(ctx.tag)

    @orchestration
    async def fan(ctx: OrchestrationContext, tag: str, count: int) -> int:
        return len(await ctx.gather(*(ctx.call(work, tag=tag) for _ in range(count))))

    provider = MemoryProvider()
    options = RuntimeOptions(
        worker_concurrency=20,
        worker_tag_filter="any",
        tag_caps={"sql/ann": 2, "sql/bob": 2}.get,
        prefetch_ms=0,
        observer=Counting(),
    )
    registry = Registry().add(work, fan)
    async with AsyncClient(provider) as client, AsyncRuntime(provider, registry, options):
        blocked = [await client.start(fan, "sql/ann", 30) for _ in range(4)]
        other = await client.start(fan, "sql/bob", 5)
        async with asyncio.timeout(LONGEST_WAIT_S / 2):  # not after ann's are given back
            assert (await client.wait(other)).output == "5"
        assert (await provider.queue_depths()).worker_queue == 4 * 30 - 2, "the rest is not leased"
        gate.set()
        for instance_id in blocked:
            assert (await client.wait(instance_id)).output == "30"
    assert len(handed_back) <= 20, "what one poll asked for that did not know the tag yet"


@pytest.mark.parametrize("given", [KeyError("gpu"), "2", True, (("gpu", 2),)])
def test_caps_that_can_not_be_had_are_no_limits_and_hold_nothing_up(
    given: object, caplog: pytest.LogCaptureFixture
) -> None:
    def careless(tag: str) -> int | None:
        if isinstance(given, Exception):
            raise given
        return given  # type: ignore[return-value]  # that is what is careless

    caps = TagCaps(careless, no_lookahead)
    caps.take("gpu")
    assert (caps.gates("gpu"), caps.has_room("gpu"), caps.room()("gpu")) == ((), True, ())
    assert [r.getMessage() for r in caplog.records if "tag_caps('gpu')" in r.getMessage()]
