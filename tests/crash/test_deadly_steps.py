"""A step that kills its process whenever it runs: it fails, and nothing else does."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest

from duroxide import (
    AsyncClient,
    AsyncRuntime,
    OrchestrationContext,
    Registry,
    RuntimeOptions,
    SqliteProvider,
    activity,
    orchestration,
)
from duroxide.state import ExecutionStatus

INNOCENTS = 8
ATTEMPTS = 6  # so that what comes for the third time is suspect
LEASE_MS = 400


@activity
async def deadly() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@activity
async def harmless() -> str:
    await asyncio.sleep(0.3)
    return "done"


@orchestration
async def doomed(ctx: OrchestrationContext) -> None:
    await ctx.call(deadly)


@orchestration
async def innocent(ctx: OrchestrationContext) -> str:
    return str(await ctx.call(harmless))


def work(path: Path) -> None:
    async def run() -> None:
        options = RuntimeOptions(
            max_attempts=ATTEMPTS,
            worker_lock_timeout_ms=LEASE_MS,
            orchestrator_lock_timeout_ms=LEASE_MS,
        )
        registry = Registry().add(deadly, harmless, doomed, innocent)
        async with AsyncRuntime(SqliteProvider(path), registry, options):
            await asyncio.Event().wait()

    asyncio.run(run())


@pytest.mark.long
async def test_a_step_that_kills_its_process_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    deaths = 0

    async def keep_a_worker() -> None:
        nonlocal deaths
        while True:
            process = get_context("spawn").Process(target=work, args=(path,))
            process.start()
            try:
                await asyncio.to_thread(process.join)
                assert process.exitcode == -signal.SIGKILL
                deaths += 1
            finally:
                with suppress(ValueError):
                    process.kill()

    async with AsyncClient(SqliteProvider(path)) as client:
        innocents = [await client.start(innocent) for _ in range(INNOCENTS)]
        bad = await client.start(doomed)
        worker = asyncio.create_task(keep_a_worker())
        minute = timedelta(minutes=1)
        for instance_id in innocents:
            state = await client.wait(instance_id, minute)
            assert state.status is ExecutionStatus.COMPLETED, state
        state = await client.wait(bad, minute)
        assert state.status is ExecutionStatus.FAILED
        assert f"exceeded {ATTEMPTS + 1} attempts" in str(state.output)
        assert deaths == ATTEMPTS
        worker.cancel()
        await asyncio.wait([worker])
