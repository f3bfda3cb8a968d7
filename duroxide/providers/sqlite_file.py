"""The file of the SQLite store: opened, set up, and brought to the schema of this release."""

from __future__ import annotations

import re
import sqlite3
from importlib import resources
from pathlib import Path
from typing import Literal

from duroxide.errors import ProviderError

SCHEMA_VERSION = 3
# What a version adds to tables that were there before it; new tables come with the whole schema.
_ADDED = {
    3: """
    alter table instances add column suspended_at_ms integer;
    alter table instances add column incarnation text not null default '';
    """
}
BUSY_TIMEOUT_S = 5.0


def open_file(path: Path | None, durability: Literal["normal", "full"]) -> sqlite3.Connection:
    """A connection to the store's file, which is made if it does not exist; None: in memory.

    Raises:
        ProviderError: the file can't be opened, or a newer release has written it.
    """
    try:
        connection = _connect(path)
        try:
            _prepare(connection, path, durability)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        where = path or ":memory:"
        raise ProviderError("start", f"cannot open {where}: {error}", False) from error
    return connection


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    return sqlite3.connect(
        ":memory:" if path is None else path,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )


def _prepare(connection: sqlite3.Connection, path: Path | None, durability: str) -> None:
    connection.execute("pragma journal_mode = wal")
    connection.execute(f"pragma synchronous = {durability}")
    connection.execute("pragma wal_autocheckpoint = 10000")
    connection.execute("pragma cache_size = -64000")
    (version,) = connection.execute("pragma user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise ProviderError(
            "start",
            f"{path} has schema version {version}, this release knows {SCHEMA_VERSION}: "
            "upgrade the package",
            False,
        )
    if version < SCHEMA_VERSION:
        if version == 0:
            _refuse_foreign(connection, path)
        _upgrade(connection, version)


def _schema() -> str:
    return resources.files("duroxide.providers").joinpath("sqlite_schema.sql").read_text()


def _refuse_foreign(connection: sqlite3.Connection, path: Path | None) -> None:
    """Tables of others may be in the file, but not by our names: those of the official SDK, say."""
    connection.execute("begin immediate")  # not while another process makes ours
    try:
        is_new = connection.execute("pragma user_version").fetchone() == (0,)
        there = {name for (name,) in connection.execute("select name from sqlite_master")}
    finally:
        connection.execute("rollback")
    taken = sorted(there.intersection(re.findall(r"create table if not exists (\w+)", _schema())))
    if is_new and taken:
        raise ProviderError(
            "start",
            f"{path} has tables that are not of this package ({', '.join(taken)}), and files of the "
            "official SDK can't be continued here: name another file",
            False,
        )


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    schema = _schema()
    added = "\n".join(text for since, text in _ADDED.items() if 0 < version < since)
    try:
        connection.executescript(
            f"begin immediate;\n{added}\n{schema}\npragma user_version = {SCHEMA_VERSION};\ncommit;"
        )
    except sqlite3.OperationalError:
        if connection.in_transaction:
            connection.execute("rollback")
        if connection.execute("pragma user_version").fetchone() != (SCHEMA_VERSION,):
            raise  # else another process has done it meanwhile
