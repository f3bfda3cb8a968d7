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

from benchmarks.servers import SETTLE_S, Counters, CountingProvider
from benchmarks.workloads import EVENTS, Workload, registry
from duroxide.client import AsyncClient
from duroxide.providers.base import Provider
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    workload: str
    orchestrations: int
    per_second: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    commits_each: float  # transactions that the server committed, per orchestration
    statements_each: float  # requests that were sent to the server
    wal_bytes_each: float
    client_cpu_ms_each: float
    server_cpu_ms_each: float | None  # None: the server is on another machine

    def lines(self) -> list[str]:
        return lines_of(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleReport:
    """What a worker costs that has nothing to do."""

    workload: str
    seconds: float
    statements_per_second: float
    commits_per_second: float
    wal_bytes_per_second: float
    client_cpu_percent: float

    def lines(self) -> list[str]:
        return lines_of(self)


IDLE_S = 20.0


async def run(name: str, workload: Workload, dsn: str, schema: str) -> Report:
    """Run a workload with one worker in this process, after a short warm-up."""
    provider = CountingProvider.connect_with_schema(dsn, schema)
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
                await latencies(provider, workload, "warm-up", 20)
            return await _measured(name, provider, workload, dsn)
    finally:
        await provider.close()


async def idle(dsn: str, schema: str, seconds: float = IDLE_S) -> IdleReport:
    """A worker of this process without any work, after it has settled."""
    provider = CountingProvider.connect_with_schema(dsn, schema)
    await provider.start()
    try:
        async with AsyncRuntime(provider, registry(), RuntimeOptions()):
            with psycopg.connect(dsn, autocommit=True) as watcher:
                await asyncio.sleep(2)
                before, sent = Counters.read(watcher), provider.requests
                await asyncio.sleep(seconds)
                spent = time.process_time() - before.client_cpu_s
                sent = provider.requests - sent
                await asyncio.sleep(SETTLE_S)
                after = Counters.read(watcher)
    finally:
        await provider.close()
    return IdleReport(
        workload="idle",
        seconds=seconds,
        statements_per_second=sent / seconds,
        # Of the watcher is one, which reads the counters.
        commits_per_second=max(after.commits - before.commits - 1, 0) / (seconds + SETTLE_S),
        wal_bytes_per_second=(after.wal - before.wal) / (seconds + SETTLE_S),
        client_cpu_percent=spent / seconds * 100,
    )


async def _measured(name: str, provider: CountingProvider, workload: Workload, dsn: str) -> Report:
    with psycopg.connect(dsn, autocommit=True) as watcher:
        before, sent = Counters.read(watcher), provider.requests
        began = time.perf_counter()
        took = await latencies(provider, workload, "run", workload.count)
        seconds = time.perf_counter() - began
        cpu_s = time.process_time() - before.client_cpu_s
        sent = provider.requests - sent
        await asyncio.sleep(SETTLE_S)
        after = Counters.read(watcher)
    server_s = None
    if before.server_cpu_s is not None and after.server_cpu_s is not None:
        server_s = after.server_cpu_s - before.server_cpu_s
    return Report(
        workload=name,
        orchestrations=workload.count,
        per_second=workload.count / seconds,
        latency_p50_ms=quantile(took, 0.50),
        latency_p95_ms=quantile(took, 0.95),
        latency_p99_ms=quantile(took, 0.99),
        commits_each=(after.commits - before.commits) / workload.count,
        statements_each=sent / workload.count,
        wal_bytes_each=(after.wal - before.wal) / workload.count,
        client_cpu_ms_each=cpu_s / workload.count * 1000,
        server_cpu_ms_each=None if server_s is None else server_s / workload.count * 1000,
    )


async def latencies(provider: Provider, workload: Workload, prefix: str, count: int) -> list[float]:
    """Milliseconds from the call that starts an instance to the moment its end is known, or its own."""
    client = AsyncClient(provider)
    gate = asyncio.Semaphore(workload.concurrency)
    run_id = f"{prefix}-{os.getpid()}-{time.monotonic_ns()}"

    async def one(number: int) -> float:
        part = workload.parts[number % len(workload.parts)]
        async with gate:
            began = time.perf_counter()
            instance_id = await client.start(
                part.orchestration, part.argument, instance_id=f"{run_id}-{number}"
            )
            for event in range(part.events):
                await client.enqueue(instance_id, EVENTS, event)
            state = await client.wait(instance_id, timedelta(minutes=5))
            if workload.returns_latency:
                return float(state.output or "nan")
            return (time.perf_counter() - began) * 1000

    return sorted(await asyncio.gather(*(one(number) for number in range(count))))


def lines_of(report: Any) -> list[str]:
    return [
        f"{name.replace('_', ' '):22} {value:,.2f}"
        if isinstance(value, float)
        else f"{name.replace('_', ' '):22} {'unknown' if value is None else value}"
        for name, value in asdict(report).items()
    ]


def quantile(values: Sequence[float], fraction: float) -> float:
    return values[min(int(len(values) * fraction), len(values) - 1)]
