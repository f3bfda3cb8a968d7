"""Installing, upgrading, checking and removing, as a database owner who is no superuser."""

from __future__ import annotations

import shutil
import subprocess

import psycopg
import pytest
from psycopg import sql

from duroxide_pg.errors import NotPermitted, SchemaForeign, SchemaMissing, SchemaTooNew
from duroxide_pg.migrate import State
from pg_durable import install, operators
from pg_durable.embedded import psql_path
from tests.fixtures.postgres import Database
from tests.fixtures.promises import keeps
from tests.sql.catalog import contents
from tests.sql.sessions import value


def test_a_fresh_database_is_complete_after_install_and_again_after_another(
    database: Database,
) -> None:
    assert install.check(database.dsn).df.state is State.MISSING
    first = install.install(database.dsn)
    assert first.complete
    assert (first.database, first.missing, first.live_workers) == (database.name, (), 0)
    with psycopg.connect(database.dsn) as connection:
        before = contents(connection)
        installation = value(connection, "select install_id from df._install")
    assert install.install(database.dsn) == first
    assert install.upgrade(database.dsn) == first
    with psycopg.connect(database.dsn) as connection:
        assert contents(connection) == before
        assert value(connection, "select install_id from df._install") == installation
        assert value(connection, "select df.version()").startswith("0.2.6 (built ")
        assert value(connection, "select df.target_database()") == database.name
        schema = value(connection, "select df.duroxide_schema()")
        assert value(connection, f"select schema_version from {schema}._worker_ready") == 1


def test_the_migrations_and_the_living_files_make_the_same_database(database: Database) -> None:
    install.install(database.dsn)
    with psycopg.connect(database.dsn) as connection:
        migrated = contents(connection)
    install.uninstall(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(install.render_sql().encode())
        assert contents(connection) == migrated
    assert install.check(database.dsn).complete
    assert install.install(database.dsn).complete


def test_the_script_runs_in_psql(database: Database) -> None:
    bindir = database.server.bindir
    psql = shutil.which("psql") if bindir is None else psql_path(bindir)
    if psql is None:
        pytest.skip("there is no psql")
    done = subprocess.run(
        [psql, database.dsn, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", "-"],
        input=install.render_sql(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert install.check(database.dsn).complete


def test_uninstall_leaves_the_database_as_it_was(database: Database) -> None:
    with psycopg.connect(database.dsn) as connection:
        before = contents(connection)
    install.install(database.dsn)
    install.uninstall(database.dsn)
    with psycopg.connect(database.dsn) as connection:
        assert contents(connection) == before
    install.uninstall(database.dsn)  # nothing there: nothing to do
    assert install.install(database.dsn).complete


def test_uninstall_refuses_while_workflows_are_unfinished(database: Database) -> None:
    install.install(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("select df.start('SELECT 1')")
    with pytest.raises(NotPermitted, match="1 workflows are not finished and would be lost"):
        install.uninstall(database.dsn)
    install.uninstall(database.dsn, even_if_unfinished=True)
    assert install.check(database.dsn).df.state is State.MISSING


@keeps("E4")
@pytest.mark.parametrize("schema", ["df", "duroxide"])
def test_a_foreign_schema_is_refused_and_left_alone(database: Database, schema: str) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f"create schema {schema}".encode())
        connection.execute(f"create table {schema}.theirs ()".encode())
        before = contents(connection)
    for action in (install.install, install.uninstall):
        with pytest.raises(SchemaForeign, match=f"schema '{schema}' exists .* drop or rename it"):
            action(database.dsn)
    with psycopg.connect(database.dsn) as connection:
        assert contents(connection) == before


def test_a_newer_schema_is_refused(database: Database) -> None:
    """df-execution 12.33: newer schema."""
    install.install(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("update df._alembic_version set version_num = '9999'")
    for action in (install.install, install.upgrade, install.require):
        with pytest.raises(SchemaTooNew, match=r"'df' is at revision 9999.*upgrade pg-durable"):
            action(database.dsn)
    assert install.check(database.dsn).df.state is State.NEWER


def test_upgrading_nothing_says_how_to_install(database: Database) -> None:
    for action in (install.upgrade, install.require):
        with pytest.raises(SchemaMissing, match="run `pg-durable install`"):
            action(database.dsn)


def test_a_missing_privilege_is_named_with_the_statement_that_grants_it(database: Database) -> None:
    guest = database.create_role("guest")
    role = database.role("guest")
    with pytest.raises(
        NotPermitted, match=f'GRANT CREATE ON DATABASE "{database.name}" TO "{role}"'
    ):
        install.install(guest)
    names = sql.Identifier(database.name), sql.Identifier(role)
    # Up to 14 the schema public is not the owner's, so a superuser speaks here.
    with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(*names))
        connection.execute("revoke create on schema public from public")
        with pytest.raises(NotPermitted, match=f'GRANT CREATE ON SCHEMA public TO "{role}"'):
            install.install(guest)
        assert contents(connection) == {}
        connection.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(names[1]))
    assert install.install(guest).complete


def test_two_databases_of_one_server_are_independent(
    database: Database, installed: Database
) -> None:
    install.install(database.dsn)
    with psycopg.connect(database.dsn) as here, psycopg.connect(installed.dsn) as there:
        instance_id = value(here, "select df.start('SELECT 1')")
        assert value(here, "select df.status(%s)", instance_id) == "pending"
        assert value(there, "select df.status(%s)", instance_id) is None


def test_what_was_dropped_is_reported_and_operators_come_back(database: Database) -> None:
    install.install(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        before = contents(connection)
        connection.execute("drop operator public.|=> (text, text)")
        connection.execute("drop operator public.@> (none, text)")
        report = install.check(database.dsn)
        assert report.missing == ("the operator |=> in public", "the operator @> in public")
        assert not report.complete
        assert install.install(database.dsn).complete
        assert contents(connection) == before
        connection.execute("drop function df.version()")
    assert install.check(database.dsn).missing == ("the function df.version",)


def test_a_superuser_may_put_the_operators_where_everybody_finds_them(database: Database) -> None:
    install.install(database.dsn)
    with pytest.raises(NotPermitted, match="connect as a superuser"):
        install.create_catalog_operators(database.dsn)
    assert sorted(install.create_catalog_operators(database.superuser_dsn)) == sorted(
        operators.OPERATORS
    )
    assert install.create_catalog_operators(database.superuser_dsn) == ()
    with psycopg.connect(database.dsn) as connection:
        connection.execute("set search_path = pg_catalog")
        assert value(connection, "select @> ('a' ~> 'b') = df.loop(df.seq('a', 'b'))") is True
    install.uninstall(database.dsn)
    with psycopg.connect(database.dsn) as connection:
        assert value(connection, "select count(*) from pg_operator where oprname = '~>'") == 0
