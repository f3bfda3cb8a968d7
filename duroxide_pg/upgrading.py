"""Migrations run by Alembic, which only this module of the library imports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from duroxide_pg import lineage
from duroxide_pg.errors import NotPermitted


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
    """
    with _engine(dsn) as engine, _permitted(schema), engine.connect() as connection:
        command.upgrade(configuration(versions, schema, connection), "head")


@contextmanager
def _engine(dsn: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(dsn, client_encoding="UTF8"),
        poolclass=sa.NullPool,
    )
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _permitted(schema: str) -> Iterator[None]:
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, sa.exc.ProgrammingError) as error:
        origin = error.orig if isinstance(error, sa.exc.ProgrammingError) else error
        if not isinstance(origin, psycopg.errors.InsufficientPrivilege):
            raise
        raise NotPermitted(
            f"the role may not create or change the schema {schema!r}: "
            f"{origin.diag.message_primary}",
            "connect as the owner of the database or of the schema, or have it run "
            "`grant create on database ... to ...`",
        ) from error


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")  # ConfigParser would interpolate it
