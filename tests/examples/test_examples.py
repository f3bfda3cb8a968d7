"""Every example does what it says, also when its worker is stopped or killed in the middle."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from duroxide.client import AsyncClient
from duroxide.providers.memory import MemoryProvider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.testing.replay import assert_replays
from tests.examples.load import EXAMPLES, load, path_of

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


PATIENCE_S = 60
DEATHS = (1, 2)  # after the first commit of the first worker, after the second of the second


def test_there_is_an_expectation_for_every_example() -> None:
    found = {p.parent.name for p in EXAMPLES.glob("*/*.py") if p.stem == p.parent.name}
    assert set(EXPECTED) <= found


@pytest.mark.parametrize("name", EXPECTED)
async def test_an_example_is_a_program(name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(path_of(name)), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0
    assert output.strip()


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


@pytest.mark.parametrize("name", EXPECTED)
async def test_an_example_survives_workers_that_are_killed_in_the_middle(
    name: str, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"
    provider = SqliteProvider(tmp_path / "store.db")
    async with AsyncClient(provider) as client:
        scenario = asyncio.create_task(load(name)["scenario"](client))
        for commits in DEATHS:
            worker = await start_worker(name, tmp_path / "store.db", effects, str(commits))
            assert await asyncio.wait_for(worker.wait(), PATIENCE_S) == -signal.SIGKILL
            if commits == DEATHS[0]:
                assert not scenario.done(), "killed in the middle"
        worker = await start_worker(name, tmp_path / "store.db", effects)
        try:
            assert await asyncio.wait_for(scenario, PATIENCE_S) == EXPECTED[name]
        finally:
            with suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()
    await provider.close()
    assert_that_what_is_recorded_is_not_done_again(effects.read_text().splitlines())


async def start_worker(name: str, *arguments: Path | str) -> asyncio.subprocess.Process:
    program = ("-m", "tests.examples.worker", name, *map(str, arguments))
    return await asyncio.create_subprocess_exec(
        sys.executable, *program, cwd=EXAMPLES.parent, stderr=asyncio.subprocess.DEVNULL
    )


def assert_that_what_is_recorded_is_not_done_again(lines: list[str]) -> None:
    """An activity may begin more than once, but not after its result was recorded."""
    recorded: set[str] = set()
    for line in lines:
        what, activity = line.split(" ", 1)
        assert activity not in recorded, f"{line}, after it was recorded"
        if what == "recorded":
            recorded.add(activity)
