"""DSNs, checked before use so that nothing of them is repeated.

The client library quotes a DSN that it can't read in its message, password included; and a password
with an unescaped `/` or `@` turns into a port or a host, which the message about those quotes. So a
DSN is looked at here first, and what is said about it never repeats a value of it.
"""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from duroxide_pg.errors import CannotConnect

FORM = "postgresql://user:password@host:port/database or 'host=... dbname=... user=...'"
ESCAPES = "in a URL write special characters percent-encoded (@ is %40, / is %2F)"

# What libpq's message begins with, and what we say instead.
REASONS = {
    "missing": "it is neither a URL nor a list of key=value",
    "invalid connection option": "one of its options has a name that PostgreSQL doesn't know",
    "invalid URI query parameter": "a parameter after its '?' has a name that PostgreSQL doesn't know",
    "invalid percent-encoded token": "a '%' in it is not followed by two hexadecimal digits",
    "forbidden value %00": "it holds a %00",
    "unterminated quoted string": "a quote in it is not closed",
    "end of string reached": "a '[' in it is not closed",
}


def check_dsn(dsn: str, origin: str) -> None:
    """Pass if the client library can read `dsn`, whether or not anything answers there.

    Args:
        origin: where it was named, for the message: "--dsn" or a variable.

    Raises:
        CannotConnect: it can't be read; the message repeats nothing of it.
    """
    reason = _unreadable(dsn)
    if reason is not None:
        raise CannotConnect(
            f"the DSN in {origin} can't be read: {reason}", f"use {FORM}; {ESCAPES}"
        )


def with_database(dsn: str, database: str) -> str:
    """Return `dsn` for another database of the same server."""
    return make_conninfo(dsn, dbname=database)


def _unreadable(dsn: str) -> str | None:
    try:
        parameters = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        said = str(error)
        return next(
            (ours for prefix, ours in REASONS.items() if said.startswith(prefix)),
            "it has another form than a DSN",
        )
    port = str(parameters.get("port") or "")
    if port and not port.replace(",", "").isdigit():
        return "its port is not a number"
    if "@" in str(parameters.get("host") or "")[1:]:  # an abstract socket begins with @
        return "its host has an '@' in it"
    return None
