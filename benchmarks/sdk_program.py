"""One program for both packages named `duroxide`: the official wheel, and this repository.

Run by `benchmarks.official` in a process for each, with the Python that has it. It uses what the wheel's
page on PyPI documents, and writes one JSON object.
"""

from __future__ import annotations

import json
import sys
import time

from duroxide import Client, PostgresProvider, Runtime, RuntimeOptions, SqliteProvider

WAIT_MS = 120_000


def register(runtime):  # type: ignore[no-untyped-def]  # the wheel has no types
    @runtime.register_activity("TenMs")
    def ten_ms(ctx, number):
        time.sleep(0.01)
        return number

    @runtime.register_activity("Instant")
    def instant(ctx, number):
        return number

    @runtime.register_orchestration("FanOut")
    def fan_out(ctx, width):
        results = yield ctx.all([ctx.schedule_activity("TenMs", n) for n in range(width)])
        return len(results)

    @runtime.register_orchestration("Chain")
    def chain(ctx, length):
        for number in range(length):
            yield ctx.schedule_activity("Instant", number)
        return length

    @runtime.register_orchestration("Nap")
    def nap(ctx, milliseconds):
        yield ctx.schedule_timer(milliseconds)
        return milliseconds


def timed(client, instance, name, argument):  # type: ignore[no-untyped-def]
    """Seconds from the start of an instance to its known end."""
    began = time.perf_counter()
    client.start_orchestration(instance, name, argument)
    status = client.wait_for_orchestration(instance, WAIT_MS)
    if status.status != "Completed":
        print(f"{instance} is {status.status}: {status.error}", file=sys.stderr)
        return float("inf")
    return time.perf_counter() - began


def quantile(values, fraction):  # type: ignore[no-untyped-def]
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * fraction), len(ordered) - 1)]


def measure(client, count, samples):  # type: ignore[no-untyped-def]
    for number in range(3):
        timed(client, f"warm-{number}", "Chain", 1)
    single = [timed(client, f"single-{n}", "Chain", 1) for n in range(samples)]
    hundred = timed(client, "chain", "Chain", 100)
    late = [timed(client, f"nap-{n}", "Nap", 200) - 0.2 for n in range(samples)]
    began = time.perf_counter()
    for number in range(count):
        client.start_orchestration(f"fan-{number}", "FanOut", 5)
    ends = [client.wait_for_orchestration(f"fan-{n}", WAIT_MS).status for n in range(count)]
    completed = ends.count("Completed")
    return {
        "fan_out_per_second": completed / (time.perf_counter() - began),
        "fan_out_success_percent": completed / count * 100,
        "single_p50_ms": quantile(single, 0.5) * 1000,
        "single_p95_ms": quantile(single, 0.95) * 1000,
        "chain_of_100_s": hundred,
        "timer_late_p95_ms": quantile(late, 0.95) * 1000,
    }


def main() -> None:
    task = json.loads(sys.argv[1])
    if task["store"].startswith("postgresql:"):
        provider = PostgresProvider.connect_with_schema(task["store"], task["schema"])
    else:
        provider = SqliteProvider.open(task["store"])
    runtime = Runtime(provider, RuntimeOptions(**task["options"]))
    register(runtime)
    runtime.start()
    try:
        print(json.dumps(measure(Client(provider), task["count"], task["samples"])))
    finally:
        runtime.shutdown()


if __name__ == "__main__":
    main()
