"""Starts and signals inside transactions of the caller's: with his own rows or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from duroxide import (
    AsyncClient,
    AsyncRuntime,
    CancelRequest,
    Client,
    ClientError,
    MemoryProvider,
    OrchestrationContext,
    Registry,
    Signal,
    SignalRequest,
    SqliteProvider,
    StartRequest,
    orchestration,
)
from duroxide_pg.provider import PostgresProvider
from tests.fixtures.postgres import PostgresServer
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]


@orchestration
async def approval(ctx: OrchestrationContext, order: int) -> str:
    return f"{order}: {await ctx.queue('decisions').get()}"


@pytest.fixture
def dsn(installed_dsn: str) -> str:
    empty(installed_dsn)
    with psycopg.connect(installed_dsn) as connection:
        connection.execute("drop table if exists orders")
        connection.execute("create table orders (id bigint)")
    return installed_dsn


def orders(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select count(*) from orders").fetchone()
    assert row is not None
    return int(row[0])


def url(driver: str, dsn: str) -> sa.URL:
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    return sa.URL.create(
        driver,
        username=str(parts["user"]),
        password=str(parts["password"]),
        database=str(parts["dbname"]),
        query={"host": str(parts["host"]), "port": str(parts.get("port", 5432))},
    )


class Stopped(Exception):
    """The caller's transaction rolls back."""


INSERT = "insert into orders values (1)"


@contextmanager
def psycopg_connection(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn) as connection:
        connection.execute(INSERT)
        yield connection


@contextmanager
def psycopg_block(dsn: str) -> Iterator[Any]:
    """A connection that commits by itself, in an explicit transaction."""
    with psycopg.connect(dsn, autocommit=True) as connection, connection.transaction():
        connection.execute(INSERT)
        yield connection


@contextmanager
def psycopg_raw(dsn: str) -> Iterator[Any]:
    """A connection whose own cursors number their parameters."""
    with psycopg.connect(dsn, cursor_factory=psycopg.RawCursor) as connection:
        connection.execute(INSERT)
        yield connection


@contextmanager
def sqlalchemy_connection(dsn: str) -> Iterator[Any]:
    engine = sa.create_engine(url("postgresql+psycopg", dsn), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(INSERT))
        yield connection


@contextmanager
def sqlalchemy_session(dsn: str) -> Iterator[Any]:
    engine = sa.create_engine(url("postgresql+psycopg", dsn), poolclass=sa.NullPool)
    with Session(engine) as session, session.begin():
        session.execute(sa.text(INSERT))
        yield session


BLOCKING = [
    psycopg_connection,
    psycopg_block,
    psycopg_raw,
    sqlalchemy_connection,
    sqlalchemy_session,
]


@pytest.mark.parametrize("begin", BLOCKING)
def test_a_blocking_caller_starts_with_his_own_rows_or_not_at_all(
    dsn: str, begin: Callable[[str], Any]
) -> None:
    client = Client(PostgresProvider(dsn))
    with suppress(Stopped), begin(dsn) as connection:
        client.within(connection).start_orchestration("o-1", "approval", 1)
        raise Stopped
    assert (orders(dsn), client.get_queue_depths().orchestrator_queue) == (0, 0)
    with begin(dsn) as connection:
        inside = client.within(connection)
        inside.start_with_signal(
            "o-1", "approval", 1, Signal(name="decisions", data="granted", queued=True)
        )
        inside.raise_event("o-1", "e")
        inside.enqueue_event("o-1", "decisions", "refused")
        inside.cancel_instance("o-2")
        inside.start_orchestration_versioned("o-3", "approval", 3, "2.0.0")
        assert client.get_queue_depths().orchestrator_queue == 0
    assert (orders(dsn), client.get_queue_depths().orchestrator_queue) == (1, 6)


@asynccontextmanager
async def async_psycopg(dsn: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute(INSERT)
        yield connection


@asynccontextmanager
async def async_sqlalchemy(dsn: str) -> AsyncIterator[Any]:
    engine = create_async_engine(url("postgresql+psycopg_async", dsn), poolclass=sa.NullPool)
    async with engine.begin() as connection:
        await connection.execute(sa.text(INSERT))
        yield connection


@asynccontextmanager
async def async_session(dsn: str) -> AsyncIterator[Any]:
    engine = create_async_engine(url("postgresql+psycopg_async", dsn), poolclass=sa.NullPool)
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(sa.text(INSERT))
        yield session


@pytest.mark.parametrize("begin", [async_psycopg, async_sqlalchemy, async_session])
async def test_an_async_caller_starts_with_his_own_rows_or_not_at_all(
    dsn: str, begin: Callable[[str], Any]
) -> None:
    store = PostgresProvider(dsn)
    granted = Signal(name="decisions", data="granted", queued=True)
    async with AsyncClient(store) as client, AsyncRuntime(store, Registry().add(approval)):
        with suppress(Stopped):
            async with begin(dsn) as connection:
                await client.within(connection).start(approval, 1, instance_id="o-1")
                raise Stopped
        assert orders(dsn) == 0
        async with begin(dsn) as connection:
            inside = client.within(connection)
            assert await inside.start(approval, 1, instance_id="o-1", signal=granted) == "o-1"
            await inside.start(approval, 2, instance_id="o-2")
            await inside.enqueue("o-2", "decisions", "refused")
            ids = await inside.send_many(
                [
                    StartRequest(orchestration=approval, args=(3,), instance_id="o-3"),
                    SignalRequest(instance_id="o-3", signal=granted),
                    CancelRequest(instance_id="o-4"),
                ]
            )
            assert ids == ["o-3", "o-3", "o-4"]
            await inside.raise_event("o-3", "nobody waits")
            await inside.cancel("o-4")
        assert await client.result("o-1", approval) == "1: granted"
        assert await client.result("o-2", approval) == "2: refused"
        assert await client.result("o-3", approval) == "3: granted"
    await store.close()
    assert orders(dsn) == 1


def test_workers_are_told_when_the_transaction_commits_and_not_before(dsn: str) -> None:
    client = Client(PostgresProvider(dsn))
    with psycopg.connect(dsn, autocommit=True) as listener, psycopg.connect(dsn) as connection:
        listener.execute("listen duroxide")
        client.within(connection).start_orchestration("o-1", "approval", 1)
        client.within(connection).start_orchestration("o-2", "approval", 2)
        assert list(listener.notifies(timeout=0.1)) == []
        connection.commit()
        told = list(listener.notifies(timeout=10, stop_after=1))
    assert [notify.payload for notify in told] == ["turns"]


def test_without_a_transaction_nothing_is_sent(dsn: str) -> None:
    client = Client(PostgresProvider(dsn))
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        pytest.raises(ClientError, match="no transaction is open"),
    ):
        client.within(connection).start_orchestration("o-1", "approval", 1)
    assert client.get_queue_depths().orchestrator_queue == 0


def test_a_connection_of_another_kind_is_refused_by_name(dsn: str) -> None:
    inside = Client(PostgresProvider(dsn)).within(sqlite3.connect(":memory:"))
    with pytest.raises(TypeError, match=r"psycopg Connection, or .* not sqlite3.Connection"):
        inside.raise_event("o-1", "e")


def test_what_no_store_can_keep_spoils_no_transaction(dsn: str) -> None:
    client = Client(PostgresProvider(dsn))
    with psycopg.connect(dsn) as connection:
        connection.execute(INSERT)
        with pytest.raises(ClientError, match="NUL"):
            client.within(connection).raise_event("nul\0", "e")
    assert orders(dsn) == 1


def test_a_role_needs_the_right_to_one_function_only(
    dsn: str, postgres_server: PostgresServer
) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("grant insert on orders to public")
    role = "an_application"
    name = sql.Identifier(role)
    postgres_server.execute(sql.SQL("create role {} login password 'secret'").format(name))
    try:
        as_application = psycopg.conninfo.make_conninfo(dsn, user=role, password="secret")
        client = Client(PostgresProvider(dsn))
        with (
            psycopg.connect(as_application) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            client.within(connection).start_orchestration("o-1", "approval", 1)
        function = sql.SQL("function duroxide.send_many_v1(text[], smallint[], text[])")
        with psycopg.connect(dsn) as connection:
            connection.execute(sql.SQL("grant execute on {} to {}").format(function, name))
        with psycopg.connect(as_application) as connection:
            connection.execute(INSERT)
            client.within(connection).start_orchestration("o-1", "approval", 1)
        assert (orders(dsn), client.get_queue_depths().orchestrator_queue) == (1, 1)
    finally:
        with psycopg.connect(dsn) as connection:
            connection.execute(sql.SQL("revoke all on {} from {}").format(function, name))
        postgres_server.execute(sql.SQL("drop role {}").format(name))


async def test_sqlite_takes_a_connection_to_its_file(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    store = SqliteProvider(path)
    async with AsyncClient(store) as client, AsyncRuntime(store, Registry().add(approval)):
        mine = sqlite3.connect(path)
        mine.execute("create table orders (id integer)")
        with suppress(Stopped), mine:
            mine.execute(INSERT)
            await client.within(mine).start(approval, 1, instance_id="o-1")
            raise Stopped
        assert mine.execute("select count(*) from orders").fetchone() == (0,)
        with mine:
            mine.execute(INSERT)
            inside = client.within(mine)
            await inside.start(approval, 1, instance_id="o-1")
            await inside.enqueue("o-1", "decisions", "granted")
        assert await client.result("o-1", approval) == "1: granted"
        mine.close()
        by_itself = sqlite3.connect(path, isolation_level=None)
        with pytest.raises(ClientError, match="no transaction is open"):
            await client.within(by_itself).cancel("o-1")
        by_itself.close()
        elsewhere = sqlite3.connect(tmp_path / "other.db")
        with pytest.raises(ClientError, match=r"other.db, not to .*shared.db"):
            await client.within(elsewhere).cancel("o-1")
        elsewhere.close()
    await store.close()


@pytest.mark.parametrize("store", [MemoryProvider(), SqliteProvider.in_memory()])
def test_a_store_that_can_not_says_so(store: Any) -> None:
    with pytest.raises(ClientError, match="can't send inside a caller's transaction"):
        Client(store).within(object())
