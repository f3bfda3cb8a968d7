"""Asking a server one thing at a time."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

Connection = psycopg.Connection[tuple[Any, ...]]


def value(connection: Connection, query: str, *parameters: object) -> Any:
    """Return the first column of the only row."""
    row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None, f"no row: {query}"
    return row[0]


def rows(connection: Connection, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), parameters or None).fetchall()


def refusal(connection: Connection, query: str, *parameters: object) -> psycopg.Error:
    """Return the error that the server answers with."""
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(query.encode(), parameters or None)
    return caught.value


def message(error: psycopg.Error) -> str:
    """Return the server's words, without the context."""
    text = error.diag.message_primary
    assert text is not None
    return text


def start(connection: Connection, workflow: str, **arguments: str | None) -> str:
    """Start the workflow that the SQL expression `workflow` builds and return the id."""
    named = "".join(f", {name} => %s" for name in arguments)
    return str(value(connection, f"select df.start({workflow}{named})", *arguments.values()))


def notices(connection: Connection, query: str, *parameters: object) -> list[str | None]:
    """Return what the server says beside its answer."""
    heard: list[str | None] = []

    def hear(diagnostic: psycopg.errors.Diagnostic) -> None:
        heard.append(diagnostic.message_primary)

    connection.add_notice_handler(hear)
    connection.execute(query.encode(), parameters or None)
    connection.remove_notice_handler(hear)
    return heard
