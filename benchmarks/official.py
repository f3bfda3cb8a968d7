"""The official wheel, `duroxide` on PyPI, and this repository: one program, one machine, one run.

    python -m benchmarks.official --python .venv-official/bin/python [--dsn postgresql://...] [--json]

Both packages have one import name, so the wheel needs an environment of its own; `make benchmark-official`
makes it. Each is run with its defaults and tuned, and its better run counts. Ratios above 1 are in favour of this
repository.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

PROGRAM = Path(__file__).with_name("sdk_program.py")
CONFIGURATIONS: Mapping[str, Mapping[str, int]] = {
    "default": {},
    "tuned": {
        "orchestration_concurrency": 16,
        "worker_concurrency": 64,
        "dispatcher_poll_interval_ms": 5,
    },
}
# What is measured, and which way is better.
BETTER: Mapping[str, Callable[[Iterable[float]], float]] = {
    "fan_out_per_second": max,
    "fan_out_success_percent": max,
    "single_p50_ms": min,
    "single_p95_ms": min,
    "chain_of_100_s": min,
    "timer_late_p95_ms": min,
}
TIMEOUT_S = 900
SCHEMA = "duroxide_bench"


class Unusable(Exception):
    """The wheel can't be run."""


def check(python: str) -> str:
    """The wheel's version.

    Raises:
        Unusable: this Python has no official wheel; the message says how to get it.
    """
    look = "from importlib.metadata import version; print(version('duroxide'))"
    try:
        done = subprocess.run([python, "-c", look], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unusable(
            f"{python} can't be run ({error.strerror}): make benchmark-official"
        ) from error
    if done.returncode != 0:
        raise Unusable(
            f"{python} has no official wheel: run `make benchmark-official`, or "
            f"`{python} -m pip install duroxide` in an environment of its own"
        )
    return done.stdout.strip()


def run(python: str, task: Mapping[str, object]) -> dict[str, float]:
    """Run the program once.

    Raises:
        Unusable: it failed; the message has the end of what it wrote.
    """
    done = subprocess.run(
        [python, str(PROGRAM), json.dumps(task)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    if done.returncode != 0:
        raise Unusable(f"{python}: {done.stderr.strip()[-500:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def best(
    python: str, who: str, store: Callable[[str], str], count: int, samples: int
) -> dict[str, float]:
    """The better of each measure over the configurations, each on a store of its own."""
    results = []
    for name, options in CONFIGURATIONS.items():
        task = {
            "store": store(name),
            "schema": f"{SCHEMA}_{who}_{name}_{os.getpid()}",
            "options": options,
            "count": count,
            "samples": samples,
        }
        results.append(run(python, task))
    return {measure: better(r[measure] for r in results) for measure, better in BETTER.items()}


def ratio(measure: str, ours: float, theirs: float) -> float:
    """Above 1: ours is better. A timer that is less than a tenth of a millisecond late counts as that."""
    ours, theirs = max(ours, 0.1), max(theirs, 0.1)
    return ours / theirs if BETTER[measure] is max else theirs / ours


def compare(python: str, dsn: str | None, count: int, samples: int) -> list[dict[str, object]]:
    """A row for each store and measure."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:

        def stores(who: str) -> dict[str, Callable[[str], str]]:
            def file(name: str) -> str:
                path = Path(folder) / f"{who}-{name}.db"
                path.touch()  # the wheel opens only what is there
                return str(path)

            if dsn is None:
                return {"sqlite": file}
            # The wheel wants a host before the path, also where `?host=` names the folder of a socket.
            return {"sqlite": file, "postgresql": lambda _: dsn.replace("@/", "@localhost/", 1)}

        theirs_at, ours_at = stores("official"), stores("ours")
        for store in theirs_at:
            theirs = best(python, "official", theirs_at[store], count, samples)
            ours = best(sys.executable, "ours", ours_at[store], count, samples)
            rows += [
                {
                    "store": store,
                    "measure": measure,
                    "ours": ours[measure],
                    "official": theirs[measure],
                    "ratio": ratio(measure, ours[measure], theirs[measure]),
                }
                for measure in BETTER
            ]
    return rows


def drop_schemas(dsn: str) -> None:
    """Remove what this run has made."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        made = connection.execute(
            "select nspname from pg_namespace where nspname like %s", [f"{SCHEMA}%_{os.getpid()}"]
        ).fetchall()
        for (name,) in made:
            connection.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(name)))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.official", description=__doc__)
    parser.add_argument("--python", required=True, help="of an environment with the official wheel")
    parser.add_argument("--dsn", help="also on PostgreSQL, in schemas of their own")
    parser.add_argument("--count", type=int, default=200, help="instances of the fan-out")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    try:
        version = check(options.python)
        rows = compare(options.python, options.dsn, options.count, options.samples)
    except Unusable as problem:
        print(problem, file=sys.stderr)
        return 1
    finally:
        if options.dsn:
            drop_schemas(options.dsn)
    if options.json:
        for row in rows:
            print(json.dumps({**row, "official_version": version}))
        return 0
    print(f"{'store':12}{'measure':25}{'ours':>12}{f'wheel {version}':>16}{'ratio':>9}")
    for row in rows:
        numbers = f"{row['ours']:>12.2f}{row['official']:>16.2f}{row['ratio']:>9.2f}"
        print(f"{row['store']:12}{row['measure']:25}{numbers}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
