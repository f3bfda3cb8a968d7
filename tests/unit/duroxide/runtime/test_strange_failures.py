"""Whatever code raises is the end of that code, told in words: nothing hangs, nothing else fails."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from duroxide.client import OrchestrationFailed
from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.errors import ActivityError, OrchestrationError, TaskError
from duroxide.registry import define_activity
from duroxide.testing.world import World
from tests.unit.duroxide.runtime.test_runtime import working


class Mute(Exception):
    def __str__(self) -> str:
        raise LookupError("no words")


MUTE = "Mute: its text can't be made, __str__ raised LookupError"
RAISED: list[tuple[Callable[[], BaseException], str]] = [
    (Mute, MUTE),
    (lambda: StopIteration(5), "RuntimeError: coroutine raised StopIteration"),
    (lambda: ActivityError(5), "ActivityError: 5"),  # type: ignore[arg-type]  # no text
    (lambda: ActivityError(None), "ActivityError: None"),  # type: ignore[arg-type]
]


@orchestration(name="ask")
async def ask(ctx: OrchestrationContext) -> str:
    try:
        return str(await ctx.call("answer"))
    except TaskError as error:
        return str(error)


@pytest.mark.parametrize("place", ["loop", "thread", "executor"])
@pytest.mark.parametrize(("make", "text"), RAISED)
async def test_an_activity_fails_by_whatever_it_raises(
    place: str, make: Callable[[], BaseException], text: str
) -> None:
    def plain() -> None:
        raise make()

    async def on_the_loop() -> None:
        raise make()

    with ThreadPoolExecutor(1) as pool:
        executor = pool if place == "executor" else None
        function: Any = on_the_loop if place == "loop" else plain
        answer = define_activity(function, name="answer", executor=executor)
        async with working(ask, answer) as (client, _):
            assert await client.result(await client.start(ask)) == (
                f"Activity 'answer' call failed: {text}"
            )


def test_a_scripted_activity_fails_likewise() -> None:
    world = World(ask)
    world.answer("answer", raises=Mute())
    assert world.start(ask).output == f"Activity 'answer' call failed: {MUTE}"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (Mute, MUTE),
        (lambda: OrchestrationError(5), "5"),  # type: ignore[arg-type]
        (lambda: OrchestrationError(None), "None"),  # type: ignore[arg-type]
    ],
)
async def test_an_orchestration_fails_by_whatever_it_raises(
    make: Callable[[], Exception], text: str
) -> None:
    @orchestration
    async def failing(ctx: OrchestrationContext) -> None:
        raise make()

    async with working(failing) as (client, _):
        with pytest.raises(OrchestrationFailed, match=text):
            await client.result(await client.start(failing))


async def test_an_executor_that_gives_up_a_call_fails_the_activity() -> None:
    class GivesUp(ThreadPoolExecutor):
        def submit(self, *args: Any, **more: Any) -> Any:
            future = super().submit(print)
            future.result()
            given_up: Any = type(future)()
            given_up.cancel()
            given_up.set_running_or_notify_cancel()
            return given_up

    @activity(name="unused")
    def unused() -> None: ...

    with GivesUp(1) as pool:
        answer = define_activity(unused.fn, name="answer", executor=pool)
        async with working(ask, answer) as (client, _):
            text = await client.result(await client.start(ask))
    assert text == "Activity 'answer' call failed: CancelledError: the activity cancelled itself"
