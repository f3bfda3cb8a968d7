"""One worker for several databases: each is served as if it were the only one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from duroxide_pg.errors import SchemaMissing
from pg_durable import install
from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows

SETTINGS = Settings.load({"shutdown_grace": 1.0, "heartbeat_interval": 0.2}, {})


@pytest.fixture
def second(installed: Database) -> Iterator[str]:
    """The DSN of another database of the same owner, without the schemas."""
    name = f"{installed.name}_2"
    with psycopg.connect(installed.dsn) as connection:
        owner = sql.Identifier(connection.info.user)
    installed.server.execute(
        sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), owner)
    )
    yield make_conninfo(installed.dsn, dbname=name)
    installed.server.drop_database(name)


async def test_one_worker_runs_the_workflows_of_several_databases(
    installed: Database, workflows: Workflows, second: str
) -> None:
    install.install(second)
    other = Workflows.connect(second)
    text = "'select current_database() as d'"
    async with Worker([installed.dsn, second, second], SETTINGS):
        for session in (workflows, other):
            instance = session.start(text)
            assert await asyncio.to_thread(session.wait, instance) == "completed"
            where = session.one("select df.result(%s)::jsonb", instance)["rows"]
            assert where == [{"d": session.one("select current_database()")}]
            assert session.one("select count(*) from df._workers") == 1
    for session in (workflows, other):
        assert session.one("select count(*) from df._workers") == 0
    other.connection.close()


@pytest.mark.long
async def test_a_database_whose_schema_goes_does_not_concern_the_others(
    installed: Database, workflows: Workflows, second: str
) -> None:
    install.install(second)
    async with Worker([installed.dsn, second], SETTINGS):
        await asyncio.to_thread(install.uninstall, second)
        instance = workflows.start("'select 1'")
        assert await asyncio.to_thread(workflows.wait, instance) == "completed"
        await asyncio.to_thread(install.install, second)
        other = Workflows.connect(second)
        instance = other.start("'select 2'")
        assert await asyncio.to_thread(other.wait, instance) == "completed"
        other.connection.close()


async def test_a_worker_that_can_not_serve_one_of_its_databases_serves_none(
    installed: Database, workflows: Workflows, second: str
) -> None:
    worker = Worker([installed.dsn, second], SETTINGS)
    with pytest.raises(SchemaMissing):
        await worker.start()
    assert workflows.one("select count(*) from df._workers") == 0
    await asyncio.to_thread(install.install, second)
    async with worker:
        assert workflows.one("select count(*) from df._workers") == 1


async def test_a_worker_is_started_once(installed: Database) -> None:
    async with Worker(installed.dsn, SETTINGS) as worker:
        with pytest.raises(RuntimeError, match="running already"):
            await worker.start()
    with pytest.raises(ValueError, match="at least one database"):
        Worker([])
