"""Result documents: how they are written, read back without loss, and when they count as true.

A result is the text of one JSON document. Column order is meaningful and numbers are exact, so a
document is built and read as text; a number that arrives as `1.10` leaves as `1.10`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number, as it was written."""

    text: str


LONE_SURROGATE = re.compile("[\ud800-\udfff]")

JsonValue: TypeAlias = "bool | Number | str | list[JsonValue] | dict[str, JsonValue] | None"


@dataclass(frozen=True, slots=True)
class _Written:
    """A piece of a document that is text already."""

    text: str


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str  # as SQL spells it: bigint, text[], "shop"."mood"


def parse(text: str) -> JsonValue:
    """Read JSON with exact numbers.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        value: JsonValue = json.loads(
            text, parse_int=Number, parse_float=Number, parse_constant=_not_json
        )
    except RecursionError as error:
        raise ValueError("the document is nested too deeply") from error
    return value


def encode(value: JsonValue) -> str:
    """Write JSON without white space; the inverse of `parse`, for values of any depth too."""
    written: list[str] = []
    coming: list[JsonValue | _Written] = [value]  # the last is next
    while coming:
        match coming.pop():
            case _Written(text=text) | Number(text=text):
                written.append(text)
            case None:
                written.append("null")
            case bool() as flag:
                written.append("true" if flag else "false")
            case str() as text:
                written.append(_escaped(text))
            case list() as items:
                coming.append(_Written("]"))
                for position in range(len(items) - 1, -1, -1):
                    coming += (items[position], _Written("," if position else ""))
                coming.append(_Written("["))
            case dict() as members:
                coming.append(_Written("}"))
                for position, (key, item) in reversed([*enumerate(members.items())]):
                    coming += (item, _Written(f"{',' if position else ''}{_escaped(key)}:"))
                coming.append(_Written("{"))
    return "".join(written)


def json_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    """As `json_string`; a lone surrogate, which JSON may hold and no text, stays an escape."""
    written = json_string(text)
    if written.isascii():
        return written
    return LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def json_value(text: str) -> str:
    """Text as a JSON document: as it is if it is one, else as a string."""
    try:
        return encode(parse(text))
    except ValueError:
        return json_string(text)


def rows_of(value: JsonValue) -> list[JsonValue] | None:
    """The rows, if the document is a row set: an object with an array under `rows`."""
    if isinstance(value, dict):
        rows = value.get("rows")
        if isinstance(rows, list):
            return rows
    return None


def columns_of(value: JsonValue) -> list[Column]:
    """The columns that a row set names; empty where it does not."""
    described = value.get("columns") if isinstance(value, dict) else None
    columns = []
    for item in described if isinstance(described, list) else []:
        match item:
            case {"name": str() as name, "type": str() as kind}:
                columns.append(Column(name, kind))
    return columns


def is_true(text: str) -> bool:
    """Whether a condition with this result holds.

    A row set is judged by the first column of its first row, none is false; anything else by the whole
    document. Text that is not JSON is a string.
    """
    try:
        value = parse(text)
    except ValueError:
        return _is_true(text)
    rows = rows_of(value)
    if rows is None:
        return _is_true(value)
    if not rows:
        return False
    first = rows[0]
    if isinstance(first, dict) and first:
        return _is_true(next(iter(first.values())))
    return True


def _is_true(value: JsonValue) -> bool:
    match value:
        case None:
            return False
        case bool():
            return value
        case Number(text=text):
            return float(text) != 0
        case str():
            return _is_true_text(value.strip())
        case list() | dict():
            return bool(value)


def _is_true_text(text: str) -> bool:
    match text.lower():
        case "" | "false" | "f" | "no":
            return False
        case "true" | "t" | "yes":
            return True
    if "_" in text or not text.isascii():  # Python would take `0_0` and digits of other scripts
        return True
    try:
        return float(text) != 0
    except ValueError:
        return True


def row_set(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    row_count: int,
    *,
    command: str | None = None,
    affected: int | None = None,
) -> str:
    """The document of an SQL node.

    Args:
        columns: as selected; of two with one name the first one's values are kept.
        rows: JSON texts, one for each column.
    """
    kept: dict[str, int] = {}
    for index, column in enumerate(columns):
        kept.setdefault(column.name, index)
    keys = [(json_string(name) + ":", index) for name, index in kept.items()]
    parts = [
        '{"rows":[',
        ",".join("{" + ",".join(key + row[index] for key, index in keys) + "}" for row in rows),
        f'],"row_count":{row_count}',
    ]
    if affected is not None:
        parts.append(f',"affected":{affected}')
    if command is not None:
        parts.append(f',"command":{json_string(command)}')
    if kept:
        described = (
            f'{{"name":{json_string(name)},"type":{json_string(columns[index].type)}}}'
            for name, index in kept.items()
        )
        parts.append(',"columns":[' + ",".join(described) + "]")
    parts.append("}")
    return "".join(parts)


def finite(text: str) -> bool:
    """Whether the text of a floating-point number has a JSON number."""
    return math.isfinite(float(text))


def _not_json(constant: str) -> JsonValue:
    raise ValueError(f"{constant} is not JSON")
