"""Encodings: what a database, a role or the environment says of them changes nothing, or is refused."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from duroxide_pg.errors import SetupError
from pg_durable import install
from tests.fixtures.postgres import Database
from tests.fixtures.workers import worker_thread
from tests.fixtures.workflows import Workflows


def test_a_worker_reads_and_writes_everything_whatever_its_client_encoding(
    database: Database,
) -> None:
    """Its turns were refused by the server, for a character that LATIN1 does not have."""
    identifier = sql.Identifier(database.name)
    database.server.execute(
        sql.SQL("ALTER DATABASE {} SET client_encoding TO LATIN1").format(identifier)
    )
    install.install(database.dsn)
    workflows = Workflows.connect(make_conninfo(database.dsn, client_encoding="UTF8"))
    with workflows.connection, worker_thread(database.dsn):
        result = workflows.finish(
            "'select ''€'' as v' |=> 'r' ~> df.loop(df.break('$r 😀')) |=> 'b' ~> 'select $b as v'"
        )
        assert result["rows"] == [{"v": '"€ 😀"'}]


@pytest.fixture
def latin(database: Database) -> Iterator[str]:
    """A database that can't keep every character."""
    name = f"{database.name}_latin"
    with psycopg.connect(database.dsn) as connection:
        owner = connection.info.user
    database.server.execute(
        sql.SQL(
            "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'LATIN1'"
            " LC_COLLATE 'C' LC_CTYPE 'C'"
        ).format(sql.Identifier(name), sql.Identifier(owner))
    )
    yield make_conninfo(database.dsn, dbname=name)
    database.server.drop_database(name)


def test_a_database_that_can_not_keep_every_text_is_refused(latin: str) -> None:
    with pytest.raises(SetupError, match="has the encoding LATIN1, and UTF8 is needed"):
        install.install(latin)
    assert not install.check(latin).complete
