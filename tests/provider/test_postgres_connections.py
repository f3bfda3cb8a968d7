"""Where a provider's connections come from, and what becomes of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Literal

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy.ext.asyncio import create_async_engine

from duroxide import Client, ProviderError, Runtime, sync_users
from duroxide.providers.base import Enqueue, Message, MessageKind
from duroxide.testing.clocks import ManualClock
from duroxide_pg import RefreshedToken, migrate
from duroxide_pg.entra import RETRY_S
from duroxide_pg.errors import CannotConnect, NotPermitted, SchemaMissing
from duroxide_pg.provider import PostgresProvider
from duroxide_pg.sources import Pool
from tests.fixtures.postgres import Database

OURS = "select count(*) from pg_stat_activity where application_name like 'duroxide %%' and datname = %s"
SIZE = 6  # what a worker needs at most


async def use(provider: PostgresProvider) -> None:
    """Every connection but the one for turns that wait for a user."""
    await provider.start()
    start = Message(instance_id=secrets.token_hex(4), kind=MessageKind.START, body="x")
    results = await provider.commit([Enqueue(message=start)])
    assert [result.ok for result in results] == [True]
    poll = await provider.poll_turns(worker="w", want=9, lease_ms=60_000, wait_ms=5_000)
    assert start.instance_id in [turn.instance_id for turn in poll.turns]
    await provider.poll_activities(worker="w", want=1, lease_ms=1)
    assert await provider.read_status(["nobody"]) == {}


@asynccontextmanager
async def an_async_pool(dsn: str) -> AsyncIterator[Pool]:
    async with AsyncConnectionPool(dsn, min_size=0, max_size=SIZE, open=False) as pool:
        yield pool


@asynccontextmanager
async def a_blocking_pool(dsn: str) -> AsyncIterator[Pool]:
    with ConnectionPool(dsn, min_size=0, max_size=SIZE, open=True) as pool:
        yield pool


@asynccontextmanager
async def an_async_engine(dsn: str) -> AsyncIterator[Pool]:
    engine = create_async_engine(_sqlalchemy_url(dsn), pool_size=SIZE, max_overflow=0)
    yield engine
    await engine.dispose()


@asynccontextmanager
async def a_blocking_engine(dsn: str) -> AsyncIterator[Pool]:
    engine = sa.create_engine(_sqlalchemy_url(dsn), pool_size=SIZE, max_overflow=0)
    yield engine
    engine.dispose()


def _sqlalchemy_url(dsn: str) -> str:
    return dsn.replace("postgresql://", "postgresql+psycopg://", 1)


async def settings_of(pool: Pool) -> list[TupleRow]:
    """What every connection of the pool has set, asked for through the pool itself."""
    query = (
        "select current_setting('enable_seqscan'), current_setting('application_name'),"
        " current_setting('synchronous_commit'), (select count(*) from pg_listening_channels()),"
        " (select count(*) from pg_prepared_statements)"
    )
    if isinstance(pool, AsyncConnectionPool):
        taken = [await pool.getconn() for _ in range(SIZE)]
        found = [await (await one.execute(query)).fetchone() for one in taken]
        for one in taken:
            await pool.putconn(one)
    elif isinstance(pool, ConnectionPool):
        held = [pool.getconn() for _ in range(SIZE)]
        found = [one.execute(query).fetchone() for one in held]
        for one in held:
            pool.putconn(one)
    elif isinstance(pool, sa.Engine):
        connections = [pool.connect() for _ in range(SIZE)]
        found = [tuple(one.execute(sa.text(query)).one()) for one in connections]
        for connection in connections:
            connection.close()
    else:
        lent = [await pool.connect() for _ in range(SIZE)]
        found = [tuple((await one.execute(sa.text(query))).one()) for one in lent]
        for other in lent:
            await other.close()
    return [row for row in found if row is not None]


Kind = Callable[[str], AbstractAsyncContextManager[Pool]]
KINDS = pytest.mark.parametrize(
    "kind", [an_async_pool, a_blocking_pool, an_async_engine, a_blocking_engine]
)


class TestPoolsOfTheCaller:
    @KINDS
    async def test_a_provider_works_on_them_and_leaves_nothing_in_them(
        self, database: Database, kind: Kind
    ) -> None:
        async with kind(database.dsn) as pool:
            provider = PostgresProvider(pool=pool, migrations="apply")
            await use(provider)
            with psycopg.connect(database.dsn, autocommit=True) as watcher:
                row = watcher.execute(OURS, [database.name]).fetchone()
                assert row is not None
                assert 4 <= row[0] <= SIZE
                await provider.close()
                await until_none(watcher, database)
            assert await settings_of(pool) == [("on", "", "on", 0, 0)] * SIZE

    @KINDS
    async def test_what_a_dead_connection_held_is_given_back(
        self, database: Database, kind: Kind
    ) -> None:
        async with kind(database.dsn) as pool:
            provider = PostgresProvider(pool=pool, migrations="apply")
            for _ in range(3):  # more often than the pool is large
                await use(provider)
                await end_sessions(database)
            await use(provider)
            await provider.close()

    async def test_a_pool_that_is_closed_first_does_no_harm(self, database: Database) -> None:
        async with an_async_pool(database.dsn) as pool:
            provider = PostgresProvider(pool=pool, migrations="apply")
            await use(provider)
        await provider.close()

    async def test_a_pool_that_has_no_more_connections_is_named(self, database: Database) -> None:
        async with AsyncConnectionPool(
            database.dsn, min_size=0, max_size=1, timeout=0.2, open=False
        ) as pool:
            provider = PostgresProvider(pool=pool, migrations="apply")
            held = await pool.getconn()
            with pytest.raises(ProviderError, match="the pool gave no connection") as caught:
                await provider.start()
            assert caught.value.retryable
            await pool.putconn(held)
            await provider.close()

    def test_what_is_no_pool_is_refused_by_name(self) -> None:
        with pytest.raises(TypeError, match="pool is a str"):
            PostgresProvider(pool="postgresql://db")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"pysqlite.*postgresql\+psycopg"):
            PostgresProvider(pool=sa.create_engine("sqlite://"))

    def test_a_pool_and_a_dsn_are_one_too_many(self) -> None:
        engine = sa.create_engine("postgresql+psycopg://")
        with pytest.raises(ValueError, match="not both"):
            PostgresProvider("postgresql://db", pool=engine)


async def until_none(watcher: psycopg.Connection[TupleRow], database: Database) -> None:
    """Sessions end a moment after their connections."""
    async with asyncio.timeout(10):
        while watcher.execute(OURS, [database.name]).fetchone() != (0,):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


async def end_sessions(database: Database) -> None:
    with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name like 'duroxide %%' and datname = %s",
            [database.name],
        )
        await until_none(connection, database)


class TestKeywordArguments:
    async def test_they_say_how_to_connect(self, database: Database) -> None:
        parameters: dict[str, Any] = dict(conninfo_to_dict(database.dsn))
        provider = PostgresProvider(**parameters, migrations="apply")
        await use(provider)
        await provider.close()

    async def test_they_win_over_the_dsn(self, database: Database) -> None:
        provider = PostgresProvider(f"{database.dsn}&connect_timeout=3", dbname="no_such_place")
        with pytest.raises(Exception, match="no_such_place"):
            await provider.start()

    def test_one_that_nobody_knows_is_named(self) -> None:
        with pytest.raises(ValueError, match="pasword"):
            PostgresProvider("host=db", pasword="x")

    def test_a_dsn_that_cannot_be_read_is_not_repeated(self) -> None:
        with pytest.raises(ValueError, match="not a connection string") as caught:
            PostgresProvider("postgresql://app:kiwi7@[db/app", sslmode="require")
        assert "kiwi7" not in str(caught.value)


class Vault:
    """Knows the password of a role, and can change it."""

    def __init__(self, database: Database, role: str) -> None:
        self._dsn = database.superuser_dsn
        self._role = role
        self._password = ""
        self.calls = 0
        self.is_down = False
        self.rotate()

    def rotate(self) -> None:
        self._password = secrets.token_hex(8)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("alter role {} password {}").format(
                    sql.Identifier(self._role), sql.Literal(self._password)
                )
            )

    async def __call__(self) -> str:
        if self.is_down:
            raise RuntimeError("the vault is sealed")
        self.calls += 1
        return self._password


class TestTokens:
    @pytest.fixture
    def vault(self, database: Database) -> Iterator[Vault]:
        database.create_role("app")
        role = sql.Identifier(database.role("app"))
        with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("grant create on database {} to {}").format(
                    sql.Identifier(database.name), role
                )
            )
            yield Vault(database, database.role("app"))
            connection.execute(sql.SQL("drop owned by {} cascade").format(role))

    def provider(self, database: Database, vault: Vault) -> PostgresProvider:
        parameters: dict[str, Any] = dict(conninfo_to_dict(database.dsn))
        parameters |= {"user": database.role("app"), "password": vault}
        return PostgresProvider(**parameters, migrations="apply")

    async def test_each_connection_uses_the_password_of_its_day(
        self, database: Database, vault: Vault
    ) -> None:
        provider = self.provider(database, vault)
        await use(provider)
        asked = vault.calls
        assert asked >= 4
        vault.rotate()
        await use(provider)  # connections that are open outlive the change
        await end_sessions(database)
        await use(provider)
        assert vault.calls >= asked + 4
        await provider.close()

    @pytest.mark.parametrize("migrations", ["apply", "verify"])
    async def test_a_token_that_is_refused_at_the_start_is_replaced_as_well(
        self, database: Database, vault: Vault, migrations: Literal["apply", "verify"]
    ) -> None:
        clock = ManualClock()
        tokens: list[str] = []

        async def fetch() -> tuple[str, float]:
            tokens.append(await vault())
            return tokens[-1], clock.now_ms() / 1000 + 3_600

        parameters: dict[str, Any] = dict(conninfo_to_dict(database.dsn))
        parameters |= {"user": database.role("app")}
        parameters["password"] = token = RefreshedToken(fetch, clock=clock)
        await token()
        vault.rotate()
        provider = PostgresProvider(**parameters, migrations=migrations)
        with pytest.raises(CannotConnect, match="what the callback returned, which is asked again"):
            await provider.start()
        clock.advance(RETRY_S * 1000)
        with suppress(SchemaMissing):  # which only those are told who were let in
            await provider.start()
        assert len(tokens) == 2
        await provider.close()

    async def test_a_token_that_is_refused_is_replaced_and_told_to_nobody(
        self, database: Database, vault: Vault, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        clock = ManualClock()
        tokens: list[str] = []

        async def fetch() -> tuple[str, float]:
            tokens.append(await vault())
            return tokens[-1], clock.now_ms() / 1000 + 3_600

        parameters: dict[str, Any] = dict(conninfo_to_dict(database.dsn))
        parameters |= {"user": database.role("app")}
        parameters["password"] = RefreshedToken(fetch, clock=clock)
        provider = PostgresProvider(**parameters, migrations="apply")
        await use(provider)
        assert len(tokens) == 1
        vault.rotate()
        await end_sessions(database)
        with pytest.raises(ProviderError) as caught:
            await provider.read_status(["nobody"])
        assert caught.value.retryable
        assert "authentication failed" in str(caught.value)
        assert "what the callback returned, which is asked again" in str(caught.value)
        clock.advance(RETRY_S * 1000)
        await use(provider)
        assert len(tokens) == 2
        await provider.close()
        told = (
            f"{caplog.text} {caught.value!r} {caught.value.__cause__!r} {parameters['password']!r}"
        )
        assert not any(token in told for token in tokens)

    async def test_without_a_callback_nothing_is_said_of_one(self, database: Database) -> None:
        provider = PostgresProvider(database.dsn, password="not this one")
        with pytest.raises(ProviderError, match="authentication failed") as caught:
            await provider.read_status(["nobody"])
        assert "callback" not in str(caught.value)
        await provider.close()

    async def test_a_callback_that_fails_is_asked_again(
        self, database: Database, vault: Vault
    ) -> None:
        provider = self.provider(database, vault)
        vault.is_down = True
        with pytest.raises(ProviderError, match="RuntimeError: the vault is sealed") as caught:
            await provider.start()
        assert caught.value.retryable
        vault.is_down = False
        await use(provider)
        await provider.close()


def sessions(watcher: psycopg.Connection[TupleRow], database: Database) -> set[int]:
    rows = watcher.execute(OURS.replace("count(*)", "pid"), [database.name])
    return {pid for (pid,) in rows}


class TestBlockingPrograms:
    def test_a_runtime_that_has_shut_down_leaves_no_session_and_can_start_again(
        self, database: Database
    ) -> None:
        provider = PostgresProvider.connect(database.dsn)
        client = Client(provider)
        runtimes = [Runtime(provider), Runtime(provider)]
        for runtime in runtimes:
            runtime.register_orchestration("Echo", lambda ctx, given: given)
        with psycopg.connect(database.superuser_dsn, autocommit=True) as watcher:
            for round_number in range(2):
                for runtime in runtimes:
                    runtime.start()
                client.start_orchestration(f"e{round_number}", "Echo", 1)
                assert client.wait_for_orchestration(f"e{round_number}").output == 1
                runtimes[0].shutdown()
                client.start_orchestration(f"f{round_number}", "Echo", 2)  # for the other one
                assert client.wait_for_orchestration(f"f{round_number}").output == 2
                runtimes[1].shutdown()
                asyncio.run(until_none(watcher, database))
        assert client.get_status("e0").output == 1  # opens what it needs
        runtimes[0].shutdown()  # twice is once

    def test_the_last_client_to_close_leaves_no_session_and_can_go_on(
        self, database: Database
    ) -> None:
        provider = PostgresProvider.connect(database.dsn)
        other = Client(provider)
        with psycopg.connect(database.superuser_dsn, autocommit=True) as watcher:
            with Client(provider) as client:
                assert client.get_status("a").status == "NotFound"
                assert other.get_status("a").status == "NotFound"
                before = sessions(watcher, database)
            client.close()  # twice is once
            assert other.get_status("a").status == "NotFound"
            assert sessions(watcher, database) >= before > set(), "the other one's"
            other.close()
            asyncio.run(until_none(watcher, database))
            client.start_orchestration("a", "Echo")  # opens what it needs
            client.close()
            asyncio.run(until_none(watcher, database))

    def test_a_client_that_is_collected_leaves_no_session(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sync_users, "LINGER_S", 0.05)
        provider = PostgresProvider.connect(database.dsn)
        with psycopg.connect(database.superuser_dsn, autocommit=True) as watcher:
            assert Client(provider).get_status("a").status == "NotFound"
            gc.collect()
            asyncio.run(until_none(watcher, database))
            assert Client(provider).get_status("a").status == "NotFound"
            gc.collect()
            asyncio.run(until_none(watcher, database))

    def test_a_client_that_closes_takes_nothing_from_a_runtime(self, database: Database) -> None:
        provider = PostgresProvider.connect(database.dsn)
        runtime = Runtime(provider)
        runtime.register_orchestration("Echo", lambda ctx, given: given)
        with runtime, psycopg.connect(database.superuser_dsn, autocommit=True) as watcher:
            with Client(provider) as client:
                client.start_orchestration("a", "Echo", 1)
                assert client.wait_for_orchestration("a").output == 1
                before = sessions(watcher, database)
            with Client(provider) as client:
                client.start_orchestration("b", "Echo", 2)
                assert client.wait_for_orchestration("b").output == 2
            assert sessions(watcher, database) >= before > set()


class TestSchemas:
    @pytest.mark.parametrize(
        ("schema", "words"),
        [
            ("", "is empty"),
            ("a\0b", "contains a NUL character"),
            ("a\ud800", "contains a lone surrogate"),
            ("x" * 64, "64 bytes"),
            ("ü" * 32, "64 bytes"),
            ("pg_mine", "for itself"),
        ],
    )
    def test_a_name_that_no_schema_can_have_is_refused(self, schema: str, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            PostgresProvider(schema=schema)

    @pytest.mark.parametrize(
        "schema", ["x" * 63, "quo\"te %s $1 {x} \\ '", "Mixed.Case", "%(want)s", "{schema}"]
    )
    async def test_any_other_name_will_do(self, database: Database, schema: str) -> None:
        provider = PostgresProvider.connect_with_schema(database.dsn, schema)
        await use(provider)
        await provider.close()

    @pytest.mark.parametrize("migrations", ["apply", "verify"])
    async def test_a_role_without_rights_is_told_so(
        self, database: Database, migrations: Literal["apply", "verify"]
    ) -> None:
        migrate.upgrade(database.dsn)
        stranger = PostgresProvider(database.create_role("stranger"), migrations=migrations)
        with pytest.raises(NotPermitted, match="may not use the schema 'duroxide'"):
            await stranger.start()
        await stranger.close()
