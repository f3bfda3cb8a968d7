"""What no replay could repeat is refused at the line, and the durable replacement is named."""

# ruff: noqa: ASYNC221, ASYNC230, ASYNC251, TID251 - doing the wrong thing is what is tested here
from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from duroxide.context import OrchestrationContext
from duroxide.engine.turn import StartInfo, run_turn
from duroxide.errors import DeterminismViolation
from duroxide.registry import define_orchestration
from duroxide.runtime.guard import Guard

INFO = StartInfo(
    instance_id="i", execution_id=1, name="o", version="1.0.0", input="null", seed="00"
)


def run(body: Callable[[OrchestrationContext], Awaitable[Any]], guard: Guard) -> None:
    async def orchestration(ctx: OrchestrationContext) -> Any:
        return await body(ctx)

    run_turn(define_orchestration(orchestration), (), (), now_ms=0, start=INFO, guard=guard)


async def sleeps(ctx: OrchestrationContext) -> None:
    await asyncio.sleep(1)


async def yields_bare(ctx: OrchestrationContext) -> None:
    await asyncio.sleep(0)


async def gathers(ctx: OrchestrationContext) -> None:
    await asyncio.gather(sleeps(ctx))


async def waits_for(ctx: OrchestrationContext) -> None:
    await asyncio.wait_for(ctx.sleep(1), 5)


async def threads(ctx: OrchestrationContext) -> None:
    await asyncio.to_thread(print)


async def reads_a_queue(ctx: OrchestrationContext) -> None:
    await asyncio.Queue[int]().get()


async def blocks(ctx: OrchestrationContext) -> None:
    time.sleep(0)


async def connects(ctx: OrchestrationContext) -> None:
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", 9))


async def spawns(ctx: OrchestrationContext) -> None:
    subprocess.run(["true"])


async def starts_a_thread(ctx: OrchestrationContext) -> None:
    threading.Thread(target=print).start()


async def runs_a_loop_of_its_own(ctx: OrchestrationContext) -> None:
    program = sleeps(ctx)
    try:
        asyncio.run(program)
    finally:
        program.close()


async def groups_tasks(ctx: OrchestrationContext) -> None:
    async with asyncio.TaskGroup():
        pass


@pytest.mark.parametrize(
    ("body", "instead"),
    [
        (sleeps, "ctx.sleep"),
        (yields_bare, "ctx.sleep"),
        (waits_for, "ctx.timeout"),
        (threads, "an activity"),
        (reads_a_queue, "ctx.queue"),
        (blocks, "ctx.sleep"),
        (connects, "an activity"),
        (spawns, "an activity"),
        (starts_a_thread, "ctx.spawn"),
        (runs_a_loop_of_its_own, r"asyncio\.run .* use await instead"),
        (groups_tasks, r"asyncio\.TaskGroup .* ctx\.scope"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:coroutine")
def test_what_waits_outside_history_is_refused_and_the_replacement_named(
    body: Callable[[OrchestrationContext], Awaitable[Any]], instead: str
) -> None:
    with pytest.raises(DeterminismViolation, match=instead):
        run(body, Guard())


def test_the_report_names_the_line() -> None:
    with pytest.raises(DeterminismViolation, match=r"test_guard\.py:\d+"):
        run(sleeps, Guard())


async def swallows(ctx: OrchestrationContext) -> None:
    try:
        time.sleep(0)
    except BaseException:
        pass
    await ctx.sleep(1)


def test_a_violation_that_the_code_swallows_still_voids_the_run() -> None:
    with pytest.raises(DeterminismViolation, match=r"time\.sleep"):
        run(swallows, Guard())


async def reads_the_clock(ctx: OrchestrationContext) -> float:
    return time.time()


async def draws(ctx: OrchestrationContext) -> str:
    return str(uuid.uuid4())


async def rolls(ctx: OrchestrationContext) -> float:
    return random.random()


async def opens(ctx: OrchestrationContext) -> str:
    with open(__file__) as file:
        return file.readline()


@pytest.mark.parametrize(
    ("body", "instead"),
    [
        (reads_the_clock, "ctx.now"),
        (draws, "ctx.uuid"),
        (rolls, "ctx.random"),
        (opens, "an activity"),
    ],
)
def test_the_strict_guard_also_refuses_clock_randomness_and_files(
    body: Callable[[OrchestrationContext], Awaitable[Any]], instead: str
) -> None:
    run(body, Guard())
    with pytest.raises(DeterminismViolation, match=instead):
        run(body, Guard(strict=True))


async def test_outside_of_orchestration_code_nothing_is_refused() -> None:
    guard = Guard(strict=True)
    loop = asyncio.get_running_loop()
    with guard():
        pass
    assert asyncio.get_running_loop() is loop
    await asyncio.sleep(0)
    time.sleep(0)
    assert time.time() > 0
    assert random.random() < 1
