"""A mixed load for an hour, to see that nothing grows: python -m benchmarks.soak [--minutes N]

Workflows of every shape start at a steady rate; some fail, some are cancelled, old ones are removed as
they would be in production, only sooner. At the end every effect must be there once, the memory of the
worker and the sizes of the tables must be what they were, and nothing may need a person. Status 1 if not.

Linux only: it reads the memory of the worker from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from duroxide_pg.provider import PostgresProvider
from pg_durable import install
from pg_durable.commands.worker_process import WorkerProcess
from pg_durable.embedded import embedded_server

SAMPLE_S = 5.0
IN_FLIGHT = 200  # workflows at once, at most
KEPT = 300  # that have ended
EXPECTED = (
    " committed: failed, ",  # some workflows are to fail
    ": failure",
)
WORKER = {
    "PG_DURABLE_RECONCILE_INTERVAL": "5",
    "PG_DURABLE_ACTIVITY_LEASE": "5",
    "PG_DURABLE_TURN_LEASE": "5",
}


def effect(step: str) -> str:
    return f"$$insert into effects values ('{{sys_label}}', '{step}')$$"


FIVE_TIMES = "$$select mod(count(*), 5) <> 0 from rounds where workflow = '{sys_instance_id}'$$"
ROUND = "$$insert into rounds values ('{sys_instance_id}')$$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A kind of workflow: its graph, its effects, how it ends, and what is done to it once it is started."""

    graph: str
    effects: tuple[str, ...] = ()
    end: str = "completed"
    then: str = ""


SHAPES = {
    "sequence": Shape(
        graph=f"{effect('one')} ~> {effect('two')} ~> {effect('three')}",
        effects=("one", "two", "three"),
    ),
    "join": Shape(
        graph=f"df.join3({effect('one')}, {effect('two')}, df.sleep(1)) ~> {effect('three')}",
        effects=("one", "two", "three"),
    ),
    "race": Shape(
        graph=f"({effect('one')} | df.sleep(600)) ~> {effect('two')}", effects=("one", "two")
    ),
    "loop": Shape(graph=f"df.loop({ROUND}, {FIVE_TIMES})"),
    "signal": Shape(
        graph=f"df.wait_for_signal('go') ~> {effect('one')}",
        effects=("one",),
        then="select df.signal(%s, 'go', '1')",
    ),
    "failure": Shape(graph=f"{effect('one')} ~> 'select 1/0'", effects=("one",), end="failed"),
    "cancelled": Shape(
        graph=f"df.sleep(600) ~> {effect('one')}",
        end="cancelled",
        then="select df.cancel(%s, 'enough')",
    ),
}
SETUP = f"""
create table effects (shape text, step text);
create table rounds (workflow text);
create index on rounds (workflow);
insert into df._settings values ('min_loop_interval_ms', '0'), ('retain_instances', '{KEPT}'),
    ('keep_executions', '2');
"""
SIZES = """
select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
  from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
 where n.nspname in ('df', 'duroxide') and c.relkind = 'r'
"""
OPEN = "select count(*) from df.instances where status in ('pending', 'running')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    at_s: float
    worker_bytes: int
    table_bytes: int
    open: int
    started: int


def growth(values: Sequence[float]) -> float:
    """By how much the last third is more than the middle one, as a share; the first is warming up."""
    third = len(values) // 3
    if third == 0:
        raise ValueError(f"{len(values)} samples are too few to tell")
    before, after = values[third : 2 * third], values[2 * third :]
    return statistics.median(after) / statistics.median(before) - 1


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no memory: it has ended")


class Load:
    """Starts workflows, watches, and settles the account."""

    def __init__(self, connection: psycopg.Connection[Any], per_second: float) -> None:
        self._connection = connection
        self._per_second = per_second
        self._started: Counter[str] = Counter()
        self.samples: list[Sample] = []

    def run(self, seconds: float, worker_pid: int) -> None:
        began = time.monotonic()
        shapes, next_sample = list(SHAPES), 0.0
        while (elapsed := time.monotonic() - began) < seconds:
            if elapsed >= next_sample:
                next_sample += SAMPLE_S
                self._sample(elapsed, worker_pid)
            count = self._started.total()
            if count < elapsed * self._per_second and self.samples[-1].open < IN_FLIGHT:
                self._start(shapes[count % len(shapes)])
            else:
                time.sleep(0.01)

    def _start(self, name: str) -> None:
        shape = SHAPES[name]
        started = self._one(f"select df.start({shape.graph}, %s)", name)
        self._started[name] += 1
        if shape.then:
            self._one(shape.then, started)

    def _sample(self, at_s: float, worker_pid: int) -> None:
        sample = Sample(
            at_s=at_s,
            worker_bytes=resident_bytes(worker_pid),
            table_bytes=self._one(SIZES),
            open=self._one(OPEN),
            started=self._started.total(),
        )
        self.samples.append(sample)
        print(
            f"{at_s:7.0f} s  {sample.started:8,} started  {sample.open:5} open"
            f"  worker {sample.worker_bytes / 2**20:6.1f} MB"
            f"  tables {sample.table_bytes / 2**20:7.1f} MB",
            flush=True,
        )

    def settle(self) -> list[str]:
        """Wait until everything has ended; what is wrong with the account."""
        deadline = time.monotonic() + 60
        while self._one(OPEN):
            if time.monotonic() > deadline:
                return [f"{self._one(OPEN)} workflows have not ended a minute after the last start"]
            time.sleep(0.1)
        wanted = Counter(
            {
                (name, step): count
                for name, count in self._started.items()
                for step in SHAPES[name].effects
            }
        )
        rows = self._connection.execute("select shape, step, count(*) from effects group by 1, 2")
        found = Counter({(shape, step): count for shape, step, count in rows})
        wrong = [
            f"effect {step} of shape {shape}: {found[shape, step]:,} instead of {wanted[shape, step]:,}"
            for shape, step in sorted({*wanted, *found})
            if found[shape, step] != wanted[shape, step]
        ]
        rounds = self._one("select count(*) from rounds")
        if rounds != 5 * self._started["loop"]:
            wrong.append(f"{rounds:,} rounds of {self._started['loop']:,} loops")
        ends = self._connection.execute(
            "select label, status, count(*) from df.instances group by 1, 2"
        ).fetchall()
        wrong += [
            f"{count:,} workflows of shape {label} are {status}"
            for label, status, count in ends
            if SHAPES[label].end != status
        ]
        return wrong

    def _one(self, query: str, *values: Any) -> Any:
        row = self._connection.execute(query.encode(), values).fetchone()
        return None if row is None else row[0]


def judge(samples: Sequence[Sample], *, tolerance: float) -> list[str]:
    """What has grown, in sentences."""
    wrong = []
    for what, values in (
        ("the memory of the worker", [float(sample.worker_bytes) for sample in samples]),
        ("the size of the tables", [float(sample.table_bytes) for sample in samples]),
    ):
        share = growth(values)
        print(f"{what} changed by {share:+.1%} from the second third to the last")
        if share > tolerance:
            wrong.append(f"{what} grew by {share:.1%}, more than {tolerance:.0%}")
    return wrong


async def unhealthy(dsn: str) -> list[str]:
    """What a person would have to look at; settings of the server are not the load's doing."""
    provider = PostgresProvider(dsn, migrations="none")
    try:
        report = await provider.health()
    finally:
        await provider.close()
    return [str(finding) for finding in report.findings if finding.about != "setting"]


def complaints(log: Path) -> list[str]:
    """Warnings and errors of the worker, but for those of workflows that are to fail.

    Nor those that come of removing workflows so soon.
    """
    lines = log.read_text(errors="replace").splitlines()
    loud = [line for line in lines if " WARNING " in line or " ERROR " in line]
    return [line for line in loud if not any(words in line for words in EXPECTED)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--dsn", help="an empty database; by default one of a server of its own")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--per-second", type=float, default=20, help="workflows to start")
    parser.add_argument("--tolerance", type=float, default=0.1, help="what may grow, as a share")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        dsn = options.dsn or stack.enter_context(embedded_server()).dsn
        install.install(dsn)
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        connection.execute(SETUP.encode())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = folder / "worker.log"
        worker = stack.enter_context(
            WorkerProcess(dsn, options=WORKER, log=stack.enter_context(log.open("ab")))
        )
        worker.start()
        load = Load(connection, options.per_second)
        load.run(60 * options.minutes, worker.pid)
        wrong = load.settle()
        wrong += judge(load.samples, tolerance=options.tolerance)
        wrong += asyncio.run(unhealthy(dsn))
        wrong += complaints(log)[:20]
    print("\n".join(wrong) or "nothing grew, nothing was lost, nothing happened twice")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
