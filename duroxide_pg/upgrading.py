"""Migrations run by Alembic, which only this module of the library imports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from duroxide_pg import lineage, migrate
from duroxide_pg.errors import NotPermitted, SetupError


def configuration(versions: Path, schema: str, connection: sa.Connection | None = None) -> Config:
    """Alembic's configuration for one folder of revisions and the schema that they build."""
    config = Config(attributes={"connection": connection, "schema": schema})
    config.set_main_option("script_location", _escaped(lineage.environment()))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", _escaped(versions))
    return config


def upgrade_to_head(dsn: str, versions: Path, schema: str) -> None:
    """Run the revisions that are missing; the caller holds the lock.

    Raises:
        NotPermitted: the role may not.
        SetupError: the server can't, or not now.
    """
    with _engine(dsn) as engine, _permitted(schema), engine.connect() as connection:
        command.upgrade(configuration(versions, schema, connection), "head")


def open_for_changes(dsn: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection for SQLAlchemy, with the settings of one that changes a schema."""
    connection = psycopg.connect(dsn, client_encoding="UTF8")
    migrate.settle(connection)
    connection.commit()
    return connection


@contextmanager
def _engine(dsn: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: open_for_changes(dsn), poolclass=sa.NullPool
    )
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _permitted(schema: str) -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, sa.exc.DBAPIError) as error:
        origin = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        match origin:
            case psycopg.errors.InsufficientPrivilege():
                raise NotPermitted(
                    f"the role may not create or change the schema {schema!r}: {_words(origin)}",
                    "connect as the owner of the database or of the schema, or have it run "
                    "`grant create on database ... to ...`",
                ) from error
            case psycopg.errors.ReadOnlySqlTransaction():
                raise SetupError(
                    f"the server takes no changes, as a standby: {_words(origin)}",
                    "connect to the primary; target_session_attrs=read-write finds it among several hosts",
                ) from error
            case psycopg.OperationalError():  # a lock, the disk, the connection
                raise SetupError(
                    f"the schema {schema!r} could not be created or changed: {_words(origin)}",
                    "do what that asks for, and run it again: each revision is made whole or not at all",
                ) from error
        raise


def _words(error: psycopg.Error) -> str:
    return error.diag.message_primary or " ".join(str(error).split())


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")  # ConfigParser would interpolate it
