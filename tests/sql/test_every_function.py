"""Every function of df, in every place where a session may call it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.fixtures.postgres import Database
from tests.sql.sessions import Connection, rows, start, value

BUILD = {
    "as(text,text)": "df.as('A', 'n')",
    "as_op(text,text)": "df.as_op('A', 'n')",
    "break(text)": "df.break('v')",
    "http(text,text,text,jsonb,integer)": "df.http('https://x.test')",
    "http_multipart(text,text,jsonb,jsonb,integer)": """df.http_multipart('https://x.test', parts => '[{"name": "a"}]')""",
    "http_options(text,jsonb)": """df.http_options(df.http('https://x.test'), '{"expect_json": true}')""",
    "if(text,text,text)": "df.if('C', 'T', 'E')",
    "if_else_op(text,text)": "df.if_else_op(df.if_then_op('C', 'T'), 'E')",
    "if_rows(text,text,text)": "df.if_rows('n', 'T', 'E')",
    "if_then_op(text,text)": "df.if_then_op('C', 'T')",
    "join(text,text)": "df.join('A', 'B')",
    "join(text[])": "df.join('A', 'B', 'C')",
    "join3(text,text,text)": "df.join3('A', 'B', 'C')",
    "loop(text,text)": "df.loop('A', 'C')",
    "loop_prefix_op(text)": "df.loop_prefix_op('A')",
    "race(text,text)": "df.race('A', 'B')",
    "race(text[])": "df.race('A', 'B', 'C')",
    "seq(text,text)": "df.seq('A', 'B')",
    "sleep(bigint)": "df.sleep(5)",
    "sql(text)": "df.sql('A')",
    "sql(text,jsonb)": """df.sql('A', '{"tx": "required"}')""",
    "wait_for_schedule(text)": "df.wait_for_schedule('0 9 * * *')",
    "wait_for_schedule(text,text)": "df.wait_for_schedule('0 9 * * *', 'Europe/Berlin')",
    "wait_for_signal(text,integer)": "df.wait_for_signal('go')",
    "wait_for_signal(text,integer,text)": "df.wait_for_signal('go', 5, 'latest')",
}
LOOK = {
    "duroxide_schema()": "df.duroxide_schema()",
    "error(text)": "df.error(ended.id)",
    "explain(text)": "df.explain(live.id)",
    "explain_mermaid(text)": "df.explain_mermaid('df.seq(''A'', ''B'')')",
    "getvar(text)": "df.getvar('k')",
    "implementation()": "df.implementation()",
    "instance_executions(text,integer)": "df.instance_executions(live.id)",
    "instance_info(text)": "df.instance_info(live.id)",
    "instance_nodes(text)": "df.instance_nodes(live.id)",
    "instance_nodes(text,integer)": "df.instance_nodes(live.id, 1)",
    "list_instances(text,integer)": "df.list_instances()",
    "list_instances(text,integer,text,text)": "df.list_instances(NULL, 1, NULL)",
    "metrics()": "df.metrics()",
    "result(text)": "df.result(ended.id)",
    "status(text)": "df.status(live.id)",
    "target_database()": "df.target_database()",
    "version()": "df.version()",
}
WAIT = {  # these need the newest of what others commit
    "await_instance(text,integer)": "df.await_instance(ended.id)",
    "wait_for_completion(text,integer)": "df.wait_for_completion(ended.id)",
}
CHANGE = {
    "cancel(text,text)": "df.cancel(live.id)",
    "clearvars()": "df.clearvars()",
    "grant_usage(text,boolean,boolean)": "df.grant_usage('public')",
    "pause(text)": "df.pause(live.id)",
    "resume(text)": "df.resume(live.id)",
    "revoke_usage(text)": "df.revoke_usage('public')",
    "run(text)": "df.run(live.id)",
    "setvar(text,text)": "df.setvar('k', 'v')",
    "signal(text,text,text)": "df.signal(live.id, 'go')",
    "signal(text,text,text,text)": "df.signal(live.id, 'go', '{}', 'once')",
    "start(text,jsonb,text)": "df.start('A', '{}'::jsonb)",
    "start(text,text,text,text)": "df.start('A')",
    "unsetvar(text)": "df.unsetvar('k')",
}
HARMLESS = {"run(text)"}  # it only wakes workers


@pytest.fixture
def chief(installed: Database, owner: Connection) -> Iterator[Connection]:
    """A session of a role that was granted everything, with views of two workflows of hers."""
    name = installed.role("chief")
    if "chief" not in installed.roles:
        installed.create_role("chief")
    owner.execute("select df.grant_usage(%s, true, true)", [name])
    with psycopg.connect(installed.roles["chief"], autocommit=True) as session:
        live, ended = start(session, "'SELECT 1'"), start(session, "'SELECT 1'")
        session.execute("select df.cancel(%s)", [ended])
        session.execute(f"create temporary view live as select text '{live}' as id".encode())
        session.execute(f"create temporary view ended as select text '{ended}' as id".encode())
        yield session
    owner.execute("select df.revoke_usage(%s)", [name])


def refused(session: Connection, calls: dict[str, str], opening: str = "") -> dict[str, str | None]:
    """Make each call in a transaction of its own, undone afterwards; return SQLSTATEs of those that fail."""
    states = {}
    for name, call in calls.items():
        with session.transaction(force_rollback=True):
            if opening:
                session.execute(opening.encode())
            try:
                session.execute(f"select {call} from live, ended".encode())
            except psycopg.Error as error:
                states[name] = error.sqlstate
    return states


def test_no_function_is_left_out(owner: Connection) -> None:
    found = rows(
        owner,
        "select proname || '(' || array_to_string(array("
        "   select format_type(t, null) from unnest(proargtypes) as t), ',') || ')'"
        " from pg_proc where pronamespace = 'df'::regnamespace and proname !~ '^_'",
    )
    assert {row[0] for row in found} == {*BUILD, *LOOK, *WAIT, *CHANGE}


def test_all_work_by_themselves(chief: Connection) -> None:
    assert refused(chief, {**BUILD, **LOOK, **WAIT, **CHANGE}) == {}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_all_but_waiting_work_on_a_fixed_snapshot(chief: Connection, level: str) -> None:
    opening = f"set transaction isolation level {level}"
    assert refused(chief, {**BUILD, **LOOK, **CHANGE}, opening) == {}


def test_those_that_change_something_are_refused_in_a_read_only_transaction(
    chief: Connection,
) -> None:
    opening = "set transaction read only"
    assert refused(chief, {**BUILD, **LOOK, **WAIT}, opening) == {}
    assert refused(chief, CHANGE, opening) == dict.fromkeys(set(CHANGE) - HARMLESS, "25006")


def test_all_work_in_a_trigger(chief: Connection) -> None:
    chief.execute("create temporary table events (n integer)")
    calls = {**BUILD, **LOOK, **WAIT, **CHANGE}
    for number, call in enumerate(calls.values()):
        with chief.transaction(force_rollback=True):
            chief.execute(
                f"create function pg_temp.react() returns trigger language plpgsql as $$"
                f" begin perform {call} from live, ended; return new; end $$;"
                "create trigger react before insert on events for each row"
                " execute function pg_temp.react()".encode()
            )
            chief.execute("insert into events values (%s)", [number])


def test_in_a_definer_function_all_work_for_its_owner(
    chief: Connection, bob: Connection, superuser: Connection
) -> None:
    """What bob could not do himself, the owner's rights do, and it happens to the owner's workflows."""
    superuser.execute("create schema wrappers; grant usage, create on schema wrappers to public")
    live, ended = value(chief, "select id from live"), value(chief, "select id from ended")
    try:
        for call in {**BUILD, **LOOK, **WAIT, **CHANGE}.values():
            named = call.replace("live.id", f"'{live}'").replace("ended.id", f"'{ended}'")
            chief.execute(
                "create or replace function wrappers.act() returns void language plpgsql security definer"
                f" set search_path = pg_catalog as $$ begin perform {named}; end $$".encode()
            )
            with bob.transaction(force_rollback=True):
                bob.execute("select wrappers.act()")
    finally:
        superuser.execute("drop schema wrappers cascade")


def test_none_works_without_usage(stranger: Connection) -> None:
    for call in {**BUILD, **LOOK, **WAIT, **CHANGE}.values():
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            stranger.execute(f"select {call} from (values ('1')) as live (id), (values ('2')) as ended (id)".encode())  # fmt: skip
        assert "permission denied for schema df" in str(caught.value)
