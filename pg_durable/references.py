"""What a `$reference` means: the value that it resolves to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pg_durable.results import JsonValue, columns_of, parse, rows_of

MAX_EXPANDED_ROWS = 10_000

_TAILS = r"(?P<tail>\.\*|\.[A-Za-z_][A-Za-z0-9_]*\??|\?|(?![A-Za-z0-9_]))"
# At least one step: `${name}` is a dollar sign before a variable.
_PATH = r"(?P<path>(?:\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]{1,9}\])+)(?P<safe>\??)"
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[([0-9]+)\]")


class SubstitutionError(ValueError):
    """A template can't be filled in.

    Args:
        reference: as written in the template, where one is to blame.
        bound: the names that could have been used.
    """

    def __init__(
        self, message: str, reference: str | None = None, bound: Sequence[str] = ()
    ) -> None:
        super().__init__(message, reference, tuple(bound))
        self.message = message
        self.reference = reference
        self.bound = tuple(bound)

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    text: str  # as written, for messages
    name: str
    tail: str  # "", "?", ".field", ".field?" or ".*"
    path: tuple[str | int, ...] = ()  # of `${name.field[0]}`: members and positions, from 0

    @classmethod
    def of(cls, match: re.Match[str]) -> Reference:
        if match["name"] is not None:
            return cls(text=match[0], name=match["name"], tail=match["tail"])
        path = tuple(
            step[1] if step[2] is None else int(step[2]) for step in _STEP.finditer(match["path"])
        )
        return cls(text=match[0], name=match["owner"], tail=match["safe"], path=path)

    @property
    def strict_text(self) -> str:
        return (
            f"${{{self.text[2:-1].removesuffix('?')}}}"
            if self.path
            else self.text.removesuffix("?")
        )

    @property
    def null_safe(self) -> bool:
        return self.tail.endswith("?")

    @property
    def field(self) -> str | None:
        return self.tail.strip(".?") or None


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value, not null."""

    value: JsonValue


@dataclass(frozen=True, slots=True)
class Document:
    """A whole result document, inserted as its text."""

    text: str


@dataclass(frozen=True, slots=True)
class RowSet:
    name: str
    rows: list[JsonValue]
    columns: tuple[tuple[str, str], ...]  # name and type, where the document names them


@dataclass(frozen=True, slots=True)
class Null:
    pass


Value: TypeAlias = Scalar | Document | RowSet | Null


def finder(names: Iterable[str], *, escapes: bool = False) -> re.Pattern[str]:
    """A pattern that finds references to these names, the longest name first."""
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    alternatives = "|".join(re.escape(name) for name in longest_first)
    escape = r"\\?" if escapes else ""
    return re.compile(
        rf"{escape}\$(?:(?P<name>{alternatives}){_TAILS}|\{{(?P<owner>{alternatives}){_PATH}\}})"
    )


def resolve(reference: Reference, results: Mapping[str, str]) -> Value:
    """The value of a reference to a bound name.

    Raises:
        SubstitutionError: no rows, NULL without `?`, no such field, not a row set.
    """
    try:
        return _resolve(reference, results[reference.name])
    except SubstitutionError as error:
        raise SubstitutionError(
            error.message, reference=reference.text, bound=sorted(results)
        ) from None


def _resolve(reference: Reference, text: str) -> Value:
    try:
        document = parse(text)
    except ValueError as error:
        if reference.tail == ".*":
            raise SubstitutionError(f"{reference.text} — invalid result JSON: {error}") from error
        if reference.field is not None or reference.path:
            raise SubstitutionError(f"{reference.strict_text}: result is not valid JSON") from error
        return Document(text)
    rows = rows_of(document)
    if reference.path:
        return _at_path(reference, document, rows)
    if reference.tail == ".*":
        return _row_set(reference, document, rows)
    if reference.field is not None:
        return _field(reference, reference.field, document, rows)
    return Document(text) if rows is None else _first_value(reference, rows)


def _row_set(reference: Reference, document: JsonValue, rows: list[JsonValue] | None) -> RowSet:
    if rows is None:
        raise SubstitutionError(f"{reference.text} — invalid result format")
    if len(rows) > MAX_EXPANDED_ROWS:
        raise SubstitutionError(
            f"{reference.text} — result has {len(rows)} rows, exceeding the maximum of "
            f"{MAX_EXPANDED_ROWS} for row-set expansion. Use pagination or intermediate tables "
            "for large result sets."
        )
    columns = tuple((column.name, column.type) for column in columns_of(document))
    return RowSet(reference.name, rows, columns)


def _first_value(reference: Reference, rows: list[JsonValue]) -> Value:
    strict = reference.strict_text
    if not rows:
        return _null(reference, f"{strict} has no rows — query returned zero results")
    first = rows[0]
    values = list(first.values()) if isinstance(first, dict) else [first]
    if not values or values[0] is None:
        return _null(reference, f"{strict} is NULL — first column of first row is NULL")
    return Scalar(values[0])


def _field(
    reference: Reference, field: str, document: JsonValue, rows: list[JsonValue] | None
) -> Value:
    strict = reference.strict_text
    if rows is not None and not rows:
        return _null(reference, f"{strict} has no rows — query returned zero results")
    holder = document if rows is None else rows[0]
    if not isinstance(holder, dict):
        raise SubstitutionError(f"{strict}: result is neither a row set nor a JSON object")
    if field not in holder:
        available = ", ".join(sorted(holder))
        return _null(reference, f"{strict}: result has no field '{field}' (available: {available})")
    value = holder[field]
    return _null(reference, f"{strict} is NULL") if value is None else Scalar(value)


def _at_path(reference: Reference, document: JsonValue, rows: list[JsonValue] | None) -> Value:
    """What a path leads to. In a row set it begins at the first row, or with the number of a row."""
    strict, path = reference.strict_text, reference.path
    here = document
    if rows is not None:
        if isinstance(path[0], int):
            here = rows
        elif not rows:
            return _null(reference, f"{strict} has no rows — query returned zero results")
        else:
            here = rows[0]
    for step in path:
        match here:
            case dict() if isinstance(step, str) and step in here:
                here = here[step]
            case list() if isinstance(step, int) and step < len(here):
                here = here[step]
            case dict() if isinstance(step, str):
                available = ", ".join(sorted(here))
                return _null(
                    reference, f"{strict}: there is no field '{step}' (available: {available})"
                )
            case list() if isinstance(step, int):
                return _null(
                    reference, f"{strict}: there is no [{step}], the array has {len(here)} elements"
                )
            case None:
                return _null(reference, f"{strict}: there is NULL before {_worded(step)}")
            case _:
                kind = "object" if isinstance(step, str) else "array"
                raise SubstitutionError(f"{strict}: {_worded(step)} needs a JSON {kind} before it")
    return _null(reference, f"{strict} is NULL") if here is None else Scalar(here)


def _worded(step: str | int) -> str:
    return f"[{step}]" if isinstance(step, int) else f".{step}"


def _null(reference: Reference, otherwise: str) -> Null:
    if reference.null_safe:
        return Null()
    raise SubstitutionError(otherwise)
