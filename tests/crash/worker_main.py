"""A worker in a process that is forked from one that has imported everything: it starts at once."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from pg_durable.settings import Settings
from pg_durable.steps import wire
from pg_durable.worker import Worker

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.crash.worker_main"])


def start_worker(
    dsn: str, log: str, *, two_commits: bool = False, clock_is_off_by_s: int = 0, **settings: Any
) -> BaseProcess:
    """Start a worker process; it runs until it is killed or asked to stop.

    Args:
        two_commits: commit the effect first and the record of it a little later, as a worker would that
            knows no better; to see that a test notices.
        clock_is_off_by_s: how far the clock of its machine is from the server's.
    """
    arguments = (dsn, log, two_commits, clock_is_off_by_s, settings)
    process = _context.Process(target=_run, args=arguments, daemon=True)
    process.start()
    return process


def _commit_twice() -> None:
    """Let a step commit its effect, and the record of it a little later."""
    at_once = wire.pipeline

    async def in_two(
        connection: PGconn, commands: Sequence[tuple[bytes, Sequence[bytes]]]
    ) -> list[PGresult]:
        if any(b"_finish_step_v1" in text for text, _ in commands):
            await at_once(connection, [(b"COMMIT", [])])
            await asyncio.sleep(0.3)
            commands = [(b"BEGIN", []), *commands[1:]]
        return await at_once(connection, commands)

    vars(wire)["pipeline"] = in_two


def _run(
    dsn: str, log: str, two_commits: bool, clock_is_off_by_s: int, settings: dict[str, Any]
) -> None:
    if clock_is_off_by_s:
        _set_clock(clock_is_off_by_s)
    if two_commits:
        _commit_twice()
    logging.basicConfig(
        filename=log,
        level="INFO",
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    asyncio.run(Worker(dsn, Settings.load(settings)).run_until_signalled())


def _set_clock(seconds: int) -> None:
    """Shift this process's idea of the wall clock; monotonic clocks stay as they are."""
    right_ns = time.time_ns
    vars(time)["time_ns"] = lambda: right_ns() + seconds * 1_000_000_000
    vars(time)["time"] = lambda: time.time_ns() / 1e9
