"""Workflows in SQL beside the same statements run bare: `python -m benchmarks.steps [--dsn DSN] [PART ...]`.

Without a DSN a private PostgreSQL is used. The worker is a process of its own. Parts: sequence (three SQL
nodes, idle), crowd (200 workflows at once, and their statements run bare), work (the same with statements
that take the server a few milliseconds), join, loop, signal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

import psycopg

from pg_durable import install
from pg_durable.commands.worker_process import WorkerProcess
from pg_durable.embedded import embedded_server

STATEMENT = "insert into effects (what) values ('a row of a step')"
WORKING = "insert into effects (what) select sum(n) from generate_series(1, 40000) as n"


def three(statement: str) -> str:
    return " ~> ".join([f"$${statement}$$"] * 3)


SET_UP = """
create table effects (id bigint generated always as identity primary key, what text not null, at timestamptz not null default clock_timestamp());
create function tell_end() returns trigger language plpgsql as
    'begin perform pg_notify(''benchmark'', new.id); return null; end';
create trigger benchmark after update of status on df.instances
    for each row when (new.status in ('completed', 'failed')) execute function tell_end();
insert into df._settings (name, value) values ('min_loop_interval_ms', '0') on conflict do nothing;
"""
PATIENCE_S = 900  # a loop of 10,000 iterations on a slow machine
CONCURRENCY = 16  # connections of the worker's steps, and of the bare statements


@dataclass
class Bench:
    """A session that starts workflows and hears of their end at once."""

    connection: psycopg.Connection[tuple[object, ...]]
    ends: psycopg.Connection[tuple[object, ...]]  # hears of them
    worker: WorkerProcess
    options: argparse.Namespace
    ended: set[str] = field(default_factory=set)

    def one(self, query: str, *parameters: object) -> object:
        row = self.connection.execute(query.encode(), parameters or None).fetchone()
        assert row is not None
        return row[0]

    def start(self, workflow: str, *, times: int = 1) -> list[str]:
        rows = self.connection.execute(
            f"select df.start({workflow}) from generate_series(1, {times})".encode()
        ).fetchall()
        return [str(row[0]) for row in rows]

    def wait(self, instances: list[str]) -> None:
        missing = set(instances) - self.ended
        while missing:
            told = [item.payload for item in self.ends.notifies(timeout=PATIENCE_S, stop_after=1)]
            if not told:
                raise TimeoutError(f"{len(missing)} workflows have not ended in {PATIENCE_S} s")
            self.ended.update(told)
            missing.difference_update(told)
        failed = "select count(*) from df.instances where id = any(%s) and status <> 'completed'"
        assert self.one(failed, instances) == 0

    def milliseconds(self, work: Callable[[], None]) -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1000

    @contextmanager
    def counted(self, into: dict[str, float], workflows: int) -> Iterator[None]:
        """What a workflow costs in commits of the server and in CPU time of the worker."""
        commits, cpu = self._commits(), self._cpu_ms()
        yield
        into["worker_cpu_ms_each"] = (self._cpu_ms() - cpu) / workflows
        into["commits_each"] = (self._commits() - commits) / workflows

    def _commits(self) -> int:
        time.sleep(1.2)  # sessions report their counts about once a second
        counter = "select xact_commit from pg_stat_database where datname = current_database()"
        return int(str(self.one(counter)))

    def _cpu_ms(self) -> float:
        """Linux only: `ps` elsewhere counts in whole seconds."""
        fields = Path(f"/proc/{self.worker.pid}/stat").read_text().rpartition(")")[2].split()
        return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        """The resident memory of the worker's process."""
        answer = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.worker.pid)], capture_output=True, check=True
        )
        return int(answer.stdout) / 1024


def sequence(bench: Bench) -> dict[str, float]:
    cost: dict[str, float] = {}
    count = bench.options.count
    with bench.counted(cost, count):
        spent = [
            bench.milliseconds(lambda: bench.wait(bench.start(three(STATEMENT))))
            for _ in range(count)
        ]
    return {**quantiles(spent), **cost}


def quantiles(spent: list[float]) -> dict[str, float]:
    return {"p50_ms": statistics.median(spent), "p95_ms": statistics.quantiles(spent, n=20)[18]}


def crowd(bench: Bench) -> dict[str, float]:
    return _crowd(bench, STATEMENT)


def work(bench: Bench) -> dict[str, float]:
    return _crowd(bench, WORKING)


def _crowd(bench: Bench, statement: str) -> dict[str, float]:
    at_once, rounds = bench.options.workflows, bench.options.rounds
    seconds, cost = 0.0, dict[str, float]()
    with bench.counted(cost, at_once * rounds):
        for _ in range(rounds):
            instances = bench.start(three(statement), times=at_once)
            seconds += bench.milliseconds(lambda: bench.wait(instances)) / 1000  # noqa: B023
    steps = 3 * at_once * rounds / seconds
    bare = asyncio.run(_bare_per_second(bench.connection, statement, 3 * at_once * rounds))
    return {"steps_per_second": steps, "bare_per_second": bare, "ratio": steps / bare, **cost}


async def _bare_per_second(
    session: psycopg.Connection[tuple[object, ...]], statement: str, count: int
) -> float:
    """The same statement, one commit each, on as many connections as the worker's steps have."""
    dsn = session.info.dsn + (f" password={session.info.password}" if session.info.password else "")
    connections = [
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) for _ in range(CONCURRENCY)
    ]
    left = iter(range(count))

    async def work(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        for _ in left:
            await connection.execute(statement.encode())

    began = time.perf_counter()
    await asyncio.gather(*map(work, connections))
    seconds = time.perf_counter() - began
    for connection in connections:
        await connection.close()
    return count / seconds


def join(bench: Bench) -> dict[str, float]:
    spent = {}
    for branches in (max(2, bench.options.branches // 5), bench.options.branches):
        workflow = f"df.join(variadic array_fill($${STATEMENT}$$::text, array[{branches}]))"
        runs = [bench.milliseconds(lambda: bench.wait(bench.start(workflow))) for _ in range(5)]  # noqa: B023
        spent[branches] = statistics.median(runs) / branches
    few, many = spent.values()
    return {
        "ms": many * bench.options.branches,
        "ms_per_branch": many,
        "ms_per_branch_of_a_fifth": few,
    }


def loop(bench: Bench) -> dict[str, float]:
    iterations = bench.options.iterations
    tenth = iterations // 10
    bench.connection.execute("truncate effects restart identity")
    workflow = f"df.loop($${STATEMENT}$$, 'select {{sys_iteration}} < {iterations - 1}')"
    (instance,) = bench.start(workflow)
    done = "select count(*) from effects"
    while int(str(bench.one(done))) < tenth:
        time.sleep(0.05)
    memory = bench.memory_mib()
    bench.wait([instance])
    assert bench.one(done) == iterations
    took = (
        "select extract(epoch from max(at) - min(at))::float8 * 1000 / count(*) from effects"
        " where id > %s and id <= %s"
    )
    first = float(str(bench.one(took, 0, tenth)))
    last = float(str(bench.one(took, iterations - tenth, iterations)))
    return {
        "ms_an_iteration_first_tenth": first,
        "ms_an_iteration_last_tenth": last,
        "last_to_first": last / first,
        "worker_mib_after_a_tenth": memory,
        "worker_mib_at_the_end": bench.memory_mib(),
    }


def signal(bench: Bench) -> dict[str, float]:
    """From before the signal is sent to the statement of the step that waits for it, by the server's clock."""
    spent = []
    for _ in range(bench.options.count):
        (instance,) = bench.start(f"df.wait_for_signal('go') ~> $${STATEMENT}$$")
        waits = "select count(*) from df._signal_waiters where instance_id = %s"
        while bench.one(waits, instance) == 0:
            time.sleep(0.002)
        time.sleep(0.01)  # the worker has come to rest
        began = bench.one("select clock_timestamp()")
        bench.one("select df.signal(%s, 'go')", instance)
        bench.wait([instance])
        later = "select extract(epoch from max(at) - %s)::float8 * 1000 from effects"
        spent.append(float(str(bench.one(later, began))))
    return quantiles(spent)


PARTS: dict[str, Callable[[Bench], dict[str, float]]] = {
    part.__name__: part for part in (sequence, crowd, work, join, loop, signal)
}
GOALS = {
    ("sequence", "p50_ms"): "at most 15",
    ("crowd", "ratio"): "at least 0.5",
    ("work", "ratio"): "at least 0.5",
    ("join", "ms_per_branch"): "about that of a fifth of the branches",
    ("loop", "last_to_first"): "about 1",
    ("loop", "worker_mib_at_the_end"): "as after a tenth",
    ("signal", "p50_ms"): "at most 5",
}


@contextmanager
def workbench(dsn: str, options: argparse.Namespace) -> Iterator[Bench]:
    install.install(dsn)
    settings = {"PG_DURABLE_SQL_CONCURRENCY": str(CONCURRENCY)}
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        psycopg.connect(dsn, autocommit=True) as ends,
        TemporaryFile() as log,
        WorkerProcess(dsn, options=settings, log=log) as worker,
    ):
        connection.execute(SET_UP.encode())
        ends.execute("listen benchmark")
        worker.start()
        bench = Bench(connection, ends, worker, options)
        bench.wait(bench.start(three(STATEMENT), times=20))  # warm
        yield bench


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], help="all, if none is named")
    parser.add_argument("--dsn", help="an empty database to work in, as its owner")
    parser.add_argument("--count", type=int, default=200, help="of sequences and of signals")
    parser.add_argument("--workflows", type=int, default=200, help="of the crowd, at once")
    parser.add_argument("--rounds", type=int, default=5, help="of the crowd")
    parser.add_argument("--branches", type=int, default=50, help="of the join")
    parser.add_argument("--iterations", type=int, default=10_000, help="of the loop")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        dsn = options.dsn or stack.enter_context(embedded_server()).dsn
        bench = stack.enter_context(workbench(dsn, options))
        for name in options.part or PARTS:
            report(name, PARTS[name](bench), as_json=options.json)


def report(part: str, numbers: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"part": part, **numbers}), flush=True)
        return
    print(part)
    for name, number in numbers.items():
        goal = GOALS.get((part, name))
        words = name.replace("_", " ")
        print(f"  {words:30} {number:10,.2f}" + (f"   ({goal})" if goal else ""), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
