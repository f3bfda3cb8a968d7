"""Steps run as whoever started the workflow, in a session of that role, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from psycopg import sql

from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually


def granted(installed: Database, workflows: Workflows, name: str) -> Workflows:
    """A role that may use df, and a session of it."""
    dsn = installed.create_role(name)
    workflows.one("select df.grant_usage(%s)", installed.role(name))
    return Workflows.connect(dsn)


def passwords(installed: Database) -> Mapping[str, str]:
    return {
        installed.role(name): unquote(urlsplit(dsn).password or "")
        for name, dsn in installed.roles.items()
    }


@contextmanager
def nobody_may_connect(database: Database) -> Iterator[None]:
    """As if the server were away."""
    allow = sql.SQL("alter database {} with allow_connections {}")
    name = sql.Identifier(database.name)
    database.server.execute(allow.format(name, sql.SQL("false")))
    try:
        database.server.execute(
            sql.SQL(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = {}"
            ).format(sql.Literal(database.name))
        )
        yield
    finally:
        database.server.execute(allow.format(name, sql.SQL("true")))


async def run_with_worker(installed: Database, session: Workflows, instance: str) -> str:
    known = passwords(installed)

    def credentials(role: str, database: str) -> Mapping[str, str]:
        return {"password": known[role]}

    settings = Settings.load({"shutdown_grace": 1.0}, {})
    async with Worker(installed.dsn, settings, credentials=credentials):
        return await asyncio.to_thread(session.wait, instance)


async def test_a_step_runs_in_a_session_of_its_submitter(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.22: current_user and session_user. df-execution 12.23: odd names."""
    ann = granted(installed, workflows, "Ann's")
    instance = ann.start(
        "'set role none; select session_user as s, current_user as c,"
        " has_table_privilege(''df._snapshots'', ''select'') as nosy'"
    )
    assert await run_with_worker(installed, ann, instance) == "completed"
    role = installed.role("Ann's")
    assert ann.one("select df.result(%s)::jsonb", instance)["rows"] == [
        {"s": role, "c": role, "nosy": False}
    ]
    ann.connection.close()


async def test_a_step_has_the_rights_of_its_submitter_only(
    installed: Database, workflows: Workflows
) -> None:
    workflows.run("create table secrets (x int)")
    bob = granted(installed, workflows, "bob")
    instance = bob.start("'select * from secrets'")
    assert await run_with_worker(installed, bob, instance) == "failed"
    assert "permission denied for table secrets" in str(bob.error(instance))
    bob.connection.close()


async def test_without_a_way_to_log_in_the_error_names_role_and_remedy(
    installed: Database, workflows: Workflows
) -> None:
    eve = granted(installed, workflows, "eve")
    instance = eve.start("'select 1'")
    settings = Settings.load({"shutdown_grace": 1.0}, {})
    async with Worker(installed.dsn, settings, credentials=lambda role, database: {}):
        assert await asyncio.to_thread(eve.wait, instance) == "failed"
    role = installed.role("eve")
    assert f"as '{role}'. Error: " in str(eve.error(instance))
    details = eve.one("select error_details from df.instances where id = %s", instance)
    assert "credentials callback" in details["hint"]
    eve.connection.close()


async def test_two_workers_share_the_work_of_one_database(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.33: two workers."""
    workflows.run("create table done (i int)")
    settings = Settings.load({"shutdown_grace": 1.0, "sql_concurrency": 2}, {})
    async with Worker(installed.dsn, settings), Worker(installed.dsn, settings):
        started = [workflows.start(f"'insert into done values ({i})'") for i in range(40)]
        for instance in started:
            assert await asyncio.to_thread(workflows.wait, instance) == "completed"
        assert len(workflows.all("select 1 from df._workers")) == 2
    assert workflows.one("select count(*) from done") == 40
    assert workflows.all("select 1 from df._workers") == []


async def test_a_worker_can_wait_for_the_schema(database: Database) -> None:
    """df-execution 12.33: worker before schema."""
    from pg_durable import install

    settings = Settings.load({"shutdown_grace": 1.0}, {})
    worker = Worker(database.dsn, settings, wait_for_schema=True)
    starting = asyncio.create_task(worker.start())
    await asyncio.sleep(0)
    assert not starting.done()
    await asyncio.to_thread(install.install, database.dsn)
    await asyncio.wait_for(starting, 10)
    with psycopg.connect(database.dsn) as connection:
        assert connection.execute("select count(*) from df._workers").fetchone() == (1,)
    await worker.stop()


async def test_a_worker_survives_its_schema(installed: Database) -> None:
    """df-execution 12.33: schema dropped and recreated. df-execution 12.27: schema dropped."""
    from pg_durable import install

    # Short leases: the worker that began anew may have been cut off in the middle of a turn.
    flags = {"heartbeat_interval": 0.2, "turn_lease": 2.0, "activity_lease": 3.0}
    async with Worker(installed.dsn, Settings.load(flags, {})):
        install.uninstall(installed.dsn)
        install.install(installed.dsn)
        with psycopg.connect(installed.dsn, autocommit=True) as connection:
            session = Workflows(connection)
            instance = session.start("'select 7 as n'")
            assert await asyncio.to_thread(session.wait, instance) == "completed"


async def test_old_instances_are_removed_with_all_that_belongs_to_them(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.33: retention by age, children removed."""
    settings = Settings.load({"shutdown_grace": 1.0, "reconcile_interval": 0.2}, {})
    async with Worker(installed.dsn, settings):
        old = workflows.start("'select 1' ~> df.loop('select 2', 'select false')")
        new = workflows.start("'select 1'")
        for instance in (old, new):
            assert await asyncio.to_thread(workflows.wait, instance) == "completed"
        workflows.run(f"update df.instances set completed_at = '2000-01-01' where id = '{old}'")

        def is_gone() -> bool:
            return workflows.all("select id from df.instances") == [(new,)]

        await asyncio.to_thread(eventually, is_gone, what="the old one was removed")
    for table in ("df.nodes", "df._snapshots"):
        assert workflows.all(f"select distinct instance_id from {table}") == [(new,)]
    engine = "select count(*) from duroxide.instances where instance_id like %s"
    assert workflows.one(engine, old + "%") == 0


async def test_of_a_long_loop_only_the_newest_iterations_are_kept(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.9: history bounded."""
    workflows.run("insert into df._settings values ('keep_executions', '2')")
    settings = Settings.load({"shutdown_grace": 1.0, "reconcile_interval": 0.2}, {})
    workflows.run("create table ticks (i int)")
    async with Worker(installed.dsn, settings):
        body = "'insert into ticks values (1)'"
        loop = workflows.start(f"df.loop({body}, 'select count(*) < 5 from ticks')")
        assert await asyncio.to_thread(workflows.wait, loop) == "completed"
        kept = "select count(*) from duroxide.executions where instance_id = %s"
        await asyncio.to_thread(eventually, lambda: workflows.one(kept, loop) <= 2)


async def test_a_session_that_is_lost_at_the_start_costs_a_moment(
    installed: Database, workflows: Workflows
) -> None:
    waits = (
        "select pid from pg_stat_activity where datname = current_database()"
        " and application_name = 'pg_durable:worker:management' and wait_event_type = 'Lock'"
    )
    instance = workflows.start("'select 7 as n'")
    worker = Worker(installed.dsn, Settings.load({"shutdown_grace": 1.0}, {}))
    with psycopg.connect(installed.dsn) as connection:
        connection.execute("lock table df._workers in access exclusive mode")
        starting = asyncio.create_task(worker.start())
        pid = await asyncio.to_thread(eventually, lambda: workflows.one(waits))
        workflows.one("select pg_terminate_backend(%s)", pid)
    await starting
    assert await asyncio.to_thread(workflows.wait, instance) == "completed"
    assert workflows.one("select count(*) from df._workers") == 1
    await worker.stop()


@pytest.mark.long
async def test_a_worker_that_waits_for_its_schema_survives_the_server(
    installed: Database, caplog: pytest.LogCaptureFixture
) -> None:
    from pg_durable import install

    def says(words: str) -> bool:
        return words in caplog.text

    async with Worker(installed.dsn, Settings.load({"heartbeat_interval": 0.2}, {})):
        install.uninstall(installed.dsn)
        await asyncio.to_thread(eventually, lambda: says("waiting for it"))
        with nobody_may_connect(installed):
            await asyncio.to_thread(eventually, lambda: says("starting again: cannot connect"))
        install.install(installed.dsn)
        with Workflows.connect(installed.dsn).connection as connection:
            session = Workflows(connection)
            instance = session.start("'select 7 as n'")
            assert await asyncio.to_thread(session.wait, instance) == "completed"
