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
from duroxide.providers.base import TagMode, TagSelection
from duroxide.providers.memory import MemoryProvider
from duroxide.runtime.caps import TagCaps, levels

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
