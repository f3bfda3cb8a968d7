"""Installing, checking and removing from the command line."""

from __future__ import annotations

import io

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pg_durable import install
from tests.fixtures.commands import pg_durable
from tests.fixtures.postgres import Database


def test_install_check_and_uninstall_leave_what_was_there_before(database: Database) -> None:
    before = contents(database)
    assert pg_durable("install", "--dsn", database.dsn).status == 0
    assert pg_durable("install", "--dsn", database.dsn).status == 0
    checked = pg_durable("check", PG_DURABLE_DSN=database.dsn)
    assert checked.status == 0, checked.errors
    assert "schema df       current" in checked.output
    assert pg_durable("uninstall", "--yes", DATABASE_URL=database.dsn).status == 0
    assert contents(database) == before


def test_upgrade_needs_something_to_upgrade(database: Database) -> None:
    missing = pg_durable("upgrade", "--dsn", database.dsn)
    assert missing.status == 5
    assert "To fix it: run `pg-durable install`" in missing.errors
    installed = pg_durable("install", "--dsn", database.dsn)
    upgraded = pg_durable("upgrade", "--dsn", database.dsn)
    assert (upgraded.status, upgraded.output) == (0, installed.output)


def test_uninstall_without_an_answer_removes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    install.install(database.dsn)
    done = pg_durable("uninstall", "--dsn", database.dsn)
    assert done.status == 1
    assert "nothing was removed" in done.errors
    assert pg_durable("check", "--dsn", database.dsn).status == 0


@pytest.mark.parametrize(("answer", "status"), [("n", 0), ("y", 5)])
def test_uninstall_does_what_is_answered(
    database: Database, monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    install.install(database.dsn)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{answer}\n"))
    pg_durable("uninstall", "--dsn", database.dsn)
    assert pg_durable("check", "--dsn", database.dsn).status == status


def test_unfinished_workflows_are_removed_by_force_only(database: Database) -> None:
    install.install(database.dsn)
    with psycopg.connect(database.dsn) as connection:
        connection.execute("select df.start('select 1')")
    done = pg_durable("uninstall", "--yes", "--dsn", database.dsn)
    assert done.status == 7
    assert "1 workflows are not finished" in done.errors
    assert "--force" in done.errors
    assert pg_durable("uninstall", "--yes", "--force", "--dsn", database.dsn).status == 0


def test_the_printed_sql_makes_a_database_that_passes_the_check(database: Database) -> None:
    script = pg_durable("install", "--sql")
    assert script.status == 0
    with psycopg.connect(database.dsn) as connection:
        connection.execute(script.output.encode())
    checked = pg_durable("check", "--dsn", database.dsn)
    assert checked.status == 0, checked.output + checked.errors


def test_check_says_what_somebody_dropped(database: Database) -> None:
    assert pg_durable("install", "--dsn", database.dsn).status == 0
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("drop operator public.~> (text, text)")
    checked = pg_durable("check", "--dsn", database.dsn)
    assert checked.status == 1
    assert "missing         the operator ~> in public" in checked.output
    assert "`pg-durable install` creates operators again" in checked.errors
    assert pg_durable("install", "--dsn", database.dsn).status == 0
    assert pg_durable("check", "--dsn", database.dsn).status == 0


def test_operators_go_to_the_catalog_for_a_superuser_who_asks(database: Database) -> None:
    """They are then found under every search_path; a second time there is nothing to do."""
    refused = pg_durable("install", "--operators-in-pg-catalog", "--dsn", database.dsn)
    assert refused.status != 0
    assert "connect as a superuser" in refused.errors
    superuser = make_conninfo(database.server.admin_dsn, dbname=database.name)
    done = pg_durable("install", "--operators-in-pg-catalog", "--dsn", superuser)
    assert done.status == 0, done.errors
    assert "operators created in pg_catalog: !> & ?> @> | |=> ~>" in done.output
    again = pg_durable("install", "--operators-in-pg-catalog", "--dsn", superuser)
    assert "none were missing" in again.output
    with psycopg.connect(database.dsn) as connection:
        connection.execute("set search_path = ''")
        found = connection.execute("select 'select 1' ~> 'select 2'").fetchone()
    assert found is not None
    both = pg_durable("install", "--sql", "--operators-in-pg-catalog")
    assert both.status == 2


def test_version_names_the_server_if_there_is_one(database: Database) -> None:
    alone = pg_durable("version")
    assert alone.status == 0
    assert "PostgreSQL" not in alone.output
    with_server = pg_durable("version", "--dsn", database.dsn)
    assert "schema df       not installed" in with_server.output


def test_a_setting_out_of_range_is_wrong_usage(database: Database) -> None:
    install.install(database.dsn)
    done = pg_durable("worker", "--dsn", database.dsn, PG_DURABLE_ACTIVITY_LEASE="soon")
    assert done.status == 2
    assert "PG_DURABLE_ACTIVITY_LEASE must be a number, not 'soon'" in done.errors


def contents(database: Database) -> set[tuple[object, ...]]:
    """Return every schema, and every operator and function outside of the catalog."""
    with psycopg.connect(database.dsn) as connection:
        rows = connection.execute(
            "select 'schema', nspname::text from pg_namespace where nspname !~ '^pg_'"
            " union all select 'operator', oid::regoperator::text from pg_operator where oid > 16383"
            " union all select 'function', oid::regprocedure::text from pg_proc where oid > 16383"
        ).fetchall()
    return set(rows)
