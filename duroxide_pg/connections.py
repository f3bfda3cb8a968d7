"""The few connections that a process keeps, each for one purpose."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import TupleRow, tuple_row

from duroxide.errors import ProviderError
from duroxide.portal import FORKED
from duroxide_pg import arrays
from duroxide_pg.jitter import uniform
from duroxide_pg.queries import Statement
from duroxide_pg.sqlstate import Verdict, remedy_of, verdict

logger = logging.getLogger("duroxide_pg")

Connect = Callable[[str], Awaitable[AsyncConnection[Any]]]
"""Opens a connection in autocommit mode; the argument says for which purpose."""
Release = Callable[[AsyncConnection[Any]], Awaitable[None]]
"""Ends a connection, whatever state it is in."""

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0
CLOSE_S = 1.0
_SETTINGS = """
select set_config(name, value, false) from unnest(%s::text[], %s::text[]) as setting (name, value)
"""


class SchemaGone(ProviderError):
    """The engine's statements do not fit the schema. Retryable: it may be installed again."""


class HotConnection:
    """One connection, opened when first used, used by one call at a time, opened again if lost.

    Args:
        purpose: shown in pg_stat_activity.
        settings: of the session, set once when it opens.
        release: ends a connection that `connect` opened.
        is_pooled: each transaction may be in another session, so that nothing may be left in one: the
            settings and the isolation level come with each BEGIN, and no statement is prepared.
    """

    def __init__(
        self,
        purpose: str,
        connect: Connect,
        settings: Mapping[str, str],
        *,
        release: Release = AsyncConnection.close,
        is_pooled: bool = False,
    ) -> None:
        self._purpose = purpose
        self._connect = connect
        self._release = release
        self._settings = {} if is_pooled else settings
        self._begin = _begin(settings) if is_pooled else None
        self._connection: AsyncConnection[Any] | None = None
        self._opened_in: int | None = None  # process
        self._is_closed = False
        self._lock = asyncio.Lock()

    async def fetch(self, statement: Statement, parameters: Mapping[str, Any]) -> list[TupleRow]:
        """Run a statement in a transaction of its own and return its rows.

        Raises:
            psycopg.Error: as it came; a connection that broke is opened anew by the next call.
            ProviderError: it is closed, can't be opened, or belongs to the process that forked this one.
        """
        if self._opened_in not in (None, os.getpid()):
            raise ProviderError(self._purpose, FORKED, retryable=False)
        async with self._lock:
            connection = await self._open()
            try:
                values = [parameters[name] for name in statement.names]
                if self._begin is not None:
                    return await _run_alone(connection, self._begin, statement.text, values)
                return await _run(connection, statement.text, values, prepare=True)
            except asyncio.CancelledError:
                await self._discard()  # whatever state the session is in
                raise
            except psycopg.Error as error:
                if connection.broken or verdict(error) is Verdict.AGAIN:
                    await self._discard_if_stale(connection, error)
                raise

    async def call(
        self, operation: str, statement: Statement, parameters: Mapping[str, Any], *, tries: int = 3
    ) -> list[TupleRow]:
        """`fetch`, trying again where that helps at once.

        Raises:
            ProviderError: the cause is in its words; retryable unless the data was refused.
        """
        pauses = Pauses()
        for attempt in range(1, tries + 1):
            try:
                return await self.fetch(statement, parameters)
            except psycopg.Error as error:
                failure = explain(operation, error)
                if attempt == tries or not failure.retryable or isinstance(failure, SchemaGone):
                    raise failure from error
                await pauses.next()
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close for good: a call that comes late, from a task that nobody waits for, opens nothing.

        A call that is under way gets a moment and is cancelled then: whoever closes does not wait for
        what it waits for.
        """
        self._is_closed = True
        if not await self._is_idle_within(CLOSE_S) and self._connection is not None:
            with suppress(psycopg.Error):
                await self._connection.cancel_safe(timeout=CLOSE_S)
            await self._is_idle_within(CLOSE_S)
        await self._discard()

    async def rest(self) -> None:
        """Close after the call that is under way, unless it takes long; the next one opens it again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S), self._lock:
                await self._discard()

    async def _is_idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), self._lock:
                return True
        except TimeoutError:
            return False

    async def _open(self) -> AsyncConnection[Any]:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        await self._discard()
        if self._is_closed:
            raise ProviderError(self._purpose, "the provider is closed", False)
        connection = await self._connect(self._purpose)
        try:
            arrays.register(connection.adapters)
            if self._begin is not None:
                connection.prepare_threshold = None
            if self._is_closed:  # while it was being opened
                raise ProviderError(self._purpose, "the provider is closed", False)
            if self._settings:
                names, values = list(self._settings), list(self._settings.values())
                await connection.execute(_SETTINGS, [names, values])
        except BaseException:
            await self._release(connection)
            raise
        self._connection, self._opened_in = connection, os.getpid()
        return connection

    async def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._release(connection)

    async def _discard_if_stale(self, connection: AsyncConnection[Any], error: Exception) -> None:
        is_stale = getattr(error, "sqlstate", None) in ("0A000", "26000")
        if connection.broken or is_stale:
            await self._discard()


def _begin(settings: Mapping[str, str]) -> bytes:
    """One request that begins a transaction with these settings, whatever the session's are."""
    local = [
        f"; set local {name} = '{value}'"
        for name, value in settings.items()
        if not name.startswith("default_transaction")
    ]
    return ("begin isolation level read committed read write" + "".join(local)).encode()


async def _run_alone(
    connection: AsyncConnection[Any], begin: bytes, text: bytes, values: list[Any]
) -> list[TupleRow]:
    await connection.execute(begin)
    try:
        rows = await _run(connection, text, values, prepare=False)
        await connection.execute("commit")
    except psycopg.Error:
        if not connection.broken:
            with suppress(psycopg.Error):
                await connection.execute("rollback")
        raise
    return rows


async def _run(
    connection: AsyncConnection[Any], text: bytes, values: list[Any], *, prepare: bool
) -> list[TupleRow]:
    cursor = AsyncRawCursor(connection, row_factory=tuple_row)
    try:
        await cursor.execute(text, values, prepare=prepare, binary=True)
    except (UnicodeError, struct.error) as error:  # by our arrays, before anything was sent
        raise psycopg.DataError(f"a value can't be sent: {error}") from error
    return await cursor.fetchall()


class Pauses:
    """Decorrelated jitter: each pause is random, up to three times the last one."""

    def __init__(self) -> None:
        self._last_s = FIRST_PAUSE_S

    async def next(self) -> None:
        self._last_s = min(LONGEST_PAUSE_S, uniform(FIRST_PAUSE_S, 3 * self._last_s))
        await asyncio.sleep(self._last_s)


def explain(operation: str, error: psycopg.Error) -> ProviderError:
    """The error of one of our statements, in the contract's terms."""
    words = " ".join(str(error).split()) + remedy_of(error)
    match verdict(error):
        case Verdict.SCHEMA:
            return SchemaGone(operation, f"the schema is gone or changed: {words}", True)
        case Verdict.REFUSE:
            return ProviderError(operation, words, False)
        case _:
            return ProviderError(operation, words, True)
