"""Every workload of the benchmarks runs to its end, small, and counts what it says it counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from benchmarks.contention import WORKLOAD, contention
from benchmarks.measure import idle, run
from benchmarks.workloads import WORKLOADS
from tests.fixtures.postgres import Database


@pytest.mark.long
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_runs(name: str, database: Database) -> None:
    workload = WORKLOADS[name]
    argument = min(workload.argument, 20)
    small = replace(workload, count=min(workload.count, 6), argument=argument)
    report = asyncio.run(run(name, small, database.dsn, "benchmark"))
    assert report.orchestrations == small.count
    assert 0 <= report.latency_p50_ms <= report.latency_p95_ms <= report.latency_p99_ms
    assert report.latency_p99_ms > 0  # of timers it is how late they are
    assert report.commits_each > 0
    assert report.statements_each > 0
    assert report.wal_bytes_each > 100
    assert "statements each" in "\n".join(report.lines())


@pytest.mark.long
def test_workers_in_processes_of_their_own_share_the_work(database: Database) -> None:
    small = replace(WORKLOAD, count=40)
    report = asyncio.run(contention(database.dsn, "benchmark", 2, small))
    assert report.processes == 2
    assert report.deadlocks == 0
    assert report.worker_cpu_ms_each > 0
    assert report.statements_each > 0


@pytest.mark.long
def test_an_idle_worker_is_measured(database: Database) -> None:
    report = asyncio.run(idle(database.dsn, "benchmark", seconds=6))
    assert 0 < report.statements_per_second < 2
