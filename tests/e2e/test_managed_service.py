"""As on a managed server: nobody is a superuser, one role owns the database, two applications share it.

The owner installs and runs the worker; the applications log in with passwords, and know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.fixtures.commands import pg_durable
from tests.fixtures.postgres import Database
from tests.fixtures.workers import worker_thread
from tests.fixtures.workflows import Workflows

APPLICATIONS = ("shop", "bank")


@pytest.fixture
def owner(database: Database) -> Iterator[Workflows]:
    session = Workflows.connect(database.dsn)
    yield session
    session.connection.close()


@pytest.fixture
def shop_and_bank(
    database: Database, owner: Workflows, tmp_path: Path
) -> Iterator[tuple[Workflows, Workflows]]:
    """Sessions of two applications with a schema each, while a worker runs as the owner."""
    assert pg_durable("install", "--dsn", database.dsn).status == 0
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    for name in APPLICATIONS:
        dsn, role = database.create_role(name), database.role(name)
        owner.connection.execute(
            sql.SQL("create schema {0}; grant all on schema {0} to {1}").format(
                sql.Identifier(name), sql.Identifier(role)
            )
        )
        owner.one("select df.grant_usage(%s)", role)
        with passwords.open("a") as file:
            file.write(f"*:*:*:{role}:{unquote(urlsplit(dsn).password or '')}\n")
    sessions = [Workflows.connect(database.roles[name]) for name in APPLICATIONS]
    with worker_thread(make_conninfo(database.dsn, passfile=str(passwords))):
        yield sessions[0], sessions[1]
    for session in sessions:
        session.connection.close()


def everything_seen(session: Workflows) -> set[str]:
    """Every instance that a role finds, wherever it may look."""
    places = (
        "select id from df.instances",
        "select instance_id from df.nodes",
        "select instance_id from df.list_instances(null, 1000)",
        "select instance_id from df.list_instances(null, 1000, null)",
    )
    return {str(row[0]) for query in places for row in session.all(query)}


def test_two_applications_share_a_database_and_nothing_else(
    database: Database, owner: Workflows, shop_and_bank: tuple[Workflows, Workflows]
) -> None:
    for role in (owner.connection.info.user, *(database.role(name) for name in APPLICATIONS)):
        assert owner.all(
            "select rolsuper, rolbypassrls, rolcreaterole from pg_roles where rolname = %s", role
        ) == [(False, False, False)]
    started = {}
    for name, session in zip(APPLICATIONS, shop_and_bank, strict=True):
        session.run(f"create table {name}.ledger (n integer, who text default session_user)")
        session.one("select df.setvar('n', %s)", str(len(name)))
        started[name] = [
            session.one(
                "select df.start(%s ~> df.wait_for_signal('go') ~> %s, %s::jsonb)",
                f"insert into {name}.ledger values ({{n}})",
                f"select who, n from {name}.ledger",
                '{"idempotency_key": "daily"}',
            ),
            session.start(
                "'select count(*) from shop.ledger' & 'select count(*) from bank.ledger'"
            ),
        ]
    for name, session in zip(APPLICATIONS, shop_and_bank, strict=True):
        paying, nosy = started[name]
        session.one("select df.signal(%s, 'go')", paying)
        assert session.wait(paying) == "completed"
        assert session.one("select df.result(%s)::jsonb -> 'rows'", paying) == [
            {"who": database.role(name), "n": len(name)}
        ]
        assert session.wait(nosy) == "failed"
        assert "permission denied for schema" in session.error(nosy)
        assert everything_seen(session) == set(started[name])
    assert everything_seen(owner) == {*started["shop"], *started["bank"]}


REFUSED = {
    "df.signal('{theirs}', 'go')": "XX000",
    "df.cancel('{theirs}')": "XX000",
    "df.pause('{theirs}')": "XX000",
    "df.await_instance('{theirs}', 1)": "22000",
    "df.metrics()": "42501",
    "df.grant_usage('public')": "42501",
    "count(*) from df._snapshots": "42501",
    "count(*) from duroxide.instances": "42501",
    "count(*) from duroxide.history": "42501",
}


def test_an_application_can_neither_steer_nor_read_nor_remove_what_is_the_others(
    database: Database, shop_and_bank: tuple[Workflows, Workflows]
) -> None:
    shop, bank = shop_and_bank
    theirs = bank.start("df.wait_for_signal('go')")
    for call, state in REFUSED.items():
        with pytest.raises(psycopg.Error) as caught:
            shop.one("select " + call.format(theirs=theirs))
        assert (call, caught.value.sqlstate) == (call, state)
    assert shop.all("select df.status(%s), df.result(%s), df.error(%s)", *[theirs] * 3) == [
        (None, None, None)
    ]
    removed = pg_durable("uninstall", "--yes", "--force", "--dsn", database.roles["shop"])
    assert removed.status == 7, removed.errors
    assert pg_durable("check", "--dsn", database.dsn).status == 0
    assert bank.status(theirs) in ("pending", "running")
