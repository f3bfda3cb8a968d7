"""Damage to each store's own storage, for the checks that look at what becomes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import LiteralString

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

    def _execute(self, statement: LiteralString, *values: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement, values)
