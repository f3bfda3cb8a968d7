"""Creates, upgrades, checks and removes the schema `df`, and with it the engine's schema.

The owner of a database can do all of it; no superuser and no extension are needed. Errors are those of
`duroxide_pg.errors`: each names what is wrong and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import TypeAlias

import psycopg
from psycopg import sql

from duroxide_pg import lineage, migrate
from duroxide_pg.errors import NotPermitted, SchemaForeign, SchemaMissing
from duroxide_pg.migrate import Migrations, SchemaState, State
from pg_durable import operators

SCHEMA = "df"
ENGINE_SCHEMA = "duroxide"
_REMEDY = "run `pg-durable install`, or call `pg_durable.install.install(dsn)`"

Connection: TypeAlias = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is installed in a database, and what is missing."""

    database: str
    role: str
    server_version: int  # as server_version_num: 160004
    engine: SchemaState
    df: SchemaState
    missing: tuple[str, ...] = ()  # what else is lacking, such as "the operator ~> in public"
    live_workers: int | None = None  # with a heartbeat in the last 15 s; None: may not be asked

    @property
    def complete(self) -> bool:
        current = self.engine.state is State.CURRENT and self.df.state is State.CURRENT
        return current and not self.missing


def migrations() -> Migrations:
    """The revisions of the schema `df`."""
    return Migrations(versions=lineage.versions("pg_durable", "df"), schema=SCHEMA, remedy=_REMEDY)


def install(dsn: str) -> Report:
    """Create both schemas, or bring them to this release; doing it again changes nothing but what is missing.

    Needs a direct connection as the owner of the database, or of the schemas.

    Raises:
        SetupError: one of `duroxide_pg.errors`; nothing was half done, and it can be repeated.
    """
    with migrate.connect(dsn) as connection:
        migrate.require_server(connection)
        _require_ours(connection)
        if migrations().check(connection).state is State.MISSING:
            _require_privileges(connection)
    migrate.upgrade(dsn, ENGINE_SCHEMA)
    migrations().upgrade(dsn)
    with migrate.connect(dsn, for_changes=True) as connection:
        with _permitted():
            operators.create_missing(connection, "public")  # those that somebody dropped
        connection.execute("select pg_notify('df_install', '')")  # workers that wait for the schema
        return _report(connection)


def upgrade(dsn: str) -> Report:
    """Bring an existing installation to this release.

    Raises:
        SchemaMissing: there is none; `install` makes one.
        SetupError: as for `install`.
    """
    with migrate.connect(dsn) as connection:
        migrate.require_server(connection)
        if migrations().check(connection).state is State.MISSING:
            raise SchemaMissing(
                f"the schema {SCHEMA!r} is not installed in database {connection.info.dbname!r}",
                _REMEDY,
            )
    return install(dsn)


def check(dsn: str) -> Report:
    """What is installed and what is missing, without changing anything."""
    with migrate.connect(dsn) as connection:
        migrate.require_server(connection)
        return _report(connection)


def require(dsn: str) -> None:
    """Pass if both schemas are what this release needs.

    Raises:
        SetupError: with its remedy.
    """
    with migrate.connect(dsn) as connection:
        migrate.require_server(connection)
        _require_ours(connection)  # before "not installed", to which the remedy would fail
        for each in (_engine(), migrations()):
            each.require(connection)


def uninstall(dsn: str, *, even_if_unfinished: bool = False) -> None:
    """Drop both schemas with every workflow in them, and the operators in `public`.

    Args:
        even_if_unfinished: also while workflows are pending or running; they are lost.

    Raises:
        SchemaForeign: a schema is not ours.
        NotPermitted: workflows are unfinished, or the role owns too little.
    """
    with migrate.connect(dsn) as connection:
        _require_ours(connection)
        if not even_if_unfinished and migrations().check(connection).state is not State.MISSING:
            _require_finished(connection)
        # The operators in public go with the functions that they call.
        schemas = sql.SQL(", ").join([sql.Identifier(SCHEMA), sql.Identifier(ENGINE_SCHEMA)])
        with _permitted(), connection.transaction():
            connection.execute(sql.SQL("drop schema if exists {} cascade").format(schemas))


def create_catalog_operators(dsn: str) -> tuple[str, ...]:
    """Create those operators in `pg_catalog` that are missing there, and return them.

    They are then found under every `search_path`, as with an extension. `pg_dump` leaves them out: call
    this again after a restore.

    Raises:
        NotPermitted: the role is no superuser.
        SchemaMissing: df is not installed.
    """
    with migrate.connect(dsn) as connection:
        migrations().require(connection)
        if connection.info.parameter_status("is_superuser") != "on":
            raise NotPermitted(
                f"the role {connection.info.user!r} may not create operators in 'pg_catalog'",
                "connect as a superuser; or use the operators of the schemas 'public' and 'df'",
            )
        return operators.create_missing(connection, "pg_catalog")


def render_sql() -> str:
    """The whole installation as one script, for people who apply SQL by hand, in one transaction."""
    engine, df = _engine(), migrations()
    return "\n".join(
        [
            "-- pg-durable: run once in an empty database, as its owner, with ON_ERROR_STOP.",
            "begin;",
            "set local search_path = pg_catalog, pg_temp;",
            f"create schema {ENGINE_SCHEMA};",
            lineage.fill(_revision_files(engine), schema=ENGINE_SCHEMA),
            _version_table(ENGINE_SCHEMA, engine.head()),
            f"create schema {SCHEMA};",
            living_sql(),
            _version_table(SCHEMA, df.head()),
            "commit;",
            "",
        ]
    )


def living_sql() -> str:
    """The statements that make the content of the schema `df` as it is in this release."""
    folder = resources.files("pg_durable") / "sql"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")),
        key=lambda file: file.name,
    )
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def _engine() -> Migrations:
    return migrate.engine_migrations(ENGINE_SCHEMA)


def _revision_files(of: Migrations) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted(of.versions.glob("*.sql")))


def _version_table(schema: str, head: str) -> str:
    table = f"{schema}.{migrate.VERSION_TABLE}"
    return (
        f"create table {table} (version_num varchar(32) not null,"
        f" constraint {migrate.VERSION_TABLE}_pkc primary key (version_num));\n"
        f"insert into {table} (version_num) values ('{head}');"
    )


def _report(connection: Connection) -> Report:
    df = migrations().check(connection)
    return Report(
        database=connection.info.dbname,
        role=connection.info.user,
        server_version=connection.info.server_version,
        engine=_engine().check(connection),
        df=df,
        missing=_missing(connection) if df.state is State.CURRENT else (),
        live_workers=_live_workers(connection) if df.state is State.CURRENT else None,
    )


def _missing(connection: Connection) -> tuple[str, ...]:
    """What somebody dropped, by kind and name."""
    wanted = re.findall(r"^create function df\.(\w+)", living_sql(), re.MULTILINE)
    dropped = connection.execute(
        "select distinct w.name from unnest(%s::text[]) as w (name) where not exists ("
        "  select from pg_proc as p where p.pronamespace = 'df'::regnamespace and p.proname = w.name)"
        " order by w.name",
        [wanted],
    ).fetchall()
    return (
        *(f"the operator {name} in public" for name in operators.missing(connection)),
        *(f"the function df.{name}" for (name,) in dropped),
    )


def _live_workers(connection: Connection) -> int | None:
    row = connection.execute(
        "select (select count(*) from df._workers where last_seen_at > now() - interval '15 s')"
        " where has_table_privilege('df._workers', 'select')"
    ).fetchone()
    return None if row is None else int(str(row[0]))


def _require_ours(connection: Connection) -> None:
    for each in (_engine(), migrations()):
        if each.check(connection).state is State.FOREIGN:
            raise SchemaForeign(
                f"the schema {each.schema!r} exists in database {connection.info.dbname!r} and holds"
                " objects that pg-durable did not create",
                "drop or rename it, or use another database",
            )


def _require_privileges(connection: Connection) -> None:
    row = connection.execute(
        "select has_database_privilege(current_database(), 'create'),"
        " has_schema_privilege(n.oid, 'create') from (select 1) as one"
        " left join pg_namespace as n on n.nspname = 'public'"
    ).fetchone()
    assert row is not None  # one row, by the left join
    database, role = connection.info.dbname, connection.info.user
    may_create_schemas, may_create_operators = row
    if not may_create_schemas:
        statement = sql.SQL("GRANT CREATE ON DATABASE {} TO {}")
        raise NotPermitted(
            f"the role {role!r} may not create schemas in database {database!r}",
            "install as the owner of the database, or have it run `"
            + statement.format(sql.Identifier(database), sql.Identifier(role)).as_string(None)
            + "`",
        )
    if may_create_operators is None:
        raise NotPermitted(
            f"database {database!r} has no schema 'public', where the operators go",
            "create it: `CREATE SCHEMA public`",
        )
    if not may_create_operators:
        statement = sql.SQL("GRANT CREATE ON SCHEMA public TO {}")
        raise NotPermitted(
            f"the role {role!r} may not create operators in the schema 'public'",
            "have its owner run `" + statement.format(sql.Identifier(role)).as_string(None) + "`",
        )


def _require_finished(connection: Connection) -> None:
    with _permitted():
        row = connection.execute(
            "select count(*) from df.instances where status in ('pending', 'running')"
        ).fetchone()
    if row is not None and row != (0,):
        raise NotPermitted(
            f"{row[0]} workflows are not finished and would be lost",
            "wait for them or cancel them, or uninstall with --force",
        )


@contextmanager
def _permitted() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise NotPermitted(
            f"the role lacks a privilege: {error.diag.message_primary}",
            "connect as the owner of the schemas",
        ) from error
