"""`pg-durable check` and `version`: what is there, as lines of a name and a value."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version

import psycopg
from rich.console import Console

from duroxide_pg.migrate import SchemaState, State, connect
from pg_durable.embedded import Dsn
from pg_durable.install import Report

LIBRARIES = ("psycopg", "SQLAlchemy", "alembic")


def show_report(report: Report, console: Console) -> None:
    """Print what a database holds."""
    workers = "may not be asked" if report.live_workers is None else str(report.live_workers)
    _show(console, "server", f"PostgreSQL {_dotted(report.server_version)}")
    _show(console, "database", report.database)
    _show(console, "role", report.role)
    _show(console, "schema df", _state(report.df))
    _show(console, "schema duroxide", _state(report.engine))
    for lacking in report.missing:
        _show(console, "missing", lacking)
    if report.df.state is State.CURRENT:
        _show(console, "live workers", workers)


def show_versions(named: Dsn | None, console: Console) -> None:
    """Print versions; those of a server and its schemas too if one is named."""
    _show(console, "pg-durable", version("pg-durable"))
    _show(console, "Python", platform.python_version())
    for library in LIBRARIES:
        _show(console, library, version(library))
    _show(console, "libpq", _dotted(psycopg.pq.version()))
    if named is not None:
        with connect(named.dsn) as connection:
            for name, value in _of_server(connection):
                _show(console, name, value)


def _of_server(connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[tuple[str, str]]:
    yield "PostgreSQL", _dotted(connection.info.server_version)
    row = connection.execute("select to_regprocedure('df.version()') is not null").fetchone()
    if row == (True,):
        answer = connection.execute("select df.version()").fetchone()
        assert answer is not None
        yield "schema df", str(answer[0])
    else:
        yield "schema df", "not installed"


def _state(state: SchemaState) -> str:
    of = "" if state.revision is None else f", revision {state.revision} of {state.head}"
    return f"{state.state.value}{of}"


def _dotted(number: int) -> str:
    major, minor = divmod(number, 10_000)
    return f"{major}.{minor}"


def _show(console: Console, name: str, value: str) -> None:
    console.print(f"{name:<16}{value}", markup=False, soft_wrap=True)
