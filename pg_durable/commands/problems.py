"""What people read when something is wrong, and the exit status that tells a script the same.

Source: docs/reference/errors.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import psycopg

from duroxide.errors import DuroxideError
from duroxide_pg.errors import (
    CannotConnect,
    NotPermitted,
    SchemaForeign,
    SchemaMissing,
    SchemaTooNew,
    ServerTooOld,
    SetupError,
)
from pg_durable.embedded.errors import EmbeddedServerError
from pg_durable.settings import SettingError


class ExitStatus(IntEnum):
    """Promised to scripts: a number keeps its meaning."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANNOT_CONNECT = 3
    SERVER_TOO_OLD = 4
    SCHEMA_MISSING = 5
    SCHEMA_TOO_NEW = 6
    NOT_PERMITTED = 7
    SCHEMA_FOREIGN = 8
    NO_PRIVATE_SERVER = 9
    UNEXPECTED = 70


STATUS_OF_SETUP: dict[type[SetupError], ExitStatus] = {
    CannotConnect: ExitStatus.CANNOT_CONNECT,
    ServerTooOld: ExitStatus.SERVER_TOO_OLD,
    SchemaMissing: ExitStatus.SCHEMA_MISSING,
    SchemaTooNew: ExitStatus.SCHEMA_TOO_NEW,
    NotPermitted: ExitStatus.NOT_PERMITTED,
    SchemaForeign: ExitStatus.SCHEMA_FOREIGN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong and what to do about it, for a person; `status` for a script."""

    status: ExitStatus
    what: str
    remedy: str | None = None  # None: `what` already ends with it

    def __str__(self) -> str:
        remedy = f"\n  To fix it: {self.remedy}" if self.remedy else ""
        return f"pg-durable: {self.what}{remedy}"


class CommandFailed(DuroxideError):
    """A command could not do what it was asked to.

    Args:
        what: the fact, without a full stop.
        remedy: what to do, without a full stop.
    """

    def __init__(
        self, what: str, remedy: str | None = None, status: ExitStatus = ExitStatus.FAILED
    ) -> None:
        super().__init__(what, remedy, status)
        self.what = what
        self.remedy = remedy
        self.status = status

    def __str__(self) -> str:
        return self.what if self.remedy is None else f"{self.what}; {self.remedy}"


def describe(error: Exception) -> Problem:
    """Return what to show for `error`; an error that nobody foresaw says so."""
    match error:
        case SetupError():
            status = STATUS_OF_SETUP.get(type(error), ExitStatus.FAILED)
            return Problem(status=status, what=error.problem, remedy=error.remedy)
        case CommandFailed():
            return Problem(status=error.status, what=error.what, remedy=error.remedy)
        case SettingError():
            return Problem(
                status=ExitStatus.USAGE,
                what=str(error),
                remedy="pg-durable worker --help lists all",
            )
        case EmbeddedServerError():
            return Problem(status=ExitStatus.NO_PRIVATE_SERVER, what=str(error))
        case psycopg.errors.InsufficientPrivilege():
            return Problem(
                status=ExitStatus.NOT_PERMITTED,
                what=_words(error),
                remedy="connect as the owner of the database, or as a role that owner granted it to",
            )
        case psycopg.OperationalError():
            return Problem(
                status=ExitStatus.CANNOT_CONNECT,
                what=f"the connection to PostgreSQL failed: {_words(error)}",
                remedy="check that the server is running and that the DSN is right",
            )
        case DuroxideError():
            return Problem(status=ExitStatus.FAILED, what=str(error))
        case _:
            return Problem(
                status=ExitStatus.UNEXPECTED,
                what=f"unexpected {type(error).__name__}: {error}",
                remedy="run it again with PG_DURABLE_DEBUG=1 for a traceback, and report it",
            )


def _words(error: psycopg.Error) -> str:
    return error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
