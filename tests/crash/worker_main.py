"""A worker in a process that is forked from one that has imported everything: it starts at once."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from multiprocessing.process import BaseProcess
from typing import Any

from pg_durable.settings import Settings
from pg_durable.worker import Worker

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.crash.worker_main"])


def start_worker(dsn: str, log: str, **settings: Any) -> BaseProcess:
    """Start a worker process; it runs until it is killed or asked to stop."""
    process = _context.Process(target=_run, args=(dsn, log, settings), daemon=True)
    process.start()
    return process


def _run(dsn: str, log: str, settings: dict[str, Any]) -> None:
    logging.basicConfig(
        filename=log,
        level="INFO",
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    asyncio.run(Worker(dsn, Settings.load(settings)).run_until_signalled())
