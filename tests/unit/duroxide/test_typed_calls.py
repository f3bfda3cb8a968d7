"""What a type checker says about calls of activities: mypy run on good calls and on bad ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from duroxide import OrchestrationContext, activity, orchestration
from duroxide.history import ActivityScheduled
from duroxide.testing.world import World

PROGRAM = """
from typing import Any

from duroxide import ActivityContext, ActivityDef, OrchestrationContext, activity, orchestration


@activity
async def charge(ctx: ActivityContext, amount: int, note: str = "") -> bytes:
    return b""


@activity
def greet(name: str) -> str:
    return name


@activity
def ping() -> None: ...


anything: ActivityDef[..., Any] = greet


@orchestration
async def good(ctx: OrchestrationContext) -> None:
    paid: bytes = await ctx.call(charge, 3)
    paid = await ctx.call(charge, 3, note="tip")
    paid = await ctx.call(charge.bind(3, "tip"), timeout=5)
    hello: str = await ctx.call(greet, "Ada")
    hello = await ctx.call(greet.bind("Ada"), tag="gpu", session="s")
    hello = await ctx.call("greet", "Ada", result=str, tag="gpu")
    await ctx.call(ping)
    await ctx.call(anything, 1, 2, 3)


@orchestration
async def bad(ctx: OrchestrationContext) -> None:
    await ctx.call(charge, "3")  # bad
    await ctx.call(charge)  # bad
    await ctx.call(charge, 3, note=4)  # bad
    await ctx.call(greet, 5)  # bad
    await ctx.call(greet, "Ada", "Bob")  # bad
    await ctx.call(greet.bind(5), tag="gpu")  # bad
    await ctx.call(greet.bind("Ada"), tag=5)  # bad
    await ctx.call(ping, 1)  # bad
    number: int = await ctx.call(greet, "Ada")  # bad
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
