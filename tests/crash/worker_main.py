"""A worker in a process that is forked from one that has imported everything: it starts at once."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from multiprocessing.process import BaseProcess
from typing import Any

from psycopg import AsyncConnection

import pg_durable.worker
from pg_durable.settings import Settings
from pg_durable.steps.sql import SqlStep, SqlSteps
from pg_durable.worker import Worker

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.crash.worker_main"])


def start_worker(dsn: str, log: str, *, two_commits: bool = False, **settings: Any) -> BaseProcess:
    """Start a worker process; it runs until it is killed or asked to stop.

    Args:
        two_commits: commit the effect first and the record of it a little later, as a worker would that
            knows no better; to see that a test notices.
    """
    process = _context.Process(target=_run, args=(dsn, log, two_commits, settings), daemon=True)
    process.start()
    return process


class TwoCommits(SqlSteps):
    """Steps whose effect and record are not one commit."""

    async def _finish(self, connection: AsyncConnection, step: SqlStep, result: str) -> None:
        await connection.execute("COMMIT")
        await asyncio.sleep(0.05)
        await super()._finish(connection, step, result)


def _run(dsn: str, log: str, two_commits: bool, settings: dict[str, Any]) -> None:
    if two_commits:
        vars(pg_durable.worker)["SqlSteps"] = TwoCommits
    logging.basicConfig(
        filename=log,
        level="INFO",
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    asyncio.run(Worker(dsn, Settings.load(settings)).run_until_signalled())
