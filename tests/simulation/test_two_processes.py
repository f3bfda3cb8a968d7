"""Worker processes on one store: one stands still for longer than its leases, others come and go."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from duroxide import AsyncClient, history
from duroxide_pg import migrate
from tests.fixtures.postgres import Database
from tests.simulation.worker_process import LEASE_MS, STEPS, line, open_store, wide

WAIT = timedelta(seconds=60)


@asynccontextmanager
async def worker(store: str, ledger: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.simulation.worker_process",
        store,
        env={**os.environ, "LEDGER": str(ledger)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def wait_for_lines(ledger: Path, at_least: int) -> None:
    deadline = time.monotonic() + 30
    while not ledger.exists() or ledger.read_text().count("\n") < at_least:
        assert time.monotonic() < deadline, f"{at_least} lines are not there"
        time.sleep(0.01)


def has_each_step_once(events: list[history.Event]) -> bool:
    answers = [e.kind for e in events if isinstance(e.kind, history.ActivityCompleted)]
    sources = [kind.source_event_id for kind in answers]
    return (
        [event.event_id for event in events] == list(range(1, len(events) + 1))
        and len(sources) == len(set(sources))
        and isinstance(events[-1].kind, history.OrchestrationCompleted)
    )


async def start_all(client: AsyncClient, count: int) -> list[str]:
    return [await client.start((line, wide)[n % 2], STEPS) for n in range(count)]


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store is that several processes share."""
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    database: Database = request.getfixturevalue("database")
    migrate.upgrade(database.dsn)
    return database.dsn


@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
async def test_a_process_that_stood_still_beyond_its_leases_records_nothing_twice(
    store: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    provider = open_store(store)
    async with (
        AsyncClient(provider) as client,
        worker(store, ledger) as stopped,
        worker(store, ledger),
    ):
        ids = await start_all(client, 40)
        await asyncio.to_thread(wait_for_lines, ledger, 40)
        stopped.send_signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE_MS * 2.5 / 1000)  # what is tested is that time passes
        stopped.send_signal(signal.SIGCONT)
        results = [await client.result(instance, timeout=WAIT) for instance in ids]
        assert results == [STEPS] * len(ids), "no instance is lost"
        for instance in ids:
            assert has_each_step_once(list(await client.history(instance))), instance
    await provider.close()


@pytest.mark.parametrize(
    "store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
async def test_processes_that_drain_under_load_repeat_no_activity(
    store: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    provider = open_store(store)
    async with AsyncClient(provider) as client:
        ids = await start_all(client, 40)
        for round_ in range(1, 4):
            async with worker(store, ledger) as process:
                await asyncio.to_thread(wait_for_lines, ledger, round_ * 50)
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
        async with worker(store, ledger):
            results = [await client.result(instance, timeout=WAIT) for instance in ids]
        assert results == [STEPS] * len(ids)
    await provider.close()
    taken = Counter(ledger.read_text().splitlines())
    assert len(taken) == 40 * STEPS
    assert [step for step, times in taken.items() if times > 1] == []
