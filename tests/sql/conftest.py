"""One database with df installed, shared by the tests of this folder; each looks at its own instances."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from pg_durable import install
from tests.fixtures.postgres import Database, PostgresServer
from tests.sql.sessions import Connection


@pytest.fixture(scope="session")
def installed(
    postgres_server: PostgresServer, database_owner: tuple[str, str]
) -> Iterator[Database]:
    """df, installed by the owner; roles alice and bob may use it, stranger may not."""
    name = f"df_{secrets.token_hex(5)}"
    owner, password = database_owner
    postgres_server.execute(
        sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(
            sql.Identifier(name), sql.Identifier(owner)
        )
    )
    dsn = postgres_server.dsn(user=owner, password=password, dbname=name)
    created = Database(postgres_server, name, dsn)
    install.install(dsn)
    for role in ("alice", "bob", "stranger"):
        created.create_role(role)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for role in ("alice", "bob"):
            connection.execute("select df.grant_usage(%s)", [created.role(role)])
    yield created
    postgres_server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    for role in created.roles:
        postgres_server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(created.role(role))))


def _session(dsn: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def owner(installed: Database) -> Iterator[Connection]:
    yield from _session(installed.dsn)


@pytest.fixture
def alice(installed: Database) -> Iterator[Connection]:
    yield from _session(installed.roles["alice"])


@pytest.fixture
def alice_again(installed: Database) -> Iterator[Connection]:
    yield from _session(installed.roles["alice"])


@pytest.fixture
def bob(installed: Database) -> Iterator[Connection]:
    yield from _session(installed.roles["bob"])


@pytest.fixture
def stranger(installed: Database) -> Iterator[Connection]:
    yield from _session(installed.roles["stranger"])


@pytest.fixture
def superuser(installed: Database) -> Iterator[Connection]:
    yield from _session(installed.superuser_dsn)
