"""Every example does what it says, also when its worker is stopped again and again in the middle."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import Any

import pytest

from duroxide.client import AsyncClient
from duroxide.providers.memory import MemoryProvider
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.testing.replay import assert_replays

EXAMPLES = Path(__file__).parents[2] / "examples"

# What a stopped worker could not give back is free again soon, and not after half a minute.
SHORT_LEASES = RuntimeOptions(worker_lock_timeout_ms=500, orchestrator_lock_timeout_ms=500)

EXPECTED: dict[str, Any] = {
    "hello": "Hello, world!",
    "fan_out": {"words": 70, "failed": 1},
    "timers": ["slept", "gave up", "fast won"],
    "approval": ["paid 20 to Ada", "paid 500 to Bob", "refused by Carol"],
    "saga": [
        ["flight to Rome", "hotel in Rome", "car in Rome"],
        [
            "flight to Venice",
            "hotel in Venice",
            "failed: Activity 'book_car' call failed: ActivityError: there are no cars in Venice",
            "cancelled: hotel in Venice",
            "cancelled: flight to Venice",
        ],
    ],
    "actor": (100, "1000000"),
    "versions": [["book notified", "book shipped"], ["lamp shipped", "lamp notified"]],
}


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name / f"{name}.py"), run_name=name)


def test_there_is_an_expectation_for_every_example() -> None:
    found = {p.parent.name for p in EXAMPLES.glob("*/*.py") if p.stem == p.parent.name}
    assert set(EXPECTED) <= found


@pytest.mark.parametrize("name", EXPECTED)
async def test_an_example_does_what_it_says(name: str) -> None:
    example = load(name)
    provider = MemoryProvider()
    async with AsyncRuntime(provider, example["REGISTRY"]), AsyncClient(provider) as client:
        assert await example["scenario"](client) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
async def test_an_example_survives_workers_that_are_stopped_in_the_middle(name: str) -> None:
    example = load(name)
    provider = MemoryProvider()
    async with AsyncClient(provider) as client:
        scenario = asyncio.create_task(example["scenario"](client))
        for life_ms in range(1, 400):
            runtime = AsyncRuntime(provider, example["REGISTRY"], SHORT_LEASES)
            await runtime.start()
            await asyncio.wait([scenario], timeout=life_ms / 1000)
            await runtime.stop()
            if scenario.done():
                break
        assert await scenario == EXPECTED[name]
        for state in await provider.list_instances():
            started = await client.history(state.instance_id)
            code = example["REGISTRY"].orchestration(state.name, state.version)
            assert_replays(list(started), code)
