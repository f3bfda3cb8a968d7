"""The engine's schema: how it comes to be, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from duroxide_pg import migrate
from duroxide_pg.errors import CannotConnect, SchemaForeign, SchemaMissing, SchemaTooNew, SetupError
from duroxide_pg.migrate import State
from duroxide_pg.provider import PostgresProvider
from duroxide_pg.queries import schema_script
from duroxide_pg.tables import metadata
from tests.fixtures.postgres import Database

CATALOG = """
select 'table', relname, relkind::text, relpersistence::text, coalesce(reloptions::text, '')
  from pg_class where relnamespace = '{s}'::regnamespace and relkind in ('r', 'v')
union all
select 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || a.attnotnull || a.attidentity::text,
       coalesce(pg_get_expr(d.adbin, d.adrelid), '')
  from pg_attribute a join pg_class c on c.oid = a.attrelid
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where c.relnamespace = '{s}'::regnamespace and a.attnum > 0
union all
select 'index', indexname, replace(indexdef, '{s}.', ''), '', ''
  from pg_indexes where schemaname = '{s}'
union all
select 'function', proname, pg_get_function_identity_arguments(oid),
       replace(pg_get_functiondef(oid), '{s}', ''), coalesce(proacl::text, '')
  from pg_proc where pronamespace = '{s}'::regnamespace
union all
select 'view', viewname, replace(definition, '{s}.', ''), '', ''
  from pg_views where schemaname = '{s}'
union all
select 'comment', c.relname, coalesce(obj_description(c.oid, 'pg_class'), ''), '', ''
  from pg_class c where relnamespace = '{s}'::regnamespace and relkind = 'r'
"""


NO_CHANGES = """
create function public.refuse() returns event_trigger language plpgsql as $$
begin
    raise read_only_sql_transaction;
end $$;
create event trigger no_changes on ddl_command_start execute function public.refuse();
"""


def catalog(connection: psycopg.Connection[Any], schema: str) -> set[tuple[str, ...]]:
    connection.execute("set search_path = pg_catalog")
    rows = connection.execute(CATALOG.replace("{s}", schema).encode()).fetchall()
    return {row for row in rows if migrate.VERSION_TABLE not in str(row)}


def test_a_migration_makes_what_the_living_files_say(database: Database) -> None:
    migrate.upgrade(database.dsn, "first_way")
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("create schema second_way")
        connection.execute(schema_script("second_way").encode())
        one, two = catalog(connection, "first_way"), catalog(connection, "second_way")
    assert len(one) > 100
    assert one == two, "freeze the living files into the newest revision, or write a new one"


def test_the_core_tables_match_the_database(database: Database) -> None:
    migrate.upgrade(database.dsn)
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(database.dsn),
        poolclass=sa.NullPool,
    )
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == "duroxide",
                "include_object": lambda _, name, *__: name != migrate.VERSION_TABLE,
                "compare_server_default": True,
            },
        )
        differences = list(flat(compare_metadata(context, metadata())))
    # Comments are for readers of the database; the Core tables do without.
    assert [d for d in differences if "comment" not in d[0]] == []


def flat(differences: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    for difference in differences:
        yield from difference if isinstance(difference, list) else [difference]


def test_many_processes_may_start_together_on_an_empty_database(database: Database) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: migrate.upgrade(database.dsn), range(6)))
    assert {state.state for state in found} == {State.CURRENT}


def test_defaults_of_the_database_do_not_matter(database: Database) -> None:
    timeouts = ["statement_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"]
    settings = [
        "default_transaction_read_only = on",
        "default_transaction_isolation = serializable",
    ]
    settings += [f"{timeout} = '10s'" for timeout in timeouts]
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for setting in settings:
            connection.execute(f"alter database {database.name} set {setting}".encode())
    assert migrate.upgrade(database.dsn).state is State.CURRENT
    with migrate.connect(database.dsn, for_changes=True) as connection:
        shown = [connection.execute(f"show {timeout}".encode()).fetchone() for timeout in timeouts]
    assert shown == [("0",)] * 3


def test_a_server_that_takes_no_changes_is_named(database: Database) -> None:
    """As a standby does: there, too, no setting of the session helps."""
    with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
        connection.execute(NO_CHANGES)
    with pytest.raises(SetupError, match=r"takes no changes.*read-write"):
        migrate.upgrade(database.dsn)


def test_schemas_are_independent(database: Database) -> None:
    migrate.upgrade(database.dsn, "tenant_a")
    assert migrate.check(database.dsn, "tenant_a").state is State.CURRENT
    assert migrate.check(database.dsn, "tenant_b").state is State.MISSING


def test_an_empty_schema_made_by_somebody_else_is_used(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("create schema duroxide")
    assert migrate.upgrade(database.dsn).state is State.CURRENT


def test_a_schema_with_other_objects_is_refused_untouched(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("create schema duroxide; create table duroxide.instances (x int)")
        with pytest.raises(SchemaForeign, match="did not create"):
            migrate.upgrade(database.dsn)
        assert connection.execute(
            "select count(*) from pg_tables where schemaname = 'duroxide'"
        ).fetchone() == (1,)


def test_a_newer_schema_is_refused_by_migration_and_by_start(database: Database) -> None:
    migrate.upgrade(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("update duroxide._alembic_version set version_num = '9999'")
    with pytest.raises(SchemaTooNew, match="9999"):
        migrate.upgrade(database.dsn)
    with pytest.raises(SchemaTooNew):
        asyncio.run(PostgresProvider(database.dsn).start())


def test_a_missing_schema_is_named_with_its_remedy(database: Database) -> None:
    with pytest.raises(SchemaMissing, match="pg-durable install"):
        asyncio.run(PostgresProvider(database.dsn).start())


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotConnect, match="check the DSN"):
        migrate.upgrade(f"host={tmp_path} dbname=nowhere")


def test_a_temporary_table_is_not_taken_for_ours(database: Database) -> None:
    dsn = psycopg.conninfo.make_conninfo(database.dsn, options="-c search_path=pg_temp,public")
    assert migrate.upgrade(dsn).state is State.CURRENT
    with psycopg.connect(database.dsn) as connection:
        row = connection.execute("select to_regclass('duroxide.instances') is not null").fetchone()
    assert row == (True,)
