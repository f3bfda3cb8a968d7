"""The how-to's example, and an orchestration that the strategies catch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from duroxide import NonDeterminismError, OrchestrationContext, orchestration
from duroxide.testing.strategies import CompletionOrder, assert_always_replays
from duroxide.testing.world import World

HOW_TO = Path(__file__).parents[3] / "docs/howto/test-orchestrations.md"


def test_the_tests_of_the_how_to_pass_as_printed() -> None:
    code = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)[0]
    scope: dict[str, Any] = {"__name__": "how_to"}
    exec(compile(code, str(HOW_TO), "exec"), scope)
    for name in [n for n in scope if n.startswith("test_")]:
        scope[name]()


@orchestration
async def remembers(ctx: OrchestrationContext) -> list[int]:
    seen: list[int] = []

    async def one(n: int) -> None:
        seen.append(await ctx.call("echo", n, result=int))

    await ctx.gather(*(one(n) for n in range(3)))
    return seen


def test_a_world_answers_in_different_orders() -> None:
    found = set()
    for seed in range(20):
        world = World(remembers)
        world.answer("echo", lambda n: n)
        found.add(tuple(CompletionOrder(seed).play(world, remembers).output))
    assert len(found) > 3


CALLS: list[int] = []


@orchestration
async def leaks(ctx: OrchestrationContext) -> None:
    CALLS.append(1)
    await ctx.call("echo", len(CALLS) % 3)
    await ctx.sleep(1)


def test_code_that_is_not_deterministic_is_found() -> None:
    with pytest.raises(NonDeterminismError):
        assert_always_replays(leaks, activities={"echo": lambda n: n})
