"""Roles behind steps: renamed, dropped, taken over by name; sessions of their own or `set_role`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from duroxide_pg.errors import NotPermitted
from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.e2e.test_workers import granted, passwords, run_with_worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows

SET_ROLE = Settings.load({"shutdown_grace": 1.0, "identity": ("set_role",)}, {})
WAIT = "df.wait_for_signal('go')"


def server_run(installed: Database, statement: str, *names: str) -> None:
    identifiers = [sql.Identifier(name) for name in names]
    installed.server.execute(sql.SQL(statement).format(*identifiers))


def member(installed: Database, workflows: Workflows, name: str) -> Workflows:
    """A role that the worker's role may become."""
    session = granted(installed, workflows, name)
    owner = workflows.connection.info.user
    server_run(installed, "grant {} to {}", installed.role(name), owner)
    return session


async def test_a_step_follows_its_role_when_that_is_renamed(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.23: renamed."""
    session = granted(installed, workflows, "old")
    instance = session.start(
        f"{WAIT} ~> 'select session_user as who' ~> 'select session_user as who'"
    )
    session.one("select df.signal(%s, 'go')", instance)
    new = f"{installed.role('old')}_new"
    server_run(installed, "alter role {} rename to {}", installed.role("old"), new)
    password = unquote(urlsplit(installed.roles["old"]).password or "")
    server_run(installed, "alter role {} password " + sql.Literal(password).as_string(), new)
    try:
        settings = Settings.load({"shutdown_grace": 1.0}, {})

        async def credentials(role: str, database: str) -> Mapping[str, str]:
            return {"password": password}

        async with Worker(installed.dsn, settings, credentials=credentials):
            assert await asyncio.to_thread(workflows.wait, instance) == "completed"
        assert workflows.one("select df.result(%s)::jsonb", instance)["rows"] == [{"who": new}]
    finally:
        session.connection.close()
        server_run(installed, "alter role {} rename to {}", new, installed.role("old"))


@pytest.mark.parametrize("tx", ["auto", "none"])
async def test_a_new_role_with_the_name_of_a_dropped_one_gets_none_of_its_steps(
    installed: Database, workflows: Workflows, tx: str
) -> None:
    """df-execution 12.23: dropped. df-execution 12.27: role dropped."""
    session = granted(installed, workflows, "gone")
    role, dsn = installed.role("gone"), installed.roles["gone"]
    workflows.run("create table effects (who text); grant insert on effects to public")
    text = f"""df.sql('insert into effects values (session_user)', '{{"tx": "{tx}"}}')"""
    instance = session.start(text)
    session.connection.close()
    password = sql.Literal(unquote(urlsplit(dsn).password or "")).as_string()
    with psycopg.connect(installed.server.dsn(dbname=installed.name)) as admin:
        admin.execute(sql.SQL("drop owned by {}").format(sql.Identifier(role)))
    server_run(installed, "drop role {}", role)
    server_run(installed, "create role {} login password " + password, role)
    assert await run_with_worker(installed, workflows, instance) == "failed"
    error = str(workflows.error(instance))
    assert error == f"Instance {instance}: submitted_by role no longer exists in pg_roles"
    assert role in workflows.one("select df.error(%s)", instance)["hint"]
    assert workflows.all("select who from effects") == []


async def test_set_role_runs_a_step_with_the_rights_of_its_submitter_and_is_noted(
    installed: Database, workflows: Workflows, caplog: pytest.LogCaptureFixture
) -> None:
    workflows.run("create table secrets (x int); create table notes (who text)")
    workflows.run("grant all on notes to public")
    ann = member(installed, workflows, "Ann's")
    text = "insert into notes select current_user returning who, session_user as s"
    instance = ann.start(f"'{text}'")
    outside = ann.start(f"""df.sql('{text}', '{{"tx": "none"}}')""")
    nosy = ann.start("'select * from secrets'")
    with caplog.at_level(logging.WARNING):
        async with Worker(installed.dsn, SET_ROLE):
            for workflow, status in (
                (instance, "completed"),
                (outside, "completed"),
                (nosy, "failed"),
            ):
                assert await asyncio.to_thread(ann.wait, workflow) == status, ann.error(workflow)
    role, owner = installed.role("Ann's"), workflows.connection.info.user
    for workflow in (instance, outside):
        assert ann.one("select df.result(%s)::jsonb", workflow)["rows"] == [
            {"who": role, "s": owner}
        ]
        noted = ann.one("select status_details from df.nodes where instance_id = %s", workflow)
        assert noted["identity"] == "set_role"
    assert "permission denied for table secrets" in ann.error(nosy)
    assert "RESET ROLE in a step gives it the rights" in caplog.text
    ann.connection.close()


async def test_set_role_names_the_membership_that_is_missing(
    installed: Database, workflows: Workflows
) -> None:
    eve = granted(installed, workflows, "eve")
    instance = eve.start("'select 1'")
    outside = eve.start("""df.sql('select 1', '{"tx": "none"}')""")
    async with Worker(installed.dsn, SET_ROLE):
        for workflow in (instance, outside):
            assert await asyncio.to_thread(eve.wait, workflow) == "failed"
            assert "can't become" in eve.error(workflow)
            hint = eve.one("select df.error(%s)", workflow)["hint"]
            assert hint.startswith(f'GRANT "{installed.role("eve")}" TO ')
    eve.connection.close()


async def test_single_roles_can_have_another_mechanism(
    installed: Database, workflows: Workflows
) -> None:
    known = passwords(installed)
    ann, bob = member(installed, workflows, "ann"), granted(installed, workflows, "bob")
    known = passwords(installed)
    words = ("login", f"{installed.role('ann')}=set_role")
    settings = Settings.load({"shutdown_grace": 1.0, "identity": words}, {})

    def credentials(role: str, database: str) -> Mapping[str, str]:
        return {"password": known[role]}

    started = [(s, s.start("'select session_user as s'")) for s in (ann, bob)]
    async with Worker(installed.dsn, settings, credentials=credentials):
        for session, instance in started:
            assert await asyncio.to_thread(session.wait, instance) == "completed"
    seen = [s.one("select df.result(%s)::jsonb", i)["rows"][0]["s"] for s, i in started]
    assert seen == [workflows.connection.info.user, installed.role("bob")]
    ann.connection.close()
    bob.connection.close()


async def test_set_role_is_refused_to_a_worker_that_is_a_superuser(installed: Database) -> None:
    superuser = installed.server.dsn(dbname=installed.name)
    with pytest.raises(NotPermitted) as refused:
        await Worker(superuser, SET_ROLE).start()
    assert "is a superuser" in str(refused.value)
    assert "allow_unsafe_set_role" in refused.value.remedy
    allowed = Settings.load({"identity": ("set_role",), "allow_unsafe_set_role": True}, {})
    async with Worker(superuser, allowed):
        pass


async def test_a_superuser_gets_no_step_through_set_role_either(
    installed: Database, workflows: Workflows
) -> None:
    session = member(installed, workflows, "promoted")
    instance = session.start("'select 1'")
    server_run(installed, "alter role {} superuser", installed.role("promoted"))
    async with Worker(installed.dsn, SET_ROLE):
        assert await asyncio.to_thread(session.wait, instance) == "failed"
    assert "is a superuser, but" in str(session.error(instance))
    session.connection.close()


async def test_a_password_file_is_enough_to_log_in(
    installed: Database, workflows: Workflows, tmp_path: Path
) -> None:
    ann = granted(installed, workflows, "ann")
    file = tmp_path / "passwords"
    password = passwords(installed)[installed.role("ann")]
    file.write_text(f"*:*:*:{installed.role('ann')}:{password}\n")
    file.chmod(0o600)
    instance = ann.start("'select session_user as s'")
    dsn = make_conninfo(installed.dsn, passfile=str(file))
    async with Worker(dsn, Settings.load({"shutdown_grace": 1.0}, {})):
        assert await asyncio.to_thread(ann.wait, instance) == "completed"
    assert ann.one("select df.result(%s)::jsonb", instance)["rows"][0]["s"] == installed.role("ann")
    ann.connection.close()
