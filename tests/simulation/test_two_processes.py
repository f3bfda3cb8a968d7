"""Two worker processes on one SQLite file, one of which stands still for longer than its leases."""

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

from duroxide import AsyncClient, SqliteProvider, history
from tests.simulation.worker_process import LEASE_MS, STEPS, line, wide

WAIT = timedelta(seconds=60)


@asynccontextmanager
async def worker(store: Path, ledger: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.simulation.worker_process",
        str(store),
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


async def test_a_process_that_stood_still_beyond_its_leases_records_nothing_twice(
    tmp_path: Path,
) -> None:
    store, ledger = tmp_path / "store.db", tmp_path / "ledger"
    provider = SqliteProvider.open(str(store))
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
        assert results == [STEPS] * len(ids)
        for instance in ids:
            assert has_each_step_once(list(await client.history(instance))), instance
    await provider.close()


async def test_processes_that_drain_under_load_repeat_no_activity(tmp_path: Path) -> None:
    store, ledger = tmp_path / "store.db", tmp_path / "ledger"
    provider = SqliteProvider.open(str(store))
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
