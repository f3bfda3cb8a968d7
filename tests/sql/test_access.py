"""Who may see and do what: row security, column grants, the inbox, passing rights on."""

from __future__ import annotations

import psycopg
import pytest

from tests.fixtures.postgres import Database
from tests.fixtures.promises import keeps
from tests.sql.sessions import Connection, message, notices, refusal, rows, start, value


def test_a_role_sees_only_its_own_workflows(alice: Connection, bob: Connection) -> None:
    hers = start(alice, "'SELECT 1'")
    assert value(alice, "select count(*) from df.instances where id = %s", hers) == 1
    for table, column in (("instances", "id"), ("nodes", "instance_id")):
        assert rows(bob, f"select from df.{table} where {column} = %s", hers) == []
    assert value(bob, "select df.status(%s)", hers) is None
    assert rows(bob, "select * from df.instance_nodes(%s)", hers) == []
    assert value(bob, "select df.explain(%s)", hers).strip() == f"Instance '{hers}' not found"


def test_variables_are_each_roles_own(alice: Connection, bob: Connection) -> None:
    with alice.transaction(force_rollback=True):
        alice.execute("insert into df.vars (name, value) values ('secret', 'hers')")
        assert rows(bob, "select * from df.vars") == []
    error = refusal(
        bob,
        "insert into df.vars (name, value, owner) select 'x', 'y', rolname::regrole from pg_roles limit 1",
    )
    assert error.sqlstate == "42501"


def test_membership_gives_nothing_but_set_role_does(
    superuser: Connection, alice: Connection, bob: Connection, installed: Database
) -> None:
    hers = start(alice, "'SELECT 1'")
    superuser.execute(f"grant {installed.role('alice')} to {installed.role('bob')}".encode())
    try:
        assert value(bob, "select df.status(%s)", hers) is None
        with bob.transaction(force_rollback=True):
            bob.execute(f"set local role {installed.role('alice')}".encode())
            assert value(bob, "select df.status(%s)", hers) == "pending"
            started = start(bob, "'SELECT 1'")
            assert value(
                bob, "select submitted_by::text from df.instances where id = %s", started
            ) == installed.role("alice")
    finally:
        superuser.execute(f"revoke {installed.role('alice')} from {installed.role('bob')}".encode())


def test_superusers_the_owner_and_bypassrls_see_everything(
    superuser: Connection, owner: Connection, alice: Connection, installed: Database
) -> None:
    hers = start(alice, "'SELECT 1'")
    auditor = installed.role("auditor")
    superuser.execute(f"create role {auditor} bypassrls".encode())
    try:
        owner.execute("select df.grant_usage(%s)", [auditor])
        for connection, role in ((superuser, None), (owner, None), (superuser, auditor)):
            with connection.transaction(force_rollback=True):
                if role:
                    connection.execute(f"set local role {role}".encode())
                assert value(connection, "select df.status(%s)", hers) == "pending"
    finally:
        owner.execute("select df.revoke_usage(%s)", [auditor])
        superuser.execute(f"drop role {auditor}".encode())


@pytest.mark.parametrize(
    "statement",
    [
        "update df.instances set status = 'completed'",
        "update df.instances set updated_at = now()",
        "select from df.instances for update",
        "select from df.instances for key share",
        "delete from df.instances",
        "insert into df.instances (id, root_node, submitted_by, status) values ('0', '0', 10::oid::regrole, 'completed')",
        "update df.nodes set query = 'SELECT 1'",
        "delete from df.nodes",
        "select from df._inbox",
        "delete from df._inbox",
        "select from df._snapshots",
        "insert into df._settings values ('retention_days', '1')",
        "select from df._workers",
        "truncate df.instances",
        "select df._project_v1('{}', '{}', '{}', '{}', '{}', '{}', false)",
        "select df._write_nodes('[]')",
        "select df._send_start('00000000', '{}')",
        "select df._graph_text('00000000')",
        "create function df.evil() returns integer language sql as 'select 1'",
        "select duroxide.send_v1('x', 1::smallint, 'x')",
    ],
)
def test_an_ordinary_user_may_not(alice: Connection, statement: str) -> None:
    assert isinstance(refusal(alice, statement), psycopg.errors.InsufficientPrivilege)


def test_nobody_submits_in_anothers_name(alice: Connection, installed: Database) -> None:
    error = refusal(
        alice,
        "insert into df.instances (id, root_node, submitted_by) values ('00000000', '00000000', %s::regrole)",
        installed.role("bob"),
    )
    assert "row-level security" in message(error)


def test_the_inbox_lets_nobody_steer_a_foreign_workflow(alice: Connection, bob: Connection) -> None:
    hers = start(alice, "'SELECT 1'")
    for kind in ("start", "cancel", "signal", "pause", "resume"):
        error = refusal(
            bob, "insert into df._inbox (kind, instance_id) values (%s, %s)", kind, hers
        )
        assert error.sqlstate == "42501"
        assert message(error) == 'new row violates row-level security policy for table "_inbox"'


def test_a_workflow_starts_once(alice: Connection) -> None:
    hers = start(alice, "'SELECT 1'")
    error = refusal(alice, "insert into df._inbox (kind, instance_id) values ('start', %s)", hers)
    assert (error.sqlstate, message(error)) == ("55000", f"Instance {hers} was already started")


def test_the_trigger_of_the_inbox_cannot_be_borrowed(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        alice.execute(
            "create temporary table decoy (seq bigint, kind text, instance_id text, payload jsonb)"
        )
        error = refusal(
            alice,
            "create trigger t after insert on decoy for each row execute function df._consume_request()",
        )
    assert message(error).endswith("_consume_request")
    assert error.sqlstate == "42501"


def test_a_role_without_usage_gets_nothing(stranger: Connection) -> None:
    for statement in (
        "select df.start('SELECT 1')", "select df.status('00000000')", "select * from df.instances",
        "select df.explain('SELECT 1')", "select df.version()",
    ):  # fmt: skip
        error = refusal(stranger, statement)
        assert (error.sqlstate, message(error)) == ("42501", "permission denied for schema df")


def test_usage_of_the_schema_alone_builds_but_starts_nothing(
    owner: Connection, stranger: Connection, installed: Database
) -> None:
    role = installed.role("stranger")
    owner.execute(f"grant usage on schema df to {role}".encode())
    try:
        assert value(stranger, "select df.seq('a', 'b')").startswith("{")
        error = refusal(stranger, "select df.start('SELECT 1')")
        assert error.sqlstate == "42501"
        assert message(error).startswith("permission denied for table ")
        assert refusal(stranger, "select df.status('00000000')").sqlstate == "42501"
    finally:
        owner.execute(f"revoke usage on schema df from {role}".encode())


@pytest.mark.parametrize("name", ["Mixed Case", 'quo"ted', "über", "simple"])
def test_grant_and_revoke_take_any_role_name(
    owner: Connection, superuser: Connection, name: str
) -> None:
    identifier = psycopg.sql.Identifier(name)
    superuser.execute(psycopg.sql.SQL("create role {} login").format(identifier))
    try:
        assert notices(owner, "select df.grant_usage(%s)", name) == [
            f'pg_durable: granted df usage privileges to "{name}"'
        ]
        with superuser.transaction(force_rollback=True):
            superuser.execute(psycopg.sql.SQL("set local role {}").format(identifier))
            instance_id = start(superuser, "'SELECT 1'")
            assert value(superuser, "select df.status(%s)", instance_id) == "pending"
            graph = value(superuser, "select df.explain(%s)", instance_id)
            assert "SQL: SELECT 1" in graph
        assert notices(owner, "select df.revoke_usage(%s)", name) == [
            f'pg_durable: revoked df usage privileges granted by "{owner.info.user}" from "{name}"'
        ]
        with superuser.transaction(force_rollback=True):
            superuser.execute(psycopg.sql.SQL("set local role {}").format(identifier))
            assert refusal(superuser, "select df.sql('x')").sqlstate == "42501"
    finally:
        superuser.execute(psycopg.sql.SQL("drop role {}").format(identifier))


@keeps("E3")
def test_granting_to_an_unknown_role_is_refused(owner: Connection) -> None:
    error = refusal(owner, "select df.grant_usage('nobody_there')")
    assert (error.sqlstate, message(error)) == ("42704", 'role "nobody_there" does not exist')


def privileges(owner: Connection, role: str) -> dict[str, str]:
    """What was granted to a role anywhere, by object; INSERT(a,b) is on columns, a star is a grant option."""
    found = rows(
        owner,
        "with acls (object, columns, acl) as ("
        "   select 'schema ' || nspname, null, nspacl from pg_namespace"
        "   union all select c.oid::regclass::text, null, c.relacl from pg_class as c"
        "   union all select p.proname || '()', null, p.proacl from pg_proc as p"
        "   union all select a.attrelid::regclass::text, a.attname, a.attacl from pg_attribute as a)"
        " select x.object, string_agg(x.said, ' ' order by x.said) from ("
        "   select a.object, e.privilege_type || coalesce('(' || string_agg(a.columns, ',' order by a.columns) || ')', '')"
        "       || case when bool_and(e.is_grantable) then '*' else '' end as said"
        "   from acls as a, aclexplode(a.acl) as e where e.grantee = quote_ident(%s)::regrole"
        "   group by a.object, e.privilege_type, a.columns is null) as x group by x.object",
        role,
    )
    return dict(found)


GRANTED = {
    "schema df": "USAGE",
    "df.instances": "INSERT(database,id,idempotency_key,label,root_node,start_at,submitted_by) SELECT",
    "df.nodes": "INSERT(database,id,instance_id,left_node,node_type,options,query,result_name,right_node,submitted_by)"
    " SELECT",
    "df.vars": "DELETE INSERT SELECT UPDATE",
    "df._inbox": "INSERT(instance_id,kind,payload)",
    "df._engine_instances": "SELECT",
    "df._engine_executions": "SELECT",
}
HTTP = dict.fromkeys(["http()", "http_multipart()"], "EXECUTE")
ADMINISTRATION = dict.fromkeys(["grant_usage()", "revoke_usage()", "metrics()"], "EXECUTE*")


def with_option(granted: dict[str, str]) -> dict[str, str]:
    return {name: what.replace(" ", "* ") + "*" for name, what in granted.items()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", GRANTED),
        (", include_http => true", GRANTED | HTTP),
        (", with_grant => true", with_option(GRANTED) | ADMINISTRATION),
        (", true, true", with_option(GRANTED | HTTP) | ADMINISTRATION),
    ],
)
def test_this_is_granted_and_taken_back_and_nothing_else(
    owner: Connection, installed: Database, arguments: str, expected: dict[str, str]
) -> None:
    role = installed.role("stranger")
    assert privileges(owner, role) == {}
    owner.execute(f"select df.grant_usage(%s{arguments})".encode(), [role])
    try:
        assert privileges(owner, role) == expected
    finally:
        owner.execute("select df.revoke_usage(%s)", [role])
    assert privileges(owner, role) == {}


def test_a_role_that_is_only_spelled_like_public_is_not_everybody(
    owner: Connection, superuser: Connection, stranger: Connection
) -> None:
    assert refusal(owner, "select df.grant_usage('PUBLIC')").sqlstate == "42704"
    superuser.execute('create role "PUBLIC"')
    try:
        owner.execute("select df.grant_usage('PUBLIC')")
        assert refusal(stranger, "select df.sql('A')").sqlstate == "42501"
    finally:
        owner.execute("select df.revoke_usage('PUBLIC')")
        superuser.execute('drop role "PUBLIC"')


def test_public_means_everybody(owner: Connection, stranger: Connection) -> None:
    owner.execute("select df.grant_usage('public')")
    try:
        assert len(start(stranger, "'SELECT 1'")) == 8
    finally:
        owner.execute("select df.revoke_usage('public')")
    assert refusal(stranger, "select df.start('SELECT 1')").sqlstate == "42501"


def test_administration_can_be_passed_on(
    owner: Connection, alice: Connection, stranger: Connection, installed: Database
) -> None:
    hers, foreign = installed.role("alice"), installed.role("stranger")
    assert message(refusal(alice, "select df.grant_usage(%s)", foreign)) == (
        "permission denied for function grant_usage"
    )
    owner.execute("select df.grant_usage(%s, with_grant => true)", [hers])
    try:
        alice.execute("select df.grant_usage(%s)", [foreign])
        assert len(start(stranger, "'SELECT 1'")) == 8
        alice.execute("select df.revoke_usage(%s)", [foreign])
        assert refusal(stranger, "select df.start('SELECT 1')").sqlstate == "42501"
    finally:
        owner.execute("select df.revoke_usage(%s)", [hers])
        owner.execute("select df.grant_usage(%s)", [hers])
    assert message(refusal(alice, "select df.grant_usage(%s)", foreign)) == (
        "permission denied for function grant_usage"
    )
