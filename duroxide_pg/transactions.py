"""Sending inside a transaction that the caller owns, whatever library his connection is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import pq

from duroxide.errors import ClientError
from duroxide.providers.base import Message
from duroxide_pg.lineage import quoted


def send(connection: Any, schema: str, messages: Sequence[Message]) -> None:
    """Through a psycopg `Connection`, or a `Connection` or `Session` of SQLAlchemy with any driver."""
    match connection:
        case psycopg.Connection():
            _check(connection)
            psycopg.Cursor(connection).execute(_psycopg(schema), _columns(messages))
        case _ if _is_of_sqlalchemy(connection, "Connection", "Session"):
            connection.execute(*_sqlalchemy(schema, messages))
        case _:
            raise _unusable(connection, "a psycopg Connection, or a Connection or Session")


async def send_async(connection: Any, schema: str, messages: Sequence[Message]) -> None:
    """Through a psycopg `AsyncConnection`, or an `AsyncConnection` or `AsyncSession` of SQLAlchemy."""
    match connection:
        case psycopg.AsyncConnection():
            _check(connection)
            await psycopg.AsyncCursor(connection).execute(_psycopg(schema), _columns(messages))
        case _ if _is_of_sqlalchemy(connection, "AsyncConnection", "AsyncSession"):
            await connection.execute(*_sqlalchemy(schema, messages))
        case _:
            raise _unusable(
                connection, "a psycopg AsyncConnection, or an AsyncConnection or AsyncSession"
            )


def _is_of_sqlalchemy(connection: object, *names: str) -> bool:
    """Whether it is one of these classes, or made from one; without importing what he may not use."""
    return any(
        cls.__name__ in names and cls.__module__.partition(".")[0] == "sqlalchemy"
        for cls in type(connection).__mro__
    )


def _check(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    is_idle = connection.info.transaction_status == pq.TransactionStatus.IDLE
    if connection.autocommit and is_idle:
        raise ClientError("no transaction is open on the connection: begin one first")


def _columns(messages: Sequence[Message]) -> tuple[list[str], list[int], list[str]]:
    return (
        [message.instance_id for message in messages],
        [int(message.kind) for message in messages],
        [message.body for message in messages],
    )


def _psycopg(schema: str) -> bytes:
    name = quoted(schema).replace("%", "%%")  # that is no parameter
    return f"select {name}.send_many_v1(%s::text[], %s::smallint[], %s::text[])".encode()


def _sqlalchemy(schema: str, messages: Sequence[Message]) -> tuple[Any, dict[str, Any]]:
    import sqlalchemy as sa  # its user has it

    name = quoted(schema).replace(":", "\\:")
    statement = sa.text(
        f"select {name}.send_many_v1("
        "cast(:instances as text[]), cast(:kinds as smallint[]), cast(:bodies as text[]))"
    )
    return statement, dict(zip(("instances", "kinds", "bodies"), _columns(messages), strict=True))


def _unusable(connection: Any, usable: str) -> TypeError:
    kind = type(connection)
    return TypeError(
        f"{usable} of SQLAlchemy can be used here, not {kind.__module__}.{kind.__qualname__}"
    )
