"""The worker: runs the workflows of a database, or of several, inside a service or as a process.

async with Worker(dsn):
    ...                                     # workflows run as long as this block

asyncio.run(Worker(dsn).run_until_signalled())
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from duroxide.runtime.tasks import end
from pg_durable.identity import Credentials
from pg_durable.service import Service
from pg_durable.settings import Settings

logger = logging.getLogger(__name__)


class Worker:
    """Runs workflows. Any number of workers may run for one database, and one for any number of them.

    Args:
        dsn: the database, as the owner of the schemas df and duroxide; not a superuser. Of several
            databases, each has the limits of `settings` for itself.
        settings: None takes them from the environment.
        credentials: how to log in as submitters other than the worker's own role; None leaves that to
            the server's pg_hba.conf and libpq's password file.
        wait_for_schema: wait until somebody installs the schemas rather than refuse to start.
    """

    def __init__(
        self,
        dsn: str | Sequence[str],
        settings: Settings | None = None,
        *,
        credentials: Credentials | None = None,
        wait_for_schema: bool = False,
    ) -> None:
        self.settings = settings or Settings.load()
        dsns = [dsn] if isinstance(dsn, str) else list(dict.fromkeys(dsn))
        if not dsns:
            raise ValueError("a worker needs at least one database")
        self._services = [
            Service(one, self.settings, credentials=credentials, wait_for_schema=wait_for_schema)
            for one in dsns
        ]
        self._is_started = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Check the databases and begin to work; returns once it does for all of them.

        Raises:
            SetupError: one of them can't be worked for; with the remedy. Then none is.
            RuntimeError: it is running already.
        """
        if self._is_started:
            raise RuntimeError("this worker is running already")
        self._is_started = True
        try:
            async with asyncio.TaskGroup() as starting:
                for service in self._services:
                    starting.create_task(service.start())
        except BaseException as problem:
            await self.stop()
            if isinstance(problem, BaseExceptionGroup):
                raise problem.exceptions[0] from None
            raise

    async def stop(self) -> None:
        """End in order: take nothing new, let steps end for `shutdown_grace`, give back the rest."""
        await asyncio.gather(*(service.stop() for service in self._services))
        self._is_started = False

    async def run_until_signalled(self) -> None:
        """Work until SIGTERM or SIGINT, then stop in order; a second one ends the process at once."""
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()

        def ask(number: signal.Signals) -> None:
            logger.info("%s: stopping", number.name)
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            asked.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ask, number)
        working = asyncio.ensure_future(self.start())
        asking = asyncio.ensure_future(asked.wait())
        await asyncio.wait((working, asking), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            await asking
        else:
            await end(working)
        await self.stop()
