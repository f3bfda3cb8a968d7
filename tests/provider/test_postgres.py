"""PostgreSQL keeps the storage contract."""

from __future__ import annotations

import asyncio
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from duroxide import Client
from duroxide.portal import shared_portal
from duroxide.providers.base import Provider
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite import ProviderSuite
from duroxide_pg import migrate, sweeping
from duroxide_pg.provider import PostgresProvider
from tests.fixtures.postgres import Database
from tests.provider.damage import DamagedPostgres
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]


class TestPostgresProvider(DamagedPostgres, ProviderSuite):
    @pytest.fixture(autouse=True)
    def _store_is_empty(self, installed_dsn: str) -> None:
        empty(installed_dsn)
        self.dsn = installed_dsn

    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = PostgresProvider(self.dsn, clock=clock)
        await provider.start()
        return provider


@pytest.mark.long
class TestPostgresProviderBehindAPooler(TestPostgresProvider):
    """Without anything that lives in a session: LISTEN, settings, prepared statements."""

    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = PostgresProvider(self.dsn, clock=clock, is_pooled=True)
        await provider.start()
        return provider


class TestConnecting:
    async def test_connect_makes_the_schema(self, database: Database) -> None:
        provider = PostgresProvider.connect_with_schema(database.dsn, "tenant_a")
        await provider.start()
        assert await provider.read_status(["nobody"]) == {}
        await provider.close()
        assert migrate.check(database.dsn, "tenant_a").state is migrate.State.CURRENT

    async def test_the_password_is_asked_for_at_each_connection(self, database: Database) -> None:
        parameters = conninfo_to_dict(database.dsn)
        password, asked = str(parameters.pop("password")), 0

        async def token() -> str:
            nonlocal asked
            asked += 1
            return password

        dsn = make_conninfo("", **parameters)
        provider = PostgresProvider(dsn, password=token, migrations="apply")
        await provider.start()
        await provider.read_status(["nobody"])
        await provider.poll_turns(worker="w", want=1, lease_ms=1)
        await provider.close()
        assert asked >= 3

    async def test_the_schema_is_looked_at_once_however_often_it_is_started(
        self, database: Database
    ) -> None:
        parameters = conninfo_to_dict(database.dsn)
        password, asked = str(parameters.pop("password")), 0

        async def token() -> str:
            nonlocal asked
            asked += 1
            return password

        migrate.upgrade(database.dsn)
        provider = PostgresProvider(make_conninfo("", **parameters), password=token)
        client = Client(provider)  # starts it before each of its calls
        await asyncio.to_thread(client.get_status, "nobody")
        once = asked
        for _ in range(5):
            await asyncio.to_thread(client.get_status, "nobody")
        assert asked == once
        shared_portal().call(provider.close())

    async def test_a_process_keeps_a_handful_of_connections(self, database: Database) -> None:
        provider = PostgresProvider(database.dsn, migrations="apply")
        await provider.start()
        for _ in range(3):
            await asyncio.gather(
                *(provider.poll_turns(worker="w", want=1, lease_ms=1) for _ in range(10)),
                *(provider.poll_activities(worker="w", want=1, lease_ms=1) for _ in range(10)),
                *(provider.read_status(["nobody"]) for _ in range(10)),
                *(provider.commit([]) for _ in range(10)),
            )
        with psycopg.connect(database.dsn) as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity"
                " where application_name like 'duroxide %' and datname = current_database()"
            ).fetchone()
        assert row is not None
        assert 3 <= row[0] <= 5
        await provider.close()


_DEAD_AND_LIVING = """
insert into duroxide.writers (writer, seq, updated_at) values
    ('dead', 7, now() - interval '31 days'), ('silent', 7, now() - interval '29 days');
insert into duroxide.wake_waiters (topic, waiter, until_ms) values
    ('turns', 'gone', 0), ('turns', 'waits', extract(epoch from now() + interval '1 hour') * 1000)
"""


class TestSweeping:
    async def test_a_process_removes_what_dead_ones_left_and_nothing_that_may_be_needed(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        migrate.upgrade(database.dsn)
        monkeypatch.setattr(sweeping, "FIRST_S", 0.0)
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            connection.execute(_DEAD_AND_LIVING)
            provider = PostgresProvider(database.dsn)
            await provider.start()
            try:
                async with asyncio.timeout(20):
                    while "dead" in _column(connection, "select writer from duroxide.writers"):  # noqa: ASYNC110  # rows tell nobody
                        await asyncio.sleep(0.02)
            finally:
                await provider.close()
            assert _column(connection, "select writer from duroxide.writers") == {"silent"}
            assert _column(connection, "select waiter from duroxide.wake_waiters") == {"waits"}


def _column(connection: psycopg.Connection[tuple[str]], query: LiteralString) -> set[str]:
    return {value for (value,) in connection.execute(query)}
