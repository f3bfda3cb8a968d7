"""Why a step failed: the text that people have always seen, and the facts beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import DiagnosticField

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

_EXCERPT_CHARACTERS = 200
_DETAILS = {
    "sqlstate": DiagnosticField.SQLSTATE,
    "detail": DiagnosticField.MESSAGE_DETAIL,
    "hint": DiagnosticField.MESSAGE_HINT,
    "context": DiagnosticField.CONTEXT,
    "schema": DiagnosticField.SCHEMA_NAME,
    "table": DiagnosticField.TABLE_NAME,
    "column": DiagnosticField.COLUMN_NAME,
    "constraint": DiagnosticField.CONSTRAINT_NAME,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerError:
    """An error that the server reported."""

    message: str
    fields: dict[str, str]  # sqlstate, detail, hint, context ... where the server gave them

    @classmethod
    def of(cls, result: PGresult) -> ServerError:
        def field(which: DiagnosticField) -> str | None:
            value = result.error_field(which)
            return None if value is None else value.decode(errors="replace")

        fields = {key: text for key, which in _DETAILS.items() if (text := field(which))}
        message = field(DiagnosticField.MESSAGE_PRIMARY)
        return cls(message=message or result.get_error_message(), fields=fields)

    @property
    def sqlstate(self) -> str:
        return self.fields.get("sqlstate", "")


class StatementFailed(Exception):
    """The server refused a statement of the step; its transaction is to be rolled back."""

    def __init__(self, error: ServerError, *, is_ours: bool = False) -> None:
        super().__init__(error, is_ours)
        self.error = error
        self.is_ours = is_ours  # rather than the author's

    def __str__(self) -> str:
        return self.error.message


class StepFailed(Exception):
    """The step failed for good and without effect.

    Args:
        message: the text that the node and the instance show.
        details: JSON-compatible facts for the structured error.
    """

    def __init__(self, message: str, details: dict[str, object] | None = None) -> None:
        super().__init__(message, details)
        self.message = message
        self.details = details or {}

    def __str__(self) -> str:
        return self.message

    def data(self, *, node_id: str, query: str | None = None) -> str:
        """The structured error as JSON."""
        facts: dict[str, object] = {"message": self.message, **self.details, "node_id": node_id}
        if query is not None:
            facts["query_excerpt"] = excerpt(query)
        return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def excerpt(query: str) -> str:
    """The beginning of a query, on one line."""
    line = " ".join(query.split())
    return line if len(line) <= _EXCERPT_CHARACTERS else line[: _EXCERPT_CHARACTERS - 1] + "…"


def from_server(error: ServerError, *, hint: str | None = None) -> StepFailed:
    """The failure that the server reported; `hint` is ours, where the server has none."""
    facts = {"hint": hint} if hint else {}
    return StepFailed(
        f"SQL execution failed: error returned from database: {error.message}",
        {**facts, **error.fields},
    )


def from_connection(error: psycopg.Error) -> StepFailed:
    return StepFailed(f"SQL execution failed: {one_line(error)}")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
