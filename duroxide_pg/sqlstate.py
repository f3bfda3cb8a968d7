"""What a SQLSTATE means for the caller: try again, or give up."""

from __future__ import annotations

from enum import Enum

import psycopg


class Verdict(Enum):
    RETRY = "retry"  # the server or the network; the same call may work later
    AGAIN = "again"  # somebody was in the way; the same call will work now
    SCHEMA = "schema"  # our own statement does not fit the schema: gone, or not what we know
    REFUSE = "refuse"  # the data can't be stored; it never will be


_AGAIN = frozenset(
    {
        "40001",  # serialization failure: also what our functions raise when the world moved on
        "40P01",  # deadlock
        "0A000",  # cached plan must not change result type
        "26000",  # the prepared statement is gone: a pooler, DISCARD ALL
    }
)
_SCHEMA = frozenset({"3F000"})
_RETRY_CLASSES = frozenset(
    {
        "08",  # the connection
        "25",  # a server that takes no changes now
        "28",  # logging in
        "3D",  # a database that is being restored
        "40",
        "53",  # no space, no memory, no connection
        "55",  # a lock that did not come
        "57",  # an operator, or a time-out
        "58",  # the machine
        "72",  # a snapshot that is too old
        "F0",
        "HV",  # another server, behind a hook
        "XX",
    }
)
_GIVEN_UP = "PD003"  # our own: another number of the batch is to be tried


def verdict(error: psycopg.Error) -> Verdict:
    """Judge an error of one of our own statements.

    What is neither the server's trouble nor the schema's is said of the data: by a type, a constraint, a
    trigger of somebody's, or a commit hook with a code of its own.
    """
    state = error.sqlstate
    if state is None:
        # The client library itself: data that it can't send, or a connection that it lost.
        is_data = isinstance(error, psycopg.DataError | psycopg.ProgrammingError)
        return Verdict.REFUSE if is_data else Verdict.RETRY
    if state in _AGAIN:
        return Verdict.AGAIN
    if state.startswith("42") or state in _SCHEMA:
        return Verdict.SCHEMA
    if state[:2] in _RETRY_CLASSES or state == _GIVEN_UP:
        return Verdict.RETRY
    return Verdict.REFUSE


def is_lost(error: psycopg.Error) -> bool:
    """Whether there is no answer: the statement may have been carried out, or may be still."""
    state = error.sqlstate
    return state is None or state.startswith(("08", "57P"))


def remedy_of(error: psycopg.Error) -> str:
    """What to do where the server does not say so: to be added to its words, or nothing."""
    if error.sqlstate == "54000" and "index row" in str(error):
        return "; instance ids, sessions and keys of key-values are indexed: keep each below 1,000 bytes"
    return ""
