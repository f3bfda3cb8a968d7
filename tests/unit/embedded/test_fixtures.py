"""What a test may rely on when it takes `database`."""

from __future__ import annotations

import psycopg
import pytest

from tests.fixtures.postgres import Database, PostgresServer

seen: set[str] = set()


@pytest.mark.parametrize("_time", range(2))
def test_every_test_gets_an_empty_database_that_it_owns(database: Database, _time: int) -> None:
    assert database.name not in seen
    seen.add(database.name)
    with psycopg.connect(database.dsn) as connection:
        mine = (
            "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|inf)'"
        )
        assert connection.execute(mine).fetchone() == (0,)
        rights = (
            "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = USER"
        )
        assert connection.execute(rights).fetchone() == (False,)
        connection.execute("CREATE SCHEMA mine CREATE TABLE kept (id int)")


def test_roles_have_names_of_their_own_and_reach_the_database(database: Database) -> None:
    with psycopg.connect(database.create_role("alice")) as connection:
        assert connection.execute("SELECT USER::text").fetchone() == (database.role("alice"),)
    with pytest.raises(psycopg.OperationalError, match="is not permitted to log in"):
        psycopg.connect(database.create_role("group", login=False))


def test_a_superuser_is_at_hand_for_what_needs_one(database: Database) -> None:
    with psycopg.connect(database.superuser_dsn) as connection:
        asked = connection.execute("SELECT current_database(), current_setting('is_superuser')")
        assert asked.fetchone() == (database.name, "on")


def test_databases_and_roles_of_past_tests_are_gone(postgres_server: PostgresServer) -> None:
    assert seen
    left = "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles"
    names = {str(name) for (name,) in postgres_server.admin.execute(left)}
    assert not [name for name in names if any(past in name for past in seen)]
