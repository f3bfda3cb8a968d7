"""Two roles that use df, a delegated administrator and a worker that is no superuser, in one database.

Every function of df that a role may call is called with what belongs to another role: it shows nothing of
it, changes nothing of it, and runs nothing as him.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually

SECRET = "s3cr3t of Ann"
NOT_CALLABLE = ("trigger", "event_trigger", "internal", "record")
VALUES = {  # for arguments that name nobody
    "integer": "1",
    "bigint": "1",
    "smallint": "1",
    "boolean": "true",
    "jsonb": "'{}'::jsonb",
    "json": "'{}'::json",
    "timestamp with time zone": "now()",
    "regrole": "quote_ident(current_user)::regrole",
    "anyelement": "1",
}


@contextmanager
def running_worker(installed: Database) -> Iterator[None]:
    """A worker in a thread, which logs in as each role with its password."""
    known = {
        installed.role(name): unquote(urlsplit(dsn).password or "")
        for name, dsn in installed.roles.items()
    }

    def credentials(role: str, database: str) -> Mapping[str, str]:
        return {"password": known[role]}

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    settings = Settings.load({"shutdown_grace": 1.0}, {})
    worker = Worker(installed.dsn, settings, credentials=credentials)
    asyncio.run_coroutine_threadsafe(worker.start(), loop).result(20)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(worker.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def roles(installed: Database, workflows: Workflows) -> Iterator[dict[str, Workflows]]:
    """Sessions of Ann and Bob, and of Carol, who may pass the use of df on."""
    sessions = {}
    for name in ("ann", "bob", "carol"):
        dsn = installed.create_role(name)
        role = installed.role(name)
        workflows.one("select df.grant_usage(%s, true, %s)", role, name == "carol")
        workflows.run(f"grant create on database {installed.name} to {role}")
        sessions[name] = Workflows.connect(dsn)
        sessions[name].run(f"create schema {role}")
    yield sessions
    for session in sessions.values():
        session.connection.close()


def callable_functions(session: Workflows) -> list[tuple[str, str, list[str]]]:
    """Name, kind and argument types of each function of df that the session's role may execute."""
    rows = session.all(
        "select p.oid::regproc::text, p.prokind::text,"
        " array(select format_type(t, null) from unnest(p.proargtypes::oid[]) with ordinality as a (t, n) order by n)"
        " from pg_proc p where p.pronamespace = 'df'::regnamespace"
        " and has_function_privilege(p.oid, 'execute') and format_type(p.prorettype, null) <> all (%s)"
        " order by 1",
        list(NOT_CALLABLE),
    )
    return [(name, kind, types) for name, kind, types in rows if not set(types) & set(NOT_CALLABLE)]


def calls(
    name: str, kind: str, types: list[str], targets: list[str]
) -> Iterator[tuple[str, list[Any]]]:
    """The function with each target in each place for a text, and in all of them."""
    places = [
        n for n, kind_ in enumerate(types) if kind_ in ("text", "text[]", "character varying")
    ]
    word = "call" if kind == "p" else "select * from"
    for target in targets if places else [""]:
        for chosen in [*([place] for place in places), places]:
            parts, parameters = [], []
            for n, type_ in enumerate(types):
                if n in places:
                    text = target if n in chosen else "go"
                    parts.append("array[%s, %s]" if type_ == "text[]" else "%s::text")
                    parameters += [text, text] if type_ == "text[]" else [text]
                else:
                    parts.append(VALUES.get(type_, f"null::{type_}"))
            yield f"{word} {name}({', '.join(parts)})", parameters


def walk(session: Workflows, targets: list[str]) -> Iterator[tuple[str, list[Any], Any]]:
    """Make every call, each in a transaction that commits; yields what was said."""
    session.run("set statement_timeout = '5s'")
    for function in callable_functions(session):
        for statement, parameters in calls(*function, targets):
            try:
                cursor = session.connection.execute(statement.encode(), parameters)
                said: Any = cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                said = str(error)
            yield statement, parameters, said
    session.run("reset statement_timeout")


def belongings(workflows: Workflows, role: str, instances: list[str]) -> dict[str, Any]:
    """Everything that the database holds of a role's workflows and variables."""
    tables = {
        "df.instances": "id",
        "df.nodes": "instance_id",
        "df._snapshots": "instance_id",
        "df._signals": "instance_id",
        "df._signal_waiters": "instance_id",
        "duroxide.instances": "instance_id",
        "duroxide.history_log": "instance_id",
        "duroxide.orchestrator_queue": "instance_id",
    }
    held = {
        table: workflows.all(
            f"select to_jsonb(t) from {table} t where t.{column} = any (%s) order by 1", instances
        )
        for table, column in tables.items()
    }
    held["df.vars"] = workflows.all(
        "select to_jsonb(v) from df.vars v where v.owner = quote_ident(%s)::regrole order by 1",
        role,
    )
    usage = "select has_schema_privilege(%s, 'df', 'usage'), has_table_privilege(%s, 'df.vars', 'insert')"
    held["rights"] = workflows.all(usage, role, role)
    return held


def test_no_function_shows_or_steers_what_belongs_to_another_role(
    installed: Database, workflows: Workflows, roles: dict[str, Workflows]
) -> None:
    """df-execution 12.22: privileges of U only. df-execution 12.32: wrong owner."""
    ann, role = roles["ann"], installed.role("ann")
    with running_worker(installed):
        ann.one("select df.setvar('theirs', %s)", SECRET)
        ended = ann.start(f"'select ''{SECRET}'' as v'", SECRET)
        waiting = ann.start(f"df.wait_for_signal('go') ~> 'select ''{SECRET}'''", SECRET)
        assert ann.wait(ended) == "completed"
        eventually(
            lambda: workflows.one("select count(*) from df._signal_waiters") == 1, what="it waits"
        )
        node = workflows.one("select id from df.nodes where instance_id = %s limit 1", waiting)
        before = belongings(workflows, role, [ended, waiting])
        for name in ("bob", "carol"):
            other = roles[name]
            count = 0
            for statement, parameters, said in walk(other, [waiting, ended, role, node]):
                count += 1
                assert SECRET not in str(said), (name, statement, parameters)
            assert count > 100  # so the walk did walk
            visible = other.all(
                "select c.oid::regclass::text from pg_class c where c.relkind in ('r', 'v')"
                " and c.relnamespace in ('df'::regnamespace, 'duroxide'::regnamespace)"
                " and has_table_privilege(c.oid, 'select')"
            )
            assert visible
            for (table,) in visible:
                assert SECRET not in str(other.all(f"select * from {table}")), (name, table)
            started = other.all("select distinct submitted_by::text from df.instances")
            assert started in ([], [(installed.role(name),)])
        assert belongings(workflows, role, [ended, waiting]) == before
        submitters = (
            "select count(*) from df.instances where submitted_by = quote_ident(%s)::regrole"
        )
        assert workflows.one(submitters, role) == 2  # nothing was started in her name
        ann.one("select df.signal(%s, 'go')", waiting)
        assert ann.wait(waiting) == "completed"


TO_THE_WORKERS_RIGHTS = {
    "reset role": "reset role; select current_user::text as who",
    "set role": "set role {owner}; select current_user::text as who",
    "set session authorization": "set session authorization {owner}; select current_user::text as who",
    "reset session authorization": "reset session authorization; select session_user::text as who",
    "the graphs": "select graph as who from df._snapshots limit 1",
    "the engine": "select instance_id as who from duroxide.instances limit 1",
    "the queue of the engine": "select duroxide.send_v1('x', 1::smallint, 'x')::text as who",
    "the commit hook": "select df._project_v1('{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', false)::text as who",
    "settings": "insert into df._settings values ('enable_superuser_instances', 'on'); select 'done' as who",
    "a superuser": "alter role current_user superuser; select 'done' as who",
    "the worker's files": "select pg_read_file('postgresql.conf') as who",
    "a settings placeholder": "set df.in_workflow = off; set role {owner}; select current_user::text as who",
}


def test_a_step_can_not_reach_the_rights_of_the_worker(
    installed: Database, workflows: Workflows, roles: dict[str, Workflows]
) -> None:
    """df-execution 12.22: RESET ROLE, current_user and session_user."""
    bob, me = roles["bob"], installed.role("bob")
    owner = str(workflows.one("select current_user::text"))
    with running_worker(installed):
        for what, text in TO_THE_WORKERS_RIGHTS.items():
            step = text.format(owner=owner).replace("'", "''")
            instance = bob.start(f"'{step}'")
            if bob.wait(instance) == "completed":
                rows = bob.one("select df.result(%s)::jsonb", instance)["rows"]
                assert rows == [{"who": me}], what
            else:
                assert "permission denied" in str(bob.error(instance)) or "must " in str(
                    bob.error(instance)
                ), (what, bob.error(instance))
        assert workflows.one("select count(*) from df._settings") == 0


def test_what_runs_when_a_step_commits_runs_as_its_submitter(
    installed: Database, workflows: Workflows, roles: dict[str, Workflows]
) -> None:
    """Deferred triggers, and objects that hide those of pg_catalog and df, in the step's session."""
    bob, me = roles["bob"], installed.role("bob")
    bob.run(
        f"""
        create table {me}.seen (what text, who text, session text);
        create table {me}.work (i int);
        create function {me}.note() returns trigger language plpgsql as $$ begin
            insert into {me}.seen values (tg_argv[0], current_user, session_user); return null; end $$;
        create constraint trigger late after insert on {me}.work deferrable initially deferred
            for each row execute function {me}.note('deferred');
        create function {me}.split_part(text, text, integer) returns text language plpgsql as $$ begin
            insert into {me}.seen values ('borrowed', current_user, session_user); return $1; end $$;
        create function {me}.equal(text, text) returns boolean language plpgsql as $$ begin
            insert into {me}.seen values ('borrowed', current_user, session_user); return true; end $$;
        create operator {me}.= (leftarg = text, rightarg = text, function = {me}.equal);
        """
    )
    with running_worker(installed):
        instance = bob.start(
            f"'set search_path = {me}, pg_catalog, pg_temp; insert into {me}.work values (1);"
            f" set constraints all deferred; insert into {me}.work values (2)'"
        )
        assert bob.wait(instance) == "completed", bob.error(instance)
    assert bob.all(f"select distinct what, who, session from {me}.seen") == [("deferred", me, me)]


def test_every_function_that_runs_with_its_owners_rights_has_a_path_of_its_own(
    workflows: Workflows,
) -> None:
    loose = workflows.all(
        "select p.oid::regprocedure::text from pg_proc p where p.prosecdef"
        " and p.pronamespace in ('df'::regnamespace, 'duroxide'::regnamespace)"
        " and not exists (select from unnest(p.proconfig) c where c like 'search_path=pg_catalog%%pg_temp')"
    )
    assert loose == []
    assert workflows.one("select count(*) from pg_proc where prosecdef") > 0
