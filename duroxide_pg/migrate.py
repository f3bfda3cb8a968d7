"""Migrations, run inside the process: one line of revisions per schema, recorded in that schema.

Two processes that start together take turns under an advisory lock. A schema that a later release
has migrated is refused, and so is one that is somebody else's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psycopg

from duroxide.storable import flaw_of
from duroxide_pg import lineage
from duroxide_pg.errors import (
    CannotConnect,
    MigrationBusy,
    NotPermitted,
    SchemaForeign,
    SchemaMissing,
    SchemaTooNew,
    ServerTooOld,
    SetupError,
)

VERSION_TABLE = "_alembic_version"
OLDEST_SERVER = 14
DEFAULT_SCHEMA = "duroxide"
LONGEST_NAME = 63  # bytes; what is longer is cut off without an error
_LOCK_POLL_S = 0.1
_SESSION = {  # of a session that changes a schema, whatever the defaults of its role and database are
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "idle_session_timeout": "0",  # the one that holds the lock has nothing to do meanwhile
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
}


class State(Enum):
    MISSING = "missing"  # no schema, or an empty one
    BEHIND = "behind"
    CURRENT = "current"
    NEWER = "newer"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaState:
    state: State
    revision: str | None  # of the database
    head: str  # of this release


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrations:
    """A folder of revisions and the schema that they build."""

    versions: Path
    schema: str
    remedy: str  # what a person runs to upgrade, worded to end a sentence: "run `...`"

    def head(self) -> str:
        """The revision that this release needs."""
        return lineage.chain(self.versions)[-1]

    def check(self, connection: psycopg.Connection[tuple[object, ...]]) -> SchemaState:
        """What the schema is, without changing anything."""
        head = self.head()
        revision = self._revision(connection)
        if revision is None:
            foreign = _has_relations(connection, self.schema)
            state = State.FOREIGN if foreign else State.MISSING
        elif revision == head:
            state = State.CURRENT
        else:
            known = lineage.chain(self.versions)
            state = State.BEHIND if revision in known else State.NEWER
        return SchemaState(state=state, revision=revision, head=head)

    def require(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        """Pass if the schema is what this release needs.

        Raises:
            ServerTooOld, SchemaMissing, SchemaTooNew, SchemaForeign: each with its remedy.
        """
        require_server(connection)
        found = self.check(connection)
        if found.state is State.MISSING:
            raise SchemaMissing(
                f"the schema {self.schema!r} is not installed in database {_database(connection)!r}",
                self.remedy,
            )
        if found.state is State.BEHIND:
            raise SchemaMissing(
                f"the schema {self.schema!r} is at revision {found.revision}, "
                f"this release needs {found.head}",
                self.remedy,
            )
        self.refuse_strangers(found)

    def upgrade(self, dsn: str, *, wait_s: float = 60.0) -> SchemaState:
        """Bring the schema to `head()`, creating it if need be; safe to call from many processes.

        Needs a direct connection: a transaction-pooling proxy can't hold the lock.

        Args:
            wait_s: how long to wait for somebody else who is migrating.

        Raises:
            SetupError: one of `duroxide_pg.errors`, with its remedy.
        """
        from duroxide_pg.upgrading import upgrade_to_head  # Alembic, which workers do without

        with connect(dsn, for_changes=True) as probe:
            require_unicode(probe)
            with exclusive(probe, self.schema, wait_s=wait_s):
                found = self.check(probe)
                self.refuse_strangers(found)
                if found.state is State.CURRENT:
                    return found
                upgrade_to_head(dsn, self.versions, self.schema)
                return self.check(probe)

    def refuse_strangers(self, found: SchemaState) -> None:
        """Pass unless a later release migrated the schema, or it is somebody else's.

        Raises:
            SchemaTooNew, SchemaForeign: each with its remedy.
        """
        if found.state is State.NEWER:
            raise SchemaTooNew(
                f"the schema {self.schema!r} is at revision {found.revision}, which is newer than "
                f"this release ({found.head})",
                "upgrade pg-durable in this process, or use another schema",
            )
        if found.state is State.FOREIGN:
            raise SchemaForeign(
                f"the schema {self.schema!r} exists and holds objects that pg-durable did not create",
                "drop or rename it, or use another schema or database",
            )

    def _revision(self, connection: psycopg.Connection[tuple[object, ...]]) -> str | None:
        table = psycopg.sql.Identifier(self.schema, VERSION_TABLE)
        question = "select to_regclass(%s)"
        try:
            if connection.execute(question, [table.as_string(None)]).fetchone() == (None,):
                return None
            row = connection.execute(
                psycopg.sql.SQL("select version_num from {}").format(table)
            ).fetchone()
        except psycopg.errors.InsufficientPrivilege as error:
            raise NotPermitted(
                f"the role {connection.info.user!r} may not use the schema {self.schema!r}: "
                f"{error.diag.message_primary}",
                "connect as the owner of the schema, or as a role that is a member of it",
            ) from error
        return None if row is None else str(row[0])


def engine_migrations(schema: str = DEFAULT_SCHEMA) -> Migrations:
    """The revisions of the engine's own tables.

    Raises:
        ValueError: no schema can have that name.
    """
    check_name(schema)
    return Migrations(
        versions=lineage.versions("duroxide_pg", "duroxide"),
        schema=schema,
        remedy="run `pg-durable install`, or call `duroxide_pg.migrate.upgrade(dsn)`",
    )


def check_name(schema: str) -> None:
    """Pass if a schema can have that name, all of it.

    Raises:
        ValueError: it can't.
    """
    flaw = flaw_of(schema)
    if not schema or flaw is not None:
        raise ValueError(f"schema {schema!r} {f'contains {flaw}' if schema else 'is empty'}")
    if len(schema.encode()) > LONGEST_NAME:
        raise ValueError(
            f"schema {schema!r} has {len(schema.encode())} bytes; PostgreSQL keeps {LONGEST_NAME} of a name"
        )
    if schema.startswith("pg_"):
        raise ValueError(
            f"schema {schema!r}: PostgreSQL keeps names that begin with pg_ for itself"
        )


def upgrade(dsn: str, schema: str = DEFAULT_SCHEMA) -> SchemaState:
    """Bring the engine's schema to this release; see `Migrations.upgrade`."""
    return engine_migrations(schema).upgrade(dsn)


def check(dsn: str, schema: str = DEFAULT_SCHEMA) -> SchemaState:
    """What the engine's schema is, without changing anything."""
    with connect(dsn) as connection:
        return engine_migrations(schema).check(connection)


def required_revision() -> str:
    """The revision of the engine's schema that this release needs."""
    return engine_migrations().head()


@contextmanager
def connect(
    dsn: str, *, for_changes: bool = False
) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection in autocommit mode.

    Args:
        for_changes: of a schema; it has to be a direct connection then, as its session is changed.

    Raises:
        CannotConnect: with the server's or the client library's own words.
        ServerTooOld: the server is, and `for_changes`.
    """
    try:
        connection = psycopg.connect(
            dsn, autocommit=True, connect_timeout=10, client_encoding="UTF8"
        )
    except psycopg.Error as error:
        raise cannot_connect(error) from error
    with connection:
        if for_changes:
            require_server(connection)
            settle(connection)
        yield connection


def settle(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Set what changes of a schema need for the session, from its next transaction on."""
    connection.execute(
        "select set_config(s.name, n.value, false) from unnest(%s::text[], %s::text[]) as n (name, value)"
        " join pg_catalog.pg_settings as s on s.name = n.name",  # not every release has all of them
        [list(_SESSION), list(_SESSION.values())],
    )


def cannot_connect(error: psycopg.Error) -> CannotConnect:
    words = " ".join(str(error).split()) or type(error).__name__
    return CannotConnect(
        f"cannot connect to PostgreSQL: {words}",
        "check the DSN (host, port, database, user, password) and that the server is running",
    )


def require_server(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Pass if the server is one we support.

    Raises:
        ServerTooOld: it is not.
    """
    version = connection.info.server_version
    if version < OLDEST_SERVER * 10_000:
        raise ServerTooOld(
            f"the server is PostgreSQL {version // 10_000}, at least {OLDEST_SERVER} is needed",
            "upgrade the server or use another one",
        )


def require_unicode(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Pass if the database can keep every text.

    Raises:
        SetupError: it can't.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SetupError(
            f"the database {connection.info.dbname!r} has the encoding {encoding}, and UTF8 is needed",
            "use one that was made with CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'",
        )


@contextmanager
def exclusive(
    connection: psycopg.Connection[tuple[object, ...]], schema: str, *, wait_s: float
) -> Iterator[None]:
    """Hold the migration lock of a schema; it ends with the session at the latest.

    The lock is polled: a session that blocks in it would hold a snapshot, for which
    CREATE INDEX CONCURRENTLY in the session that has the lock would wait for ever.
    """
    key = lock_key(schema)
    deadline = time.monotonic() + wait_s
    while connection.execute("select pg_try_advisory_lock(%s)", [key]).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise MigrationBusy(
                f"another session has been migrating the schema {schema!r} for {wait_s:g} s",
                "wait for it, or end the session that pg_locks shows with this advisory lock",
            )
        time.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute("select pg_advisory_unlock(%s)", [key])


def lock_key(schema: str) -> int:
    """The advisory lock of a schema's migrations: FNV-1a, 64 bits, signed."""
    value = 0xCBF29CE484222325
    for byte in f"duroxide_pg:migrations:{schema}".encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value - 2**64 if value >= 2**63 else value


def _database(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    return connection.info.dbname


def _has_relations(connection: psycopg.Connection[tuple[object, ...]], schema: str) -> bool:
    row = connection.execute(
        "select exists (select from pg_class where relnamespace = n.oid)"
        " or exists (select from pg_proc where pronamespace = n.oid)"
        " from pg_namespace as n where nspname = %s",
        [schema],
    ).fetchone()
    return row == (True,)
