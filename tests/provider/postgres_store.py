"""One installed schema for a module of tests, emptied before each of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from duroxide_pg import migrate
from tests.fixtures.postgres import PostgresServer

TABLES = [
    "instances",
    "executions_done",
    "history_log",
    "orchestrator_queue",
    "worker_queue",
    "dead_letters",
    "late_cancellations",
    "instance_locks",
    "sessions",
    "kv_store",
    "kv_delta",
    "writers",
    "wake_waiters",
]


@pytest.fixture(scope="module")
def installed_dsn(
    postgres_server: PostgresServer, database_owner: tuple[str, str]
) -> Iterator[str]:
    """A database with the engine's schema in it."""
    name = f"store_{secrets.token_hex(5)}"
    owner, password = database_owner
    postgres_server.execute(
        sql.SQL("create database {} owner {}").format(sql.Identifier(name), sql.Identifier(owner))
    )
    dsn = postgres_server.dsn(user=owner, password=password, dbname=name)
    migrate.upgrade(dsn)
    yield dsn
    postgres_server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def empty(dsn: str, schema: str = migrate.DEFAULT_SCHEMA) -> None:
    tables = sql.SQL(", ").join(sql.Identifier(schema, table) for table in TABLES)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("truncate {}").format(tables))
