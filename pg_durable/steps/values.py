"""Column values, from PostgreSQL's text form to JSON text, type by type."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import psycopg

from pg_durable.results import finite, json_string
from pg_durable.steps.literals import ArrayItem, parse_array, parse_record

Convert: TypeAlias = Callable[[str], str]
"""From the server's text of one value that is not NULL to JSON text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeDescription:
    """A row of pg_type, as far as it decides about the JSON form."""

    oid: int
    name: str  # as SQL spells it
    element: int | None = None  # of an array
    delimiter: str = ","
    base: int | None = None  # of a domain
    attributes: tuple[tuple[str, int], ...] = ()  # of a composite


BOOL, BYTEA, NAME, INT8, INT2, INT4, TEXT, JSON = 16, 17, 19, 20, 21, 23, 25, 114
FLOAT4, FLOAT8, DATE, TIMESTAMP, TIMESTAMPTZ = 700, 701, 1082, 1114, 1184
NUMERIC, VOID, UUID, JSONB = 1700, 2278, 2950, 3802

_TIMESTAMP = re.compile(r"(\d{4,}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d+))?([+-]\d\d(?::\d\d){0,2})?")


def builtin(oid: int) -> TypeDescription | None:
    """What needs no look into the catalog; None means that it does."""
    if oid == VOID:
        return TypeDescription(oid=oid, name="void")
    known = psycopg.adapters.types.get(oid)
    if known is None:
        return None
    if oid == known.array_oid:
        return TypeDescription(
            oid=oid, name=f"{known.regtype}[]", element=known.oid, delimiter=known.delimiter
        )
    return TypeDescription(oid=oid, name=known.regtype)


def converter(oid: int, types: Mapping[int, TypeDescription]) -> Convert:
    """How values of a type become JSON.

    Args:
        types: every type that is not built in and that this one needs.
    """
    simple = _SIMPLE.get(oid)
    if simple is not None:
        return simple
    described = builtin(oid) or types.get(oid)
    match described:
        case TypeDescription(base=int() as base):
            return converter(base, types)
        case TypeDescription(element=int() as element, delimiter=delimiter):
            return _array(converter(element, types), delimiter)
        case TypeDescription(attributes=attributes) if attributes:
            return _composite([(name, converter(kind, types)) for name, kind in attributes])
        case _:
            return json_string


def _array(item: Convert, delimiter: str) -> Convert:
    def convert_item(value: ArrayItem) -> str:
        match value:
            case None:
                return "null"
            case str():
                return item(value)
            case list():
                return "[" + ",".join(convert_item(inner) for inner in value) + "]"

    return lambda text: convert_item(parse_array(text, delimiter))


def _composite(attributes: Sequence[tuple[str, Convert]]) -> Convert:
    keyed = [(json_string(name) + ":", convert) for name, convert in attributes]

    def convert(text: str) -> str:
        members = (
            key + ("null" if field is None else inner(field))
            for (key, inner), field in zip(keyed, parse_record(text), strict=True)
        )
        return "{" + ",".join(members) + "}"

    return convert


def _verbatim(text: str) -> str:
    return text


def _bool(text: str) -> str:
    return "true" if text == "t" else "false"


def _float(text: str) -> str:
    """NaN and the infinities have no JSON number and are lost."""
    return text if finite(text) else "null"


def _timestamp(text: str) -> str:
    """`YYYY-MM-DDTHH:MM:SS`, a fraction of 3 or 6 digits, RFC 3339 in UTC where there is an offset.

    What is not of that form (infinity, years BC, another DateStyle) stays as the server wrote it.
    """
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return json_string(text)
    date, time, fraction, offset = match.groups()
    tail = "" if not fraction else "." + fraction.ljust(3 if len(fraction) <= 3 else 6, "0")
    if offset is None:
        return f'"{date}T{time}{tail}"'
    if offset != "+00":
        try:
            moved = datetime.fromisoformat(f"{date}T{time}{offset}").astimezone(UTC)
        except (ValueError, OverflowError):  # a year beyond Python's range
            return json_string(text)
        date, time = moved.date().isoformat(), moved.time().isoformat("seconds")
    return f'"{date}T{time}{tail}+00:00"'


def _null(text: str) -> str:
    return "null"


_SIMPLE: Mapping[int, Convert] = {
    BOOL: _bool,
    INT2: _verbatim,
    INT4: _verbatim,
    INT8: _verbatim,
    FLOAT4: _float,
    FLOAT8: _float,
    JSON: _verbatim,
    JSONB: _verbatim,
    TIMESTAMP: _timestamp,
    TIMESTAMPTZ: _timestamp,
    VOID: _null,
}
