"""A turn that holds the event loop is named while it does, with its line."""

from __future__ import annotations

import inspect
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from duroxide.client import AsyncClient
from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import OrchestrationDef, Registry
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime

LIMIT_MS = 40
PATIENCE_S = 10.0


class Told(logging.Handler):
    """Keeps warnings, and lets other threads wait for one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []
        self.arrived = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.arrived.set()


@contextmanager
def told() -> Iterator[Told]:
    handler, logger = Told(), logging.getLogger("duroxide.runtime")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)


def compute_until(done: threading.Event) -> None:
    end = time.perf_counter() + PATIENCE_S
    while not done.is_set() and time.perf_counter() < end:
        json.loads("[" + "1," * 2_000 + "1]")  # the innermost line is the library's


@activity
async def nothing() -> None: ...


async def run(definition: OrchestrationDef[..., Any], options: RuntimeOptions) -> None:
    store = MemoryProvider()
    registry = Registry().add(definition, nothing)
    async with AsyncClient(store) as client, AsyncRuntime(store, registry, options):
        await client.result(await client.start(definition, instance_id="i1"))


async def test_the_line_is_named_while_the_turn_is_still_stuck() -> None:
    with told() as handler:

        @orchestration
        async def heavy(ctx: OrchestrationContext) -> None:
            await ctx.call(nothing)
            compute_until(handler.arrived)

        await run(heavy, RuntimeOptions(slow_turn_ms=LIMIT_MS))
    stuck, ended = handler.records
    text = stuck.getMessage()
    assert text.startswith("a turn of i1 (heavy) has held the event loop for 0.")
    first = inspect.getsourcelines(compute_until)[1]
    lines = [f"{__file__}:{first + number} in compute_until" for number in range(4)]
    assert any(line in text for line in lines), text
    facts = vars(stuck)
    assert (facts["instance_id"], facts["orchestration_name"]) == ("i1", "heavy")
    assert facts["duration_ms"] >= LIMIT_MS
    assert "compute_until" in facts["stack"]
    assert "in heavy" in facts["stack"]
    assert ended.getMessage().startswith("a turn of i1 (heavy) held the event loop for 0.")


async def test_a_stuck_replay_is_named_too() -> None:
    with told() as handler:
        done = threading.Event()
        done.set()

        @orchestration
        async def again(ctx: OrchestrationContext) -> None:
            compute_until(handler.arrived if ctx.is_replaying else done)
            await ctx.call(nothing)

        await run(again, RuntimeOptions(slow_turn_ms=LIMIT_MS, cache="off"))
    assert "a turn of i1 (again) has held" in handler.records[0].getMessage()


async def test_turns_in_time_are_not_worth_a_word() -> None:
    @orchestration
    async def light(ctx: OrchestrationContext) -> None:
        for _ in range(5):
            await ctx.call(nothing)

    with told() as handler:
        await run(light, RuntimeOptions())
    assert handler.records == []


async def test_zero_looks_at_nothing() -> None:
    @orchestration
    async def slow(ctx: OrchestrationContext) -> None:
        end = time.perf_counter() + 0.05
        while time.perf_counter() < end:
            pass

    before = threading.active_count()
    with told() as handler:
        await run(slow, RuntimeOptions(slow_turn_ms=0))
        assert threading.active_count() == before
    assert handler.records == []


async def test_the_thread_ends_with_the_runtime() -> None:
    def watchdogs() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "duroxide watchdog"]

    seen: list[int] = []

    @orchestration
    async def counting(ctx: OrchestrationContext) -> None:
        seen.append(len(watchdogs()))

    before = len(watchdogs())
    await run(counting, RuntimeOptions())
    assert seen == [before + 1]
    assert len(watchdogs()) == before


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="slow_turn_ms must be at least 0"):
        RuntimeOptions(slow_turn_ms=-1)
