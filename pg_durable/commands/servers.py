"""The database that `demo` and `dev` use: in a private server, or in one that somebody else runs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from duroxide_pg.errors import NotPermitted
from duroxide_pg.migrate import connect, require_server
from pg_durable.commands.dsn import check_dsn, with_database
from pg_durable.commands.problems import CommandFailed, ExitStatus
from pg_durable.embedded import Dsn, embedded_server, find_dsn, psql_path

SCRATCH_PREFIX = "pg_durable_demo_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A database to work in."""

    dsn: str = field(repr=False)
    server: str  # in words: "PostgreSQL 16.14, private, in /srv/dev"
    psql: Path | None = None  # of a private server; None: whatever the user has
    leftovers: tuple[str, ...] = ()  # scratch databases that earlier demos could not drop


def named_server(dsn: str | None, *, private: bool = False) -> Dsn | None:
    """Return the server that `--dsn` or the environment names, checked; None for a private one.

    Raises:
        CannotConnect: what is named can't be read as a DSN.
    """
    named = None if private else find_dsn(dsn)
    if named is not None:
        check_dsn(named.dsn, named.origin)
    return named


def required_server(dsn: str | None) -> Dsn:
    """Return the server that `--dsn` or the environment names.

    Raises:
        CannotConnect: what is named can't be read as a DSN.
        CommandFailed: none is named.
    """
    named = named_server(dsn)
    if named is None:
        raise CommandFailed(
            "no database is named",
            "pass --dsn postgresql://user@host/database, or set PG_DURABLE_DSN",
            ExitStatus.USAGE,
        )
    return named


@contextmanager
def scratch_target(named: Dsn | None) -> Iterator[Target]:
    """Yield a database that exists only in this block: nothing else is touched."""
    if named is None:
        with embedded_server(throwaway=True) as server:
            yield Target(
                dsn=server.dsn,
                server=f"PostgreSQL {server.version}, private, in a temporary folder",
                psql=psql_path(server.bindir),
            )
    else:
        with _scratch_database(named) as target:
            yield target


@contextmanager
def private_target(data_dir: Path) -> Iterator[Target]:
    """Yield the database of the private server on `data_dir`."""
    with embedded_server(data_dir) as server:
        yield Target(
            dsn=server.dsn,
            server=f"PostgreSQL {server.version}, private, data in {server.data_dir}",
            psql=psql_path(server.bindir),
        )


def named_target(named: Dsn) -> Target:
    """Return the database that was named, after a look at whether the server will do.

    Raises:
        SetupError: it won't; with the remedy.
    """
    with connect(named.dsn) as connection:
        require_server(connection)
        return Target(dsn=named.dsn, server=_in_words(connection, named))


@contextmanager
def _scratch_database(named: Dsn) -> Iterator[Target]:
    """Yield a new database on a server that is not ours, and drop it, and nothing but it."""
    name = SCRATCH_PREFIX + secrets.token_hex(8)  # nobody else has that name: it may be dropped
    with connect(named.dsn) as connection:
        require_server(connection)
        target = Target(
            dsn=with_database(named.dsn, name),
            server=_in_words(connection, named),
            leftovers=_leftovers(connection),
        )
    try:
        _create_database(named, name)
        yield target
    finally:  # also when a signal came between the server's doing and our knowing
        with connect(named.dsn) as connection:
            connection.execute(
                sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
            )


def _create_database(named: Dsn, name: str) -> None:
    statement = sql.SQL(
        "create database {} template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'"
    ).format(sql.Identifier(name))
    with connect(named.dsn) as connection:
        try:
            connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege as error:
            role = connection.info.user
            raise NotPermitted(
                f"role {role!r} may not create the database that the demo would use",
                f"have an administrator run 'ALTER ROLE \"{role}\" CREATEDB', or run"
                " 'pg-durable demo --private', which starts a PostgreSQL of its own",
            ) from error


def _in_words(connection: psycopg.Connection[tuple[object, ...]], named: Dsn) -> str:
    info = connection.info
    version = info.parameter_status("server_version") or "?"
    return f"PostgreSQL {version} at {info.host}:{info.port}, named by {named.origin}"


def _leftovers(connection: psycopg.Connection[tuple[object, ...]]) -> tuple[str, ...]:
    """Return scratch databases in which nobody is: their demo was killed."""
    rows = connection.execute(
        "select datname from pg_database as d where datname like %s"
        " and not exists (select from pg_stat_activity as a where a.datid = d.oid)"
        " order by datname",
        [SCRATCH_PREFIX.replace("_", r"\_") + "%"],
    ).fetchall()
    return tuple(str(name) for (name,) in rows)
