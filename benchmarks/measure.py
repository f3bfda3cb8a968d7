"""One workload on one server: rates, latencies of real instances, and what they cost."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import psycopg

from benchmarks.workloads import Workload, registry
from duroxide.client import AsyncClient
from duroxide.providers.base import Provider
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide_pg import PostgresProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    workload: str
    orchestrations: int
    per_second: float
    latency_p50_ms: float
    latency_p95_ms: float
    commits_each: float  # transactions that the server committed, per orchestration
    wal_bytes_each: float
    client_cpu_ms_each: float

    def lines(self) -> list[str]:
        return [
            f"{name.replace('_', ' '):20} {value:,.2f}"
            if isinstance(value, float)
            else f"{name.replace('_', ' '):20} {value}"
            for name, value in asdict(self).items()
        ]


@dataclass(frozen=True, slots=True)
class Counters:
    """What a server has counted so far, and this process's CPU time."""

    wal: int
    commits: int
    cpu_s: float

    @classmethod
    def read(cls, connection: psycopg.Connection[Any]) -> Counters:
        row = connection.execute(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, xact_commit"
            " from pg_stat_database where datname = current_database()"
        ).fetchone()
        assert row is not None
        return cls(int(row[0]), int(row[1]), time.process_time())


async def run(name: str, workload: Workload, dsn: str, schema: str) -> Report:
    """Run a workload with one worker in this process, after a short warm-up."""
    provider = PostgresProvider.connect_with_schema(dsn, schema)
    await provider.start()
    options = RuntimeOptions(
        orchestration_concurrency=workload.concurrency,
        worker_concurrency=max(workload.concurrency * workload.argument, 64)
        if workload.argument <= 10
        else 64,
    )
    try:
        async with AsyncRuntime(provider, registry(), options):
            if workload.count > 20:
                await _latencies(provider, workload, "warm-up", 20)
            return await _measured(name, provider, workload, dsn)
    finally:
        await provider.close()


async def _measured(name: str, provider: Provider, workload: Workload, dsn: str) -> Report:
    with psycopg.connect(dsn, autocommit=True) as watcher:
        before = Counters.read(watcher)
        began = time.perf_counter()
        latencies = await _latencies(provider, workload, "run", workload.count)
        seconds = time.perf_counter() - began
        cpu_s = time.process_time() - before.cpu_s
        await asyncio.sleep(1.2)  # sessions report their counts about once a second
        after = Counters.read(watcher)
    return Report(
        workload=name,
        orchestrations=workload.count,
        per_second=workload.count / seconds,
        latency_p50_ms=_quantile(latencies, 0.50) - workload.floor_ms,
        latency_p95_ms=_quantile(latencies, 0.95) - workload.floor_ms,
        commits_each=(after.commits - before.commits) / workload.count,
        wal_bytes_each=(after.wal - before.wal) / workload.count,
        client_cpu_ms_each=cpu_s / workload.count * 1000,
    )


async def _latencies(
    provider: Provider, workload: Workload, prefix: str, count: int
) -> list[float]:
    """Milliseconds from the call that starts an instance to the moment its end is known."""
    client = AsyncClient(provider)
    gate = asyncio.Semaphore(workload.concurrency)
    run_id = f"{prefix}-{os.getpid()}-{time.monotonic_ns()}"

    async def one(number: int) -> float:
        async with gate:
            began = time.perf_counter()
            instance_id = await client.start(
                workload.orchestration, workload.argument, instance_id=f"{run_id}-{number}"
            )
            await client.wait(instance_id, timedelta(minutes=5))
            return (time.perf_counter() - began) * 1000

    return sorted(await asyncio.gather(*(one(number) for number in range(count))))


def _quantile(values: Sequence[float], fraction: float) -> float:
    return values[min(int(len(values) * fraction), len(values) - 1)]
