"""The how-to's example, and an orchestration that the strategies catch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings

from duroxide import ActivityError, NonDeterminismError, OrchestrationContext, orchestration
from duroxide.registry import OrchestrationDef, define_orchestration
from duroxide.state import ExecutionStatus
from duroxide.testing.strategies import (
    CompletionOrder,
    RecordedHistory,
    assert_always_replays,
    histories,
)
from duroxide.testing.world import World

HOW_TO = Path(__file__).parents[3] / "docs/howto/test-orchestrations.md"


def test_the_tests_of_the_how_to_pass_as_printed() -> None:
    blocks = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    printed = 0
    for code in blocks[:2]:
        scope: dict[str, Any] = {"__name__": "how_to"}
        exec(compile(code, str(HOW_TO), "exec"), scope)
        for name in [n for n in scope if n.startswith("test_")]:
            scope[name]()
            printed += 1
    assert printed == 3


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


@orchestration(name="counts")
async def counts(ctx: OrchestrationContext, rounds: int) -> str:
    """Sums what comes, over executions, in a value that each reads and writes."""
    total = int(ctx.get_kv_value("total") or 0)
    try:
        total += await ctx.call("echo", await ctx.queue("q", int).get(), result=int)
    except ActivityError:
        ctx.set_custom_status("lost one")
    ctx.set_kv_value("total", total)
    if rounds:
        ctx.continue_as_new(rounds - 1)
    won = await ctx.select(stop=ctx.wait_event("stop"), late=ctx.sleep(60))
    return f"{total} {won.key}"


DRAWN = histories(
    counts,
    2,
    activities={"echo": lambda n: n},
    messages=[("q", n) for n in range(4)],
    events=[("stop", None)],
    cancels=True,
)


@given(DRAWN)
def test_every_drawn_history_replays(history: RecordedHistory) -> None:
    history.assert_replays(counts)


@pytest.mark.parametrize("status", list(ExecutionStatus))
def test_histories_stand_at_every_state(status: ExecutionStatus) -> None:
    only_look = settings(phases=[Phase.generate], database=None)
    find(DRAWN, lambda history: history.assert_replays(counts) is status, settings=only_look)


def test_code_that_could_not_go_on_everywhere_is_found() -> None:
    async def changed(ctx: OrchestrationContext, rounds: int) -> str:
        """Differs only after a failure, and only in later executions."""
        if ctx.get_custom_status() == "lost one":
            ctx.reset_custom_status()
        return await counts.fn(ctx, rounds)

    code: OrchestrationDef[..., Any] = define_orchestration(changed, name="counts")

    @settings(database=None)
    @given(DRAWN)
    def check(history: RecordedHistory) -> None:
        history.assert_replays(code)

    with pytest.raises(NonDeterminismError, match="CustomStatusUpdated"):
        check()
