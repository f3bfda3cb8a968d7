"""What a step's statements answered: collected within limits, then decoded into a result document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg import pq

from pg_durable.results import Column, row_set
from pg_durable.steps.values import TypeDescription, builtin, converter

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

COUNTED_COMMANDS = frozenset(
    {"INSERT", "UPDATE", "DELETE", "MERGE", "SELECT", "FETCH", "MOVE", "COPY"}
)


class ResultTooLarge(Exception):
    """A result exceeds a limit; `str()` says which and what to do instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultLimits:
    rows: int = 100_000
    bytes: int = 16 * 1024 * 1024  # of the result document


@dataclass(slots=True)
class Statement:
    """The answer to one statement."""

    returns_rows: bool = False
    columns: tuple[tuple[str, int], ...] = ()  # name and type
    rows: list[tuple[bytes | None, ...]] = field(default_factory=list)
    tag: str | None = None

    @property
    def command(self) -> str | None:
        words = (self.tag or "").rstrip("0123456789 ")
        return words or None

    @property
    def is_ascii(self) -> bool:
        """Whether names and values are the same in every encoding."""
        names = all(name.isascii() for name, _ in self.columns)
        return names and all(
            value.isascii() for row in self.rows for value in row if value is not None
        )

    @property
    def affected(self) -> int | None:
        last = (self.tag or "").rpartition(" ")[2]
        return int(last) if self.command in COUNTED_COMMANDS and last.isdigit() else None


class Answers:
    """Takes results as they arrive and keeps the answer that the step is about.

    That is the answer of the last statement that returned rows, else of the last statement.
    """

    def __init__(self, limits: ResultLimits, *, skip: int) -> None:
        self._limits = limits
        self._skip = skip  # how many statements of our own come first
        self._current = Statement()
        self._bytes = 0
        self.kept = Statement()

    @property
    def has_to_skip(self) -> bool:
        """Whether statements of ours have not been answered yet."""
        return self._skip > 0

    def rows(self, result: PGresult) -> None:
        """Rows of a statement that may have more.

        Raises:
            ResultTooLarge: too many rows or bytes.
        """
        statement = self._current
        if not statement.returns_rows:
            statement.returns_rows = True
            statement.columns = _columns(result)
        if (
            result.command_status
        ):  # libpq gives it to the last chunk, or to the empty result after it
            statement.tag = result.command_status.decode()
        for row in range(result.ntuples):
            values = tuple(result.get_value(row, column) for column in range(result.nfields))
            self._bytes += sum(len(value) for value in values if value is not None)
            statement.rows.append(values)
        if len(statement.rows) > self._limits.rows:
            raise ResultTooLarge(
                f"the result has more than {self._limits.rows} rows (max_result_rows); "
                "write to a table instead, or return fewer rows"
            )
        if self._bytes > self._limits.bytes:
            raise _too_many_bytes(self._limits)

    def finished(self, result: PGresult) -> None:
        """The end of a statement."""
        if self._skip > 0:
            self._skip -= 1
            return
        if result.status == pq.ExecStatus.TUPLES_OK:
            self.rows(result)
        if result.command_status:
            self._current.tag = result.command_status.decode()
        if self._current.returns_rows or not self.kept.returns_rows:
            self.kept = self._current
        self._current = Statement()
        self._bytes = 0


def unknown_types(statement: Statement) -> list[int]:
    """The types of its columns that have to be looked up in the catalog."""
    return sorted({oid for _, oid in statement.columns if builtin(oid) is None})


def document(
    statement: Statement, types: Mapping[int, TypeDescription], limits: ResultLimits
) -> str:
    """The result document.

    Raises:
        ResultTooLarge: it exceeds the limit on bytes.
    """
    converters = [converter(oid, types) for _, oid in statement.columns]
    rows = (
        [
            "null" if value is None else convert(value.decode(errors="replace"))
            for value, convert in zip(row, converters, strict=True)
        ]
        for row in statement.rows
    )
    columns = [Column(name, _type_name(oid, types)) for name, oid in statement.columns]
    text = row_set(
        columns,
        rows,
        len(statement.rows),
        command=statement.command,
        affected=statement.affected,
    )
    if len(text) > limits.bytes or len(text.encode()) > limits.bytes:
        raise _too_many_bytes(limits)
    return text


def _columns(result: PGresult) -> tuple[tuple[str, int], ...]:
    return tuple(
        ((result.fname(index) or b"").decode(errors="replace"), result.ftype(index))
        for index in range(result.nfields)
    )


def _type_name(oid: int, types: Mapping[int, TypeDescription]) -> str:
    described = builtin(oid) or types.get(oid)
    return "unknown" if described is None else described.name


def _too_many_bytes(limits: ResultLimits) -> ResultTooLarge:
    return ResultTooLarge(
        f"the result is larger than {limits.bytes} bytes (max_result_bytes); "
        "write to a table instead, or return less"
    )
