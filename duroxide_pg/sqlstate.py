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
_REFUSE_CLASSES = frozenset(
    {
        "22",  # data that a type can't hold
        "23",  # a constraint
        "54",  # larger than the server can take
        # What a commit hook, or a trigger of somebody's, says of an item: the others must not wait for it.
        "21",
        "2F",
        "38",
        "39",
        "44",
        "P0",
    }
)


def verdict(error: psycopg.Error) -> Verdict:
    """Judge an error of one of our own statements; what we do not know may be tried again."""
    state = error.sqlstate
    if state is None:
        # The client library itself: data that it can't send, or a connection that it lost.
        is_data = isinstance(error, psycopg.DataError | psycopg.ProgrammingError)
        return Verdict.REFUSE if is_data else Verdict.RETRY
    if state in _AGAIN:
        return Verdict.AGAIN
    if state.startswith("42") or state in _SCHEMA:
        return Verdict.SCHEMA
    if state[:2] in _REFUSE_CLASSES:
        return Verdict.REFUSE
    return Verdict.RETRY


def remedy_of(error: psycopg.Error) -> str:
    """What to do where the server does not say so: to be added to its words, or nothing."""
    if error.sqlstate == "54000" and "index row" in str(error):
        return "; instance ids, sessions and keys of key-values are indexed: keep each below 1,000 bytes"
    return ""
