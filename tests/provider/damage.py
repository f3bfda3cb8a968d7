"""What each store lends to the suite: damage to its storage, and a transaction of a caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Literal, LiteralString

import psycopg

from duroxide.providers.base import Provider
from duroxide.providers.memory import MemoryProvider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.testing.provider_suite import SuiteBase


class DamagedMemory(SuiteBase):
    async def corrupt_history(self, provider: Provider, instance_id: str, text: str) -> None:
        assert isinstance(provider, MemoryProvider)
        provider._store.instances[instance_id].current.events[0] = text


class DamagedSqlite(SuiteBase):
    async def corrupt_history(self, provider: Provider, instance_id: str, text: str) -> None:
        await _run(
            provider,
            "update history set events = ? where instance_id = ? and first_event_id = 1",
            (text, instance_id),
        )

    @asynccontextmanager
    async def failing_reads(self, provider: Provider) -> AsyncIterator[None]:
        await _run(provider, "alter table history rename to history_away")
        try:
            yield
        finally:
            await _run(provider, "alter table history_away rename to history")

    @asynccontextmanager
    async def caller_transaction(
        self, provider: Provider, *, is_async: bool, begins: bool = True
    ) -> AsyncIterator[sqlite3.Connection]:
        assert isinstance(provider, SqliteProvider)
        mode: Literal["DEFERRED"] | None = "DEFERRED" if begins else None
        connection = sqlite3.connect(str(provider._path), isolation_level=mode)
        with closing(connection), connection:
            yield connection


async def _run(provider: Provider, statement: str, values: tuple[str, ...] = ()) -> None:
    assert isinstance(provider, SqliteProvider)
    connection = provider._store.connection
    await provider._run("damage", lambda: connection.execute(statement, values))


class DamagedPostgres(SuiteBase):
    dsn: str

    async def corrupt_history(self, provider: Provider, instance_id: str, text: str) -> None:
        self._execute(
            "update duroxide.history_log set events = %s"
            " where instance_id = %s and first_event_id = 1",
            text,
            instance_id,
        )

    @asynccontextmanager
    async def failing_reads(self, provider: Provider) -> AsyncIterator[None]:
        self._execute("alter table duroxide.history_log rename to history_away")
        try:
            yield
        finally:
            self._execute("alter table duroxide.history_away rename to history_log")

    @asynccontextmanager
    async def caller_transaction(
        self, provider: Provider, *, is_async: bool, begins: bool = True
    ) -> AsyncIterator[psycopg.Connection | psycopg.AsyncConnection]:
        if is_async:
            async with await psycopg.AsyncConnection.connect(
                self.dsn, autocommit=not begins
            ) as async_connection:
                yield async_connection
        else:
            with psycopg.connect(self.dsn, autocommit=not begins) as connection:
                yield connection

    def _execute(self, statement: LiteralString, *values: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement, values)
