"""What a type checker says about calls of activities and children: mypy run on good calls and on bad ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from duroxide import OrchestrationContext, activity, orchestration
from duroxide.history import ActivityScheduled
from duroxide.testing.world import World

PROGRAM = """
from collections.abc import Generator
from typing import Any

from duroxide import (
    ActivityContext,
    ActivityDef,
    OrchestrationContext,
    OrchestrationDef,
    activity,
    orchestration,
)


@activity
async def charge(ctx: ActivityContext, amount: int, note: str = "") -> bytes:
    return b""


@activity
def greet(name: str) -> str:
    return name


@activity
def ping() -> None: ...


@activity
def area(width: float, height: float, depth: float = 1) -> float:
    return width * height * depth


def undecorated(name: str) -> str:
    return name


anything: ActivityDef[..., Any] = greet


@orchestration
async def pack(ctx: OrchestrationContext, order: str, urgent: bool = False) -> int:
    return 1


@orchestration
def ship(ctx: OrchestrationContext, order: str) -> Generator[Any, Any, float]:
    yield ctx.schedule_timer(1)
    return 0.5


@orchestration
def simple(ctx: OrchestrationContext) -> str:
    return ""


any_child: OrchestrationDef[..., Any] = pack


@orchestration
async def good(ctx: OrchestrationContext) -> None:
    paid: bytes = await ctx.call(charge, 3)
    paid = await ctx.call(charge, 3, note="tip")
    paid = await ctx.call(charge.bind(3, "tip"), timeout=5)
    paid = await ctx.call(charge, 3, timeout=5)
    paid = await ctx.call(charge, 3, "tip", timeout=5)
    hello: str = await ctx.call(greet, "Ada")
    hello = await ctx.call(greet.bind("Ada"), tag="gpu", session="s")
    hello = await ctx.call(greet, "Ada", tag="gpu", session="s")
    hello = await ctx.call("greet", "Ada", result=str, tag="gpu")
    await ctx.call(ping)
    await ctx.call(ping, timeout=5)
    size: float = await ctx.call(area, 1, 2, 3, timeout=5)
    size = await ctx.call(area, 1, 2, timeout=5)
    await ctx.call(anything, 1, 2, 3)
    await ctx.call(anything, 1, timeout=5)
    packed: int = await ctx.call_child(pack, "x")
    packed = await ctx.call_child(pack, "x", urgent=True)
    packed = await ctx.call_child(pack, "x", id="p1")
    packed = await ctx.call_child(pack, "x", True, id="p1", version="1.0.0")
    packed = await ctx.call_child("pack", "x", id="p1", result=int)
    cost: float = await ctx.call_child(ship, "x")
    cost = await ctx.call_child(ship, "x", id="s1")
    hello = await ctx.call_child(simple)
    hello = await ctx.call_child(simple, id="s1")
    await ctx.call_child(any_child, 1, id="p2")
    ctx.start(pack, "x", id="p3")
    ctx.start(pack, "x", True, id="p3", version="1.0.0")
    ctx.start("pack", 1, 2, 3, id="p3")


@orchestration
async def bad(ctx: OrchestrationContext) -> None:
    await ctx.call(charge, "3")  # bad
    await ctx.call(charge)  # bad
    await ctx.call(charge, 3, note=4)  # bad
    await ctx.call(charge, "3", timeout=5)  # bad
    await ctx.call(charge, timeout=5)  # bad
    await ctx.call(greet, 5)  # bad
    await ctx.call(greet, "Ada", "Bob")  # bad
    await ctx.call(greet, "Ada", "Bob", tag="gpu")  # bad
    await ctx.call(greet, "Ada", tag=5)  # bad
    await ctx.call(greet.bind(5), tag="gpu")  # bad
    await ctx.call(greet.bind("Ada"), tag=5)  # bad
    await ctx.call(ping, 1)  # bad
    await ctx.call(undecorated, "Ada")  # bad
    await ctx.call(undecorated, "Ada", tag="gpu")  # bad
    await ctx.call(pack, "x")  # bad
    number: int = await ctx.call(greet, "Ada")  # bad
    number = await ctx.call(greet, "Ada", timeout=5)  # bad
    await ctx.call_child(pack, 3)  # bad
    await ctx.call_child(pack)  # bad
    await ctx.call_child(pack, "x", urgent="yes")  # bad
    await ctx.call_child(pack, 3, id="p1")  # bad
    await ctx.call_child(pack, "x", id=1)  # bad
    await ctx.call_child(ship, "x", "y", id="s1")  # bad
    await ctx.call_child(greet, "Ada")  # bad
    await ctx.call_child(simple, 1)  # bad
    text: str = await ctx.call_child(pack, "x")  # bad
    text = await ctx.call_child(pack, "x", id="p1")  # bad
    ctx.start(pack, 3, id="p3")  # bad
    ctx.start(pack, "x")  # bad
    ctx.start(pack, id="p3")  # bad
    ctx.start(undecorated, id="p3")  # bad
"""


def test_mypy_refuses_the_bad_calls_and_no_other(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(program)],
        capture_output=True,
        text=True,
    )
    refused = {int(line) for line in re.findall(r"program\.py:(\d+): error", found.stdout)}
    lines = PROGRAM.splitlines()
    assert refused == {n for n, line in enumerate(lines, 1) if "# bad" in line}, found.stdout


@activity
def label(text: str, tag: str = "none") -> str:
    return f"{text}/{tag}"


def test_arguments_may_be_named_and_options_stand_beside_bound_ones() -> None:
    @orchestration
    async def labels(ctx: OrchestrationContext) -> list[str]:
        return await ctx.gather(
            ctx.call(label, text="a"), ctx.call(label.bind("b", tag="argument"), tag="option")
        )

    world = World(labels)
    world.answer(label, lambda *args, **kwargs: "done")
    run = world.start(labels)
    assert run.output == ["done", "done"]
    scheduled = [e.kind for e in run.history if isinstance(e.kind, ActivityScheduled)]
    assert [(json.loads(kind.input), kind.tag) for kind in scheduled] == [
        ({"text": "a"}, None),
        ({"text": "b", "tag": "argument"}, "option"),
    ]


def test_a_name_that_could_be_either_is_refused() -> None:
    @orchestration
    async def unclear(ctx: OrchestrationContext) -> str:
        return await ctx.call(label, "a", tag="which?")

    world = World(unclear)
    run = world.start(unclear)
    assert "'tag' is an option of the call and an argument of 'label'" in str(run.error)


@orchestration
async def joined(ctx: OrchestrationContext, left: str, right: str = "r", id: str = "i") -> str:  # noqa: A002
    return f"{left}{right}{id}"


def test_the_input_of_a_child_may_be_given_by_keyword() -> None:
    @orchestration
    async def parent(ctx: OrchestrationContext) -> str:
        return await ctx.call_child(joined, "l", right="R")

    assert World(parent, joined).start(parent).output == "lRi"


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (
            lambda ctx: ctx.call_child(joined, "l", id="x"),
            "'id' is an option of the call and an argument of 'joined': start it by name, 'joined'",
        ),
        (
            lambda ctx: ctx.start(len, id="x"),
            "is no orchestration: decorate it with @orchestration",
        ),
        (lambda ctx: ctx.call_child(label, "l"), "is no orchestration: decorate it"),
        (lambda ctx: ctx.call_child("joined", left="l"), "is called by name, without keyword"),
        (lambda ctx: ctx.call(len, "x"), "is no activity: decorate it with @activity"),
        (lambda ctx: ctx.call(joined, "x"), "is no activity"),
    ],
)
def test_a_call_that_means_nothing_is_refused_at_its_line(
    ask: Callable[[OrchestrationContext], object], told: str
) -> None:
    @orchestration
    async def asks(ctx: OrchestrationContext) -> None:
        ask(ctx)

    run = World(asks, joined).start(asks)
    assert str(run.error).startswith("TypeError: ")
    assert told in str(run.error)
    assert [type(e.kind).__name__ for e in run.history] == [
        "OrchestrationStarted",
        "OrchestrationFailed",
    ]
