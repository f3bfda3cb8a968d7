"""python -m benchmarks run WORKLOAD --dsn ... [--baseline] [--json], or sqlite, or official"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
from dataclasses import asdict

from benchmarks import bare, embedded, official
from benchmarks.contention import PROCESSES, ContentionReport, contention
from benchmarks.measure import IdleReport, idle, run
from benchmarks.workloads import WORKLOADS
from pg_durable.commands.worker import COLLECT_AFTER


def show(report: IdleReport | ContentionReport, as_json: bool) -> None:
    print(json.dumps(asdict(report)) if as_json else "\n".join([*report.lines(), ""]), flush=True)


def main(arguments: list[str]) -> int:
    gc.freeze()  # as `pg-durable worker` does
    gc.set_threshold(*COLLECT_AFTER)
    if arguments[:1] in (["sqlite"], ["official"]):  # which read their own arguments
        return {"sqlite": embedded.main, "official": official.main}[arguments[0]](arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)
    commands.add_parser(
        "sqlite", help="the embedded stores: memory, SQLite in memory and in a file"
    )
    commands.add_parser("official", help="beside the official wheel, on SQLite and PostgreSQL")
    command = commands.add_parser("run", help="run workloads on a PostgreSQL server")
    command.add_argument("workload", nargs="+", choices=[*WORKLOADS, "idle", "contention", "all"])
    command.add_argument("--dsn", required=True, help="a database to work in")
    command.add_argument("--schema", default="duroxide_benchmark")
    command.add_argument(
        "--baseline", action="store_true", help="also bare inserts, one commit each, beside it"
    )
    command.add_argument(
        "--processes",
        type=int,
        action="append",
        help="of contention; can be repeated (default: 1, 2, 4, 8 and 16)",
    )
    command.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    names = options.workload
    if "all" in names:
        names = [*WORKLOADS, "idle", "contention"]
    for name in names:
        if name == "idle":
            show(asyncio.run(idle(options.dsn, options.schema)), options.json)
            continue
        if name == "contention":
            for processes in options.processes or PROCESSES:
                measured = asyncio.run(contention(options.dsn, options.schema, processes))
                show(measured, options.json)
            continue
        workload = WORKLOADS[name]
        report = asyncio.run(run(name, workload, options.dsn, options.schema))
        result: dict[str, object] = asdict(report)
        if options.baseline:
            limit = bare.per_second(workload, options.dsn)
            result["bare_per_second"] = limit
            result["ratio_to_bare"] = report.per_second / limit
        if options.json:
            print(json.dumps(result))
            continue
        print("\n".join(report.lines()))
        if options.baseline:
            print(f"{'bare per second':20} {result['bare_per_second']:,.2f}")
            print(f"{'ratio to bare':20} {result['ratio_to_bare']:,.2f}")
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
