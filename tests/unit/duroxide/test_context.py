"""The context belongs to the code that runs: found from anywhere in it, refused everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from duroxide import OrchestrationContext, current_context, history, work
from duroxide.engine.run import Run
from duroxide.engine.turn import StartInfo, run_turn
from duroxide.registry import define_orchestration
from duroxide.testing.world import World

INFO = StartInfo(
    instance_id="i", execution_id=1, name="o", version="1.0.0", input="null", seed="00"
)


async def helper() -> str:
    """Not handed the context."""
    ctx = current_context()
    return f"{ctx.instance_id} {await ctx.call('greet', 'Ada')}"


async def native(ctx: OrchestrationContext) -> Any:
    return await ctx.gather(helper(), helper())


def generator(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    yield ctx.schedule_timer(0)
    assert current_context() is ctx
    return (yield ctx.all([ctx.spawn(helper())]))  # type: ignore[list-item]  # a superset


@pytest.mark.parametrize(
    ("code", "output"),
    [(native, ["i hello Ada", "i hello Ada"]), (generator, [{"ok": "i hello Ada"}])],
)
def test_a_helper_finds_the_context_of_the_orchestration_that_runs(code: Any, output: Any) -> None:
    definition = define_orchestration(code, name="o")
    world = World(definition)
    world.answer("greet", lambda name: f"hello {name}")
    run = world.start(definition, instance_id="i")
    assert run.output == output
    run.assert_replays()


def test_outside_of_an_orchestration_there_is_no_context() -> None:
    seen: list[OrchestrationContext] = []

    async def code(ctx: OrchestrationContext) -> None:
        seen.append(current_context())
        await ctx.wait_event("never")

    run = Run.start(define_orchestration(code, name="o"), INFO, now_ms=0)
    with pytest.raises(RuntimeError, match="no orchestration runs here"):
        current_context()
    run.park()
    assert [ctx.instance_id for ctx in seen] == ["i"]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda ctx: ctx.call("a"),
        lambda ctx: ctx.sleep(1),
        lambda ctx: ctx.set_custom_status("x"),
        lambda ctx: ctx.set_kv_value("k", "v"),
        lambda ctx: ctx.queue("q").get(),
        lambda ctx: ctx.patched("p"),
        lambda ctx: ctx.continue_as_new(),
    ],
)
def test_a_context_that_leaked_out_of_its_code_changes_nothing(
    misuse: Callable[[OrchestrationContext], object],
) -> None:
    leaked: list[OrchestrationContext] = []

    async def leaks(ctx: OrchestrationContext) -> str:
        leaked.append(ctx)
        await ctx.wait_event("go")
        return "done"

    run = Run.start(define_orchestration(leaks, name="o"), INFO, now_ms=0)
    run.apply((), 0)
    with pytest.raises(RuntimeError, match="orchestration 'o' was used outside of its code"):
        misuse(leaked[0])
    result = run.apply([work.ExternalRaised(instance="i", name="go", data="1")], 1)
    assert [type(e.kind).__name__ for e in result.events] == [
        "ExternalEvent",
        "OrchestrationCompleted",
    ]


async def forgets(ctx: OrchestrationContext) -> str:
    ctx.call("forgotten")
    ctx.sleep(5).cancel()
    raced = ctx.call("raced")
    await ctx.select(ctx.shield(raced), ctx.gather())
    return "done"


def test_only_what_was_neither_awaited_nor_cancelled_is_told() -> None:
    code = define_orchestration(forgets, name="o")
    result = run_turn(code, (), (), now_ms=0, start=INFO)
    assert result.unawaited == (history.ActivityScheduled(name="forgotten", input="null"),)
    run = Run.replay(code, result.events)
    assert run.apply((), 0).unawaited == ()


def test_code_that_fails_is_not_blamed_for_what_it_left_behind() -> None:
    async def fails(ctx: OrchestrationContext) -> None:
        ctx.call("forgotten")
        raise ValueError("no")

    assert not run_turn(
        define_orchestration(fails, name="o"), (), (), now_ms=0, start=INFO
    ).unawaited
