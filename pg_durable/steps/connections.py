"""Connections for steps, apart from the engine's: reused per role and database, clean at hand-over."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, pq

logger = logging.getLogger(__name__)

_HAND_OVER = (resources.files("pg_durable") / "steps" / "hand_over.sql").read_bytes()

Connect: TypeAlias = Callable[[str, str | None], Awaitable[AsyncConnection]]
"""Opens a session as a role in a database (None: the home database), in autocommit mode."""

_Key: TypeAlias = tuple[str, str | None]

_PATIENCE_S = 0.05  # for a session that is being cleaned, rather than to open another


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
        self._cleaning: dict[_Key, set[asyncio.Task[None]]] = defaultdict(set)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @asynccontextmanager
    async def borrow(self, role: str, database: str | None) -> AsyncIterator[AsyncConnection]:
        """A session as `role` in its initial state; whatever the caller leaves in it is discarded.

        If the caller is interrupted, the statement that runs is cancelled at the server.
        """
        key = role, database
        connection = await self._take_soon(key) or await self._connect(role, database)
        try:
            yield connection
        except BaseException:
            await _abandon(connection)
            raise
        cleaning = self.spawn(self._give_back(key, connection))
        self._cleaning[key].add(cleaning)
        cleaning.add_done_callback(self._cleaning[key].discard)

    async def close(self) -> None:
        self._closed = True
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for idle in self._idle.values():
            while idle:
                await idle.pop().take().close()

    def has_any(self, role: str, database: str | None) -> bool:
        """Whether a session can be had now or soon without opening one, as far as is known."""
        key = role, database
        return bool(self._idle.get(key) or self._cleaning.get(key))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what uses sessions; `close` waits for its end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever wants it has it

    async def _take_soon(self, key: _Key) -> AsyncConnection | None:
        """An idle session, if there is one or one is about to be."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_S
        while (connection := self._take(key)) is None:
            cleaning, left_s = self._cleaning[key], until - loop.time()
            if not cleaning or left_s <= 0:
                return None
            await asyncio.wait(cleaning, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        return connection

    def _take(self, key: _Key) -> AsyncConnection | None:
        idle = self._idle[key]
        while idle:
            connection = idle.pop().take()
            if not connection.closed and not _is_dead(connection):
                return connection
            self.spawn(connection.close())
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
        self.spawn(connection.close())


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
