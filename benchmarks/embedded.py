"""The embedded stores: what an orchestration costs, busy and idle.

    python -m benchmarks sqlite [--count N] [--file PATH]

Prints rates and latencies for the memory provider and for SQLite in memory and in a file, in one run.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from duroxide import (
    AsyncClient,
    AsyncRuntime,
    MemoryProvider,
    OrchestrationContext,
    Registry,
    SqliteProvider,
    activity,
    orchestration,
)
from duroxide.providers.base import Provider
from duroxide.providers.writer import Writer


@activity
async def ten_ms(number: int) -> int:
    await asyncio.sleep(0.01)
    return number


@activity
async def instant(number: int) -> int:
    return number


@orchestration
async def fan_out(ctx: OrchestrationContext, width: int) -> int:
    return sum(await ctx.gather(*(ctx.call(ten_ms, number) for number in range(width))))


@orchestration
async def chain(ctx: OrchestrationContext, length: int) -> int:
    total = 0
    for number in range(length):
        total += await ctx.call(instant, number)
    return total


@orchestration
async def nap(ctx: OrchestrationContext, seconds: float) -> None:
    await ctx.sleep(seconds)


REGISTRY = Registry().add(ten_ms, instant, fan_out, chain, nap)


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


def row(what: str, value: str) -> None:
    print(f"  {what:<44} {value}")


def percentiles(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=20)
    return f"p50 {statistics.median(seconds) * 1000:.1f} ms, p95 {cuts[-1] * 1000:.1f} ms"


async def measure(provider: Provider, count: int) -> None:
    async with AsyncClient(provider) as client, AsyncRuntime(provider, REGISTRY):

        async def run(definition: object, argument: object) -> object:
            return await client.result(await client.start(definition, argument))  # type: ignore[arg-type]  # any of the three

        idle = [await timed(lambda: run(chain, 1)) for _ in range(100)]
        row("one activity, idle, start to result", percentiles(idle))
        hundred = await timed(lambda: run(chain, 100))
        row("a chain of 100 activities", f"{hundred:.3f} s")
        gate = asyncio.Semaphore(200)
        latencies: list[float] = []

        async def one() -> None:
            async with gate:
                latencies.append(await timed(lambda: run(fan_out, 5)))

        cpu = resource.getrusage(resource.RUSAGE_SELF)
        wall = await timed(lambda: asyncio.gather(*(one() for _ in range(count))))
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
        row(f"fan-out 5 x 10 ms, 200 at once, {count} in all", f"{count / wall:.0f} /s")
        row("  CPU for each", f"{spent / count * 1000:.2f} ms")
        row("  latency", percentiles(latencies))
        late = [await timed(lambda: run(nap, 0.2)) - 0.2 for _ in range(20)]
        row("timers, one at a time, late by", percentiles(late))
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        counted = Statements()
        with counted:
            await asyncio.sleep(3)
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
        row("idle for 3 s: transactions, CPU", f"{counted.count}, {spent / 3 * 100:.2f} %")
    await provider.close()


class Statements:
    """Counts the transactions that a SQLite store is asked for."""

    def __init__(self) -> None:
        self.count = 0
        self._run = Writer.run

    def __enter__(self) -> None:
        run = self._run

        async def counting(writer: Writer, operation: str, work: Callable[[], object]) -> object:
            self.count += 1
            return await run(writer, operation, work)

        Writer.run = counting  # type: ignore[assignment, method-assign]  # for as long as we measure

    def __exit__(self, *_: object) -> None:
        Writer.run = self._run  # type: ignore[method-assign]  # as it was


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sqlite", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--file", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder) / "benchmark.db"
        stores: dict[str, Callable[[], Provider]] = {
            "memory": MemoryProvider,
            "SQLite in memory": SqliteProvider.in_memory,
            "SQLite in a file": lambda: SqliteProvider(file),
        }
        for name, make in stores.items():
            print(name)
            asyncio.run(measure(make(), options.count))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
