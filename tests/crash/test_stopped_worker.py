"""A worker process that is stopped beyond its leases and goes on: no step twice, no instance lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

from duroxide import (
    AsyncClient,
    AsyncRuntime,
    OrchestrationContext,
    Registry,
    RuntimeOptions,
    SqliteProvider,
    activity,
    history,
    orchestration,
)
from duroxide.state import ExecutionStatus

OPTIONS = RuntimeOptions(
    orchestrator_lock_timeout_ms=600, worker_lock_timeout_ms=600, worker_concurrency=8
)


@activity
async def step(number: int) -> int:
    await asyncio.sleep(0.03)
    return number + 1


@orchestration
async def walk(ctx: OrchestrationContext, length: int) -> int:
    number = 0
    for _ in range(length):
        number = await ctx.call(step, number)
    return number


REGISTRY = Registry().add(step, walk)


async def work(path: str) -> None:
    """What the child process does until it is told to end."""
    provider = SqliteProvider(path)
    async with AsyncRuntime(provider, REGISTRY, OPTIONS):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await provider.close()


async def test_a_stopped_worker_that_goes_on_does_no_harm(tmp_path: Path) -> None:
    path = str(tmp_path / "shared.db")
    provider = SqliteProvider(path)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import asyncio; from {__name__} import work; asyncio.run(work({path!r}))",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        await child.stdout.readline()
        async with AsyncClient(provider) as client:
            ids = [await client.start(walk, 25, instance_id=f"i{number}") for number in range(20)]
            await asyncio.sleep(0.3)
            os.kill(child.pid, signal.SIGSTOP)
            async with AsyncRuntime(provider, REGISTRY, OPTIONS):
                await asyncio.sleep(1.0)
                os.kill(child.pid, signal.SIGCONT)
                limit = timedelta(seconds=60)
                states = await asyncio.gather(*(client.wait(i, limit) for i in ids))
            assert {state.status for state in states} == {ExecutionStatus.COMPLETED}
            assert {state.output for state in states} == {"25"}
            for instance_id in ids:
                events = await client.history(instance_id)
                assert [event.event_id for event in events] == list(range(1, len(events) + 1))
                answers = Counter(
                    event.kind.source_event_id
                    for event in events
                    if isinstance(event.kind, history.ActivityCompleted)
                )
                assert sorted(answers.values()) == [1] * 25
    finally:
        child.stdin.write(b"\n")
        async with asyncio.timeout(30):
            await child.wait()
        await provider.close()
