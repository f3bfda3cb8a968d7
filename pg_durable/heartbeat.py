"""A row in df._workers that says that this worker lives."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from importlib.metadata import version
from types import TracebackType
from typing import Self

import psycopg

from duroxide.runtime.tasks import end
from pg_durable.home import Home

logger = logging.getLogger(__name__)


class Heartbeat:
    """Beats while its block runs; the row goes at the end. A beat that fails is only logged.

    Each beat also looks whether the schema is still the one that the worker started with; if it was
    dropped, or dropped and made anew, `schema_gone` is set.
    """

    def __init__(self, home: Home, worker_id: str, *, interval_s: float, install_id: str) -> None:
        self.schema_gone = asyncio.Event()
        self._home = home
        self._worker_id = worker_id
        self._interval_s = interval_s
        self._install_id = install_id
        self._draining = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._beat()
        except BaseException:  # the row may be there all the same
            await self._sign_off()
            raise
        self._task = asyncio.create_task(self._run(), name="pg_durable: heartbeat")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        await end(self._task)
        await self._sign_off()

    async def _sign_off(self) -> None:
        try:
            await self._home.sign_off(self._worker_id)
        except psycopg.errors.UndefinedTable:
            pass  # gone with the schema
        except psycopg.Error as problem:
            logger.warning("worker %s could not sign off: %s", self._worker_id, problem)

    async def drain(self) -> None:
        """Say that this worker takes nothing new."""
        self._draining = True
        await self._try_to_beat()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._try_to_beat()

    async def _try_to_beat(self) -> None:
        try:
            await self._beat()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            self.schema_gone.set()
        except psycopg.Error as error:
            logger.warning("worker %s: no heartbeat: %s", self._worker_id, error)

    async def _beat(self) -> None:
        found = await self._home.heartbeat(
            worker_id=self._worker_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            version=version("pg-durable"),
            draining=self._draining,
        )
        if found != self._install_id:
            self.schema_gone.set()
