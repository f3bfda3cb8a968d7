"""Laws of reads that nobody looks at: what they took is not lost, and comes in order."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from duroxide import DurableFuture, OrchestrationContext, Winner, orchestration
from duroxide.registry import OrchestrationDef
from duroxide.testing.world import World

NAMES = ("a", "b")
RACES = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), max_size=8)
SENT = st.lists(st.sampled_from(NAMES), max_size=12)


@orchestration(name="coroutine")
async def racing(ctx: OrchestrationContext, races: list[list[str]] | None) -> list[Any]:
    """Race reads of the queues in one execution, read what is left in another."""
    if races is not None:
        await ctx.wait_event("go")
        seen = []
        for names in races:
            won = await ctx.select(*(ctx.queue(n).get() for n in names), ctx.sleep(0))
            seen += [won.value] if won.index < len(names) else []
        ctx.set_kv_value("seen", json.dumps(seen))
        ctx.queue("a").get()  # held, and never looked at
        ctx.continue_as_new(None)
    left = []
    for name in NAMES:
        while (won := await ctx.select(ctx.queue(name).get(), ctx.sleep(0))).index == 0:
            left.append(won.value)
    return left


@orchestration(name="generator")
def racing_generator(
    ctx: OrchestrationContext, races: list[list[str]] | None
) -> Generator[Any, Any, list[Any]]:
    """The same, as a generator."""
    if races is not None:
        yield ctx.wait_for_event("go")
        seen = []
        for names in races:
            reads = [ctx.dequeue_event(name) for name in names]
            won = yield ctx.race(*reads, ctx.schedule_timer(0))
            seen += [won["value"]] if won["index"] < len(names) else []
        ctx.set_kv_value("seen", json.dumps(seen))
        yield ctx.continue_as_new(None)
    left = []
    for name in NAMES:
        won = yield ctx.race(ctx.dequeue_event(name), ctx.schedule_timer(0))
        while won["index"] == 0:
            left.append(won["value"])
            won = yield ctx.race(ctx.dequeue_event(name), ctx.schedule_timer(0))
    return left


@pytest.mark.parametrize("code", [racing, racing_generator], ids=lambda code: code.name)
@given(RACES, SENT)
@example([["a", "a"], ["b", "a"]], ["a", "a", "b"])
def test_reads_that_lose_races_leave_every_message_to_others_in_order(
    code: OrchestrationDef[..., Any], races: list[list[str]], names: list[str]
) -> None:
    world = World(code)
    handle = world.start(code, races)
    sent = [[name, i] for i, name in enumerate(names)]
    for name, i in sent:
        handle.enqueue(str(name), [name, i])
    handle.raise_event("go")
    seen = json.loads(handle.key_values["seen"])
    assert sorted(seen + handle.output, key=lambda m: m[1]) == sent
    for name in NAMES:
        of_it = [i for n, i in seen + handle.output if n == name]
        assert of_it == sorted(of_it)
    handle.assert_replays()


async def _done() -> None:
    return None


def test_a_reader_that_waits_gets_what_a_loser_gives_back() -> None:
    @orchestration
    async def passing_on(ctx: OrchestrationContext, _: Any = None) -> list[Any]:
        await ctx.wait_event("go")
        losing, waiting = ctx.queue("q").get(), ctx.queue("q").get()
        won = await ctx.select(ctx.spawn(_done()), losing)
        return [won.index, losing.cancelled(), await waiting]

    world = World(passing_on)
    handle = world.start(passing_on)
    handle.enqueue("q", "only")
    handle.raise_event("go")
    assert handle.output == [0, True, "only"]
    handle.assert_replays()


@pytest.mark.parametrize("kind", ["queue", "buffered event"])
def test_a_loser_that_waits_takes_nothing_that_another_loser_gives_back(kind: str) -> None:
    @orchestration
    async def racing_two(ctx: OrchestrationContext, _: Any = None) -> list[Any]:
        def read() -> Any:
            if kind == "queue":
                return ctx.queue("q").get()
            return ctx.wait_event("q", buffered=True)

        await ctx.wait_event("go")
        holding, waiting = read(), read()
        won = await ctx.select(ctx.spawn(_done()), holding, waiting)
        return [won.index, holding.cancelled(), waiting.cancelled(), await read()]

    world = World(racing_two)
    handle = world.start(racing_two)
    handle.enqueue("q", "only") if kind == "queue" else handle.raise_event("q", "only")
    handle.raise_event("go")
    assert handle.output == [0, True, True, "only"]
    handle.assert_replays()


def test_a_result_that_was_seen_is_not_given_back() -> None:
    @orchestration
    async def seeing(ctx: OrchestrationContext, _: Any = None) -> list[Any]:
        await ctx.wait_event("go")
        read = ctx.queue("q").get()
        value = read.result()
        won = await ctx.select(ctx.spawn(_done()), read)
        return [won.index, value, await read, await ctx.queue("q").get()]

    world = World(seeing)
    handle = world.start(seeing)
    handle.enqueue("q", 1)
    handle.enqueue("q", 2)
    handle.raise_event("go")
    assert handle.output == [0, 1, 1, 2]
    handle.assert_replays()


Nested = list[Any]  # names of queues, and lists of the same: a race in a race


NESTED = st.recursive(
    st.sampled_from(NAMES), lambda inner: st.lists(inner, min_size=2, max_size=3), max_leaves=6
).filter(lambda race: isinstance(race, list))


def _value(winner: Any) -> Any:
    while isinstance(winner, Winner | dict):
        winner = winner["value"] if isinstance(winner, dict) else winner.value
    return winner


@orchestration(name="nested coroutine")
async def nesting(ctx: OrchestrationContext, races: list[Nested] | None) -> list[Any]:
    """Race races of reads, then take what is left."""

    def race(names: Any) -> DurableFuture[Any]:
        if isinstance(names, str):
            return ctx.queue(names).get()
        return ctx.select(*(race(n) for n in names))

    seen: list[Any] = []
    if races is not None:
        await ctx.wait_event("go")
        for names in races:
            seen.append(_value((await ctx.select(race(names), ctx.sleep(0))).value))
        ctx.set_kv_value("seen", json.dumps([v for v in seen if v is not None]))
        ctx.continue_as_new(None)
    for name in NAMES:
        while (won := await ctx.select(ctx.queue(name).get(), ctx.sleep(0))).index == 0:
            seen.append(won.value)
    return seen


@orchestration(name="nested generator")
def nesting_generator(
    ctx: OrchestrationContext, races: list[Nested] | None
) -> Generator[Any, Any, list[Any]]:
    """The same, as a generator."""

    def race(names: Any) -> Any:
        if isinstance(names, str):
            return ctx.dequeue_event(names)
        return ctx.race(*(race(n) for n in names))

    seen: list[Any] = []
    if races is not None:
        yield ctx.wait_for_event("go")
        for names in races:
            seen.append(_value((yield ctx.race(race(names), ctx.schedule_timer(0)))))
        ctx.set_kv_value("seen", json.dumps([v for v in seen if v is not None]))
        yield ctx.continue_as_new(None)
    for name in NAMES:
        won = yield ctx.race(ctx.dequeue_event(name), ctx.schedule_timer(0))
        while won["index"] == 0:
            seen.append(won["value"])
            won = yield ctx.race(ctx.dequeue_event(name), ctx.schedule_timer(0))
    return seen


@pytest.mark.parametrize("code", [nesting, nesting_generator], ids=lambda code: code.name)
@given(st.lists(NESTED, max_size=6), SENT)
@example([["a", ["b", "a"]]], ["a", "b", "a"])
def test_races_in_races_leave_every_message_that_their_winner_is_not(
    code: OrchestrationDef[..., Any], races: list[Nested], names: list[str]
) -> None:
    world = World(code)
    handle = world.start(code, races)
    sent = [[name, i] for i, name in enumerate(names)]
    for name, i in sent:
        handle.enqueue(str(name), [name, i])
    handle.raise_event("go")
    seen = json.loads(handle.key_values["seen"])
    assert sorted(seen + handle.output, key=lambda m: m[1]) == sent
    handle.assert_replays()


def test_a_message_that_was_seen_itself_is_not_given_back_by_the_race_that_it_won() -> None:
    @orchestration
    async def seeing(ctx: OrchestrationContext, _: Any = None) -> list[Any]:
        await ctx.wait_event("go")
        read = ctx.queue("q").get()
        race = ctx.select(read, ctx.wait_event("never"))
        value = await read
        won = await ctx.select(ctx.spawn(_done()), race)
        return [won.index, value, (await race).value, await ctx.queue("q").get()]

    @orchestration
    async def losing(ctx: OrchestrationContext, _: Any = None) -> list[Any]:
        await ctx.wait_event("go")
        read = ctx.queue("q").get()
        both = ctx.gather(read, ctx.gather())
        won = await ctx.select(ctx.spawn(_done()), both)
        return [won.index, read.cancelled(), both.cancelled(), await ctx.queue("q").get()]

    for code, expected in ((seeing, [0, 1, 1, 2]), (losing, [0, True, True, 1])):
        world = World(code)
        handle = world.start(code)
        handle.enqueue("q", 1)
        handle.enqueue("q", 2)
        handle.raise_event("go")
        assert handle.output == expected
        handle.assert_replays()
