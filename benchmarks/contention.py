"""The same work for 1 to 16 worker processes on one database: what they cost each other.

A worker is a process of its own, `python -m benchmarks.contention DSN SCHEMA`, until its input ends; this process
is the client. Nothing here coordinates the workers, and nothing does in production.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg

from benchmarks.measure import latencies, lines_of, quantile
from benchmarks.servers import SETTLE_S, Counters, CountingProvider
from benchmarks.workloads import Workload, fan_out, registry
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide_pg import migrate

PROCESSES = (1, 2, 4, 8, 16)
WORKLOAD = Workload(orchestration=fan_out, argument=5, concurrency=400, count=2_000, records=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentionReport:
    workload: str
    processes: int
    orchestrations: int
    per_second: float
    latency_p50_ms: float
    latency_p99_ms: float
    commits_each: float
    statements_each: float  # of the workers, not of the client
    rollbacks: int  # transactions that found the world changed, or a deadlock, and were sent again
    deadlocks: int
    worker_cpu_ms_each: float
    server_cpu_ms_each: float | None

    def lines(self) -> list[str]:
        return lines_of(self)


async def contention(
    dsn: str, schema: str, processes: int, workload: Workload = WORKLOAD
) -> ContentionReport:
    """Run the workload on this many workers."""
    migrate.upgrade(dsn, schema)
    client = CountingProvider(dsn, schema=schema)
    await client.start()
    try:
        async with workers(dsn, schema, processes) as spent:
            await latencies(client, workload, "warm-up", min(20 * processes, workload.count))
            with psycopg.connect(dsn, autocommit=True) as watcher:
                before = Counters.read(watcher)
                began = time.perf_counter()
                took = await latencies(client, workload, "run", workload.count)
                seconds = time.perf_counter() - began
                await asyncio.sleep(SETTLE_S)
                after = Counters.read(watcher)
    finally:
        await client.close()
    server_s = None
    if before.server_cpu_s is not None and after.server_cpu_s is not None:
        server_s = after.server_cpu_s - before.server_cpu_s
    done = workload.count + min(
        20 * processes, workload.count
    )  # the workers count the warm-up as well
    return ContentionReport(
        workload="contention",
        processes=processes,
        orchestrations=workload.count,
        per_second=workload.count / seconds,
        latency_p50_ms=quantile(took, 0.5),
        latency_p99_ms=quantile(took, 0.99),
        commits_each=(after.commits - before.commits) / workload.count,
        statements_each=sum(worker["requests"] for worker in spent) / done,
        rollbacks=after.rollbacks - before.rollbacks,
        deadlocks=after.deadlocks - before.deadlocks,
        worker_cpu_ms_each=sum(worker["cpu_s"] for worker in spent) / done * 1000,
        server_cpu_ms_each=None if server_s is None else server_s / workload.count * 1000,
    )


@asynccontextmanager
async def workers(dsn: str, schema: str, count: int) -> AsyncIterator[list[dict[str, float]]]:
    """Worker processes; the list holds what each has spent, once they have ended."""
    spent: list[dict[str, float]] = []
    running = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.contention",
            dsn,
            schema,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(count)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            if await process.stdout.readline() != b"ready\n":
                raise RuntimeError("a worker did not start; its errors are above")
        yield spent
        for process in running:
            output, _ = await process.communicate(b"")  # ends its input
            spent.append(json.loads(output))
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def work(dsn: str, schema: str) -> None:
    """Be a worker until the input ends."""
    provider = CountingProvider(dsn, schema=schema)
    await provider.start()
    options = RuntimeOptions(orchestration_concurrency=64, worker_concurrency=320)
    try:
        async with AsyncRuntime(provider, registry(), options):
            print("ready", flush=True)
            began_s, sent = time.process_time(), provider.requests
            await asyncio.to_thread(sys.stdin.read)
            spent_s, sent = time.process_time() - began_s, provider.requests - sent
    finally:
        await provider.close()
    print(json.dumps({"cpu_s": spent_s, "requests": sent}))


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
