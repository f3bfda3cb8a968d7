"""Workflows whose effects can be counted, a worker that must outlive every fault, and the account of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.crash.auditor import TABLES, audit, leftovers
from tests.crash.worker_main import start_worker
from tests.fixtures.workflows import Workflows, eventually

LEASE_S = 2.0
STEPS = ("one", "two", "three", "four")
OPEN = "select count(*) from df.instances where status not in ('completed', 'failed', 'cancelled')"


def effect(step: str, seconds: float = 0, *, retries: int = 2) -> str:
    return (
        "df.sql($$insert into effects (workflow, step)"
        f" select '{{sys_instance_id}}', '{step}' from pg_sleep({seconds})$$,"
        f""" '{{"retries": {retries}}}')"""
    )


def workflow(sleep_s: int = 1, *, retries: int = 2) -> str:
    """Every effect once: in sequence, after a timer, in branches."""
    one, two = effect("one", 0.02, retries=retries), effect("two", retries=retries)
    three, four = effect("three", 0.05, retries=retries), effect("four", retries=retries)
    return f"{one} ~> df.sleep({sleep_s}) ~> ({two} & {three}) ~> {four}"


def start(dsn: str, count: int, *, first: bool = False, retries: int = 2) -> list[str]:
    """Start workflows that end one after the other, before any fault, which clients would notice.

    Args:
        first: make the tables for the account.
        retries: of each step. Where chance may hit the same one again and again, more than the usual.
    """
    session = Workflows.connect(dsn)
    with session.connection:
        if first:
            session.run(TABLES)
        return [
            session.start(workflow(1 + number // 10 % 3, retries=retries))
            for number in range(count)
        ]


@contextmanager
def worker(dsn: str, log: Path, **settings: Any) -> Iterator[BaseProcess]:
    """A worker process that must still be the same at the end of the block."""
    process = start_worker(
        dsn, str(log), **{"activity_lease": LEASE_S, "turn_lease": LEASE_S, **settings}
    )
    try:
        yield process
        assert process.is_alive(), "the worker has ended"
    except BaseException:
        print("\n".join(log.read_text().splitlines()[-60:] if log.exists() else []))
        raise
    finally:
        process.terminate()
        process.join(15)
        if process.is_alive():
            process.kill()
            process.join()


def all_ended(dsn: str, started: Sequence[str], *, timeout_s: float = 60.0) -> None:
    """Wait for the end of all workflows; nothing is lost, nothing twice, nothing left over."""
    session = Workflows.connect(dsn)
    with session.connection:
        eventually(
            lambda: session.one(OPEN) == 0, timeout_s=timeout_s, what="all workflows have ended"
        )
        found = audit(session.connection, [(i, step) for i in started for step in STEPS])
        assert found.is_clean, (found, session.all("select distinct error from df.instances"))
        eventually(
            lambda: not leftovers(session.connection, lease_s=LEASE_S),
            timeout_s=15,
            what="nothing is left behind",
        )


def some_effects(dsn: str, least: int) -> None:
    """Wait until the load runs."""
    session = Workflows.connect(dsn)
    with session.connection:
        eventually(
            lambda: session.one("select count(*) from effects") >= least,
            what=f"there are {least} effects",
        )
