"""Connections for steps, apart from the engine's: reused per role and database, clean at hand-over."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from typing import TypeAlias

import psycopg
from psycopg import AsyncConnection, pq

logger = logging.getLogger(__name__)

_HAND_OVER = (resources.files("pg_durable") / "steps" / "hand_over.sql").read_bytes()

Connect: TypeAlias = Callable[[str, str | None], Awaitable[AsyncConnection]]
"""Opens a session as a role in a database (None: the home database), in autocommit mode."""

_Key: TypeAlias = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class _Idle:
    connection: AsyncConnection
    expiry: asyncio.TimerHandle

    def take(self) -> AsyncConnection:
        self.expiry.cancel()
        return self.connection


class StepConnections:
    """How many are open at once is decided by who asks; idle ones are closed after `idle_s`."""

    def __init__(self, connect: Connect, *, idle_s: float = 30.0) -> None:
        self._connect = connect
        self._idle_s = idle_s
        self._idle: dict[_Key, list[_Idle]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @asynccontextmanager
    async def borrow(self, role: str, database: str | None) -> AsyncIterator[AsyncConnection]:
        """A session as `role` in its initial state; whatever the caller leaves in it is discarded.

        If the caller is interrupted, the statement that runs is cancelled at the server.
        """
        connection = self._take(role, database) or await self._connect(role, database)
        try:
            yield connection
        except BaseException:
            await _abandon(connection)
            raise
        self._spawn(self._give_back((role, database), connection))

    async def close(self) -> None:
        self._closed = True
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for idle in self._idle.values():
            while idle:
                await idle.pop().take().close()

    def _take(self, role: str, database: str | None) -> AsyncConnection | None:
        idle = self._idle[role, database]
        while idle:
            connection = idle.pop().take()
            if not connection.closed and not _is_dead(connection):
                return connection
            self._spawn(connection.close())
        return None

    async def _give_back(self, key: _Key, connection: AsyncConnection) -> None:
        status = connection.info.transaction_status
        if self._closed or status != pq.TransactionStatus.IDLE:
            await connection.close()
            return
        try:
            # Prepared, as psycopg would do after a while, it would discard itself.
            await connection.execute(_HAND_OVER, prepare=False)
        except psycopg.Error as error:
            logger.debug("a step's connection could not be reused: %s", error)
            await connection.close()
            return
        except BaseException:
            await connection.close()
            raise
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(self._idle_s, self._expire, key, connection)
        self._idle[key].append(_Idle(connection, expiry))

    def _expire(self, key: _Key, connection: AsyncConnection) -> None:
        self._idle[key] = [idle for idle in self._idle[key] if idle.connection is not connection]
        self._spawn(connection.close())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_dead(connection: AsyncConnection) -> bool:
    """Whether the server has closed an idle connection, as far as is known without asking it."""
    try:
        for _ in range(2):  # the server's last words, and then that there are no more
            connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return connection.pgconn.status != pq.ConnStatus.OK


async def _abandon(connection: AsyncConnection) -> None:
    """Cancel what runs and close. The transaction can't commit: its COMMIT is never sent again."""
    try:
        if connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
            with suppress(psycopg.Error):
                await connection.cancel_safe(timeout=5.0)
    finally:  # also when the caller is interrupted a second time
        await connection.close()
