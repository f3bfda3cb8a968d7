"""Steps in another database than the workflow's: they commit there, and are recorded at home."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows

SETTINGS = Settings.load({"shutdown_grace": 1.0, "turn_lease": 2.0, "activity_lease": 3.0}, {})


@pytest.fixture
def elsewhere(installed: Database) -> Iterator[str]:
    """The name of a second database of the same owner; it has a table and no schema df."""
    name = f"{installed.name}_2"
    with psycopg.connect(installed.dsn) as connection:
        owner = sql.Identifier(connection.info.user)
    identifier = sql.Identifier(name)
    installed.server.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(identifier, owner))
    with psycopg.connect(psycopg.conninfo.make_conninfo(installed.dsn, dbname=name)) as connection:
        connection.execute("create table ledger (step int unique deferrable initially deferred)")
    yield name
    installed.server.drop_database(name)


def ledger(installed: Database, elsewhere: str) -> list[tuple[int]]:
    dsn = psycopg.conninfo.make_conninfo(installed.dsn, dbname=elsewhere)
    with psycopg.connect(dsn) as connection:
        return connection.execute("select step from ledger order by step").fetchall()


async def test_steps_of_a_workflow_run_in_the_database_that_it_names(
    installed: Database, workflows: Workflows, elsewhere: str
) -> None:
    """df-execution 12.24: without companion schema."""
    async with Worker(installed.dsn, SETTINGS):
        instance = workflows.one(
            "select df.start('insert into ledger values (1) returning step' |=> 'n' "
            "~> 'insert into ledger values ($n + 1)', null, %s)",
            elsewhere,
        )
        assert await asyncio.to_thread(workflows.wait, instance) == "completed"
    assert ledger(installed, elsewhere) == [(1,), (2,)]
    assert set(workflows.nodes(instance).values()) == {"completed"}


async def test_a_constraint_that_is_checked_at_commit_fails_a_step_elsewhere(
    installed: Database, workflows: Workflows, elsewhere: str
) -> None:
    async with Worker(installed.dsn, SETTINGS):
        instance = workflows.one(
            "select df.start('insert into ledger values (1), (1)', null, %s)", elsewhere
        )
        assert await asyncio.to_thread(workflows.wait, instance) == "failed"
    assert "duplicate key" in workflows.error(instance)
    assert ledger(installed, elsewhere) == []


async def test_naming_the_home_database_changes_nothing(
    installed: Database, workflows: Workflows
) -> None:
    workflows.run("create table ledger (step int)")
    async with Worker(installed.dsn, SETTINGS):
        instance = workflows.one(
            "select df.start('insert into ledger values (1)', null, %s)", installed.name
        )
        assert await asyncio.to_thread(workflows.wait, instance) == "completed"
    assert workflows.all("select step from ledger") == [(1,)]


async def test_a_step_elsewhere_that_was_begun_before_is_not_repeated_if_it_must_not_be(
    installed: Database, workflows: Workflows, elsewhere: str
) -> None:
    insert = """df.sql('insert into ledger values (1)', '{"on_ambiguous": "fail"}')"""
    begun = workflows.one(f"select df.start({insert}, null, %s)", elsewhere)
    node = workflows.one("select id from df.nodes where instance_id = %s", begun)
    # As a worker leaves it that died between the effect and the record.
    workflows.run(f"insert into df._attempts values ('{begun}', '{node}', '{begun}::1::2', 1)")
    async with Worker(installed.dsn, SETTINGS):
        assert await asyncio.to_thread(workflows.wait, begun) == "failed"
        assert "outcome of attempt 1 is unknown" in workflows.error(begun)
        assert ledger(installed, elsewhere) == []
        other = workflows.one(f"select df.start({insert}, null, %s)", elsewhere)
        assert await asyncio.to_thread(workflows.wait, other) == "completed"
    assert ledger(installed, elsewhere) == [(1,)]
    details = "select status_details ->> 'delivery' from df.nodes where instance_id = %s"
    assert workflows.one(details, other) == "at_most_once"
    assert workflows.all("select instance_id from df._attempts") == [(begun,)]
