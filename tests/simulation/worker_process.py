"""A worker in a process of its own, on a SQLite file or a PostgreSQL database.

It appends a line to a ledger for each step that it takes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from duroxide import (
    AsyncRuntime,
    OrchestrationContext,
    Registry,
    RuntimeOptions,
    SqliteProvider,
    activity,
    orchestration,
)
from duroxide.activity_context import ActivityContext
from duroxide_pg import PostgresProvider

LEASE_MS = 1_000
STEPS = 12
LEDGER = Path(os.environ.get("LEDGER", os.devnull))


@activity
def step(ctx: ActivityContext, number: int) -> int:
    time.sleep(0.02)
    with LEDGER.open("a") as ledger:  # one write of less than a page: whole lines
        ledger.write(f"{ctx.instance_id} {number}\n")
    return number + 1


@orchestration
async def line(ctx: OrchestrationContext, steps: int) -> int:
    number = 0
    for _ in range(steps):
        number = await ctx.call(step, number)
    return number


@orchestration
async def wide(ctx: OrchestrationContext, width: int) -> int:
    return len(await ctx.gather(*(ctx.call(step, number) for number in range(width))))


def open_store(where: str) -> SqliteProvider | PostgresProvider:
    """A path, or a URL of PostgreSQL."""
    if where.startswith("postgresql:"):
        return PostgresProvider(where)
    return SqliteProvider.open(where)


async def main(where: str) -> None:
    provider = open_store(where)
    options = RuntimeOptions(
        orchestrator_lock_timeout_ms=LEASE_MS, worker_lock_timeout_ms=LEASE_MS, worker_concurrency=8
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with AsyncRuntime(provider, Registry().add(step, line, wide), options):
        print("ready", flush=True)
        await stopping.wait()
    await provider.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
