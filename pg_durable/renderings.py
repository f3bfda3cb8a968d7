"""How a resolved value stands in a statement: as text, as JSON, as a literal, as an array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pg_durable.quoting import quote_identifier, quote_literal
from pg_durable.references import (
    Document,
    Null,
    Reference,
    RowSet,
    Scalar,
    SubstitutionError,
    Value,
    resolve,
)
from pg_durable.results import (
    LONE_SURROGATE,
    JsonValue,
    Number,
    columns_of,
    encode,
    json_value,
    parse,
    rows_of,
)
from pg_durable.steps.literals import ArrayItem, array_literal

# Columns of these types hold JSON numbers and booleans; every other value is inserted as text.
_BARE_TYPES = frozenset({"boolean", "smallint", "integer", "bigint", "real", "double precision"})
# As a cast, the name of these types means a length of 1.
_UNLIMITED = {"character": "bpchar", "bit": '"bit"'}


def as_text(value: Value) -> str:
    """The value without quotes, as it goes into raw templates and into the content of literals."""
    match value:
        case Null():
            return "NULL"
        case Document(text=text):
            return text
        case RowSet(rows=rows):
            return encode(rows)
        case Scalar(value=str() as text):
            return _checked(text)
        case Scalar(value=other):
            return encode(other)


def as_json(value: Value) -> str:
    """The value as a JSON document."""
    match value:
        case Null():
            return "null"
        case Document(text=text):
            return json_value(text)
        case RowSet(rows=rows):
            return encode(rows)
        case Scalar(value=inner):
            return encode(inner)


def as_literal(value: Value) -> str:
    """The value as SQL code."""
    match value:
        case Null():
            return "NULL"
        case Document(text=text):
            return _quoted(text)
        case RowSet():
            return _derived_table(value)
        case Scalar(value=inner):
            return _scalar_literal(inner)


def _scalar_literal(value: JsonValue) -> str:
    match value:
        case Number(text=text):
            # In parentheses, or `10-$delta` would become a comment.
            return f"({text})" if text.startswith("-") else text
        case bool() | None:
            return encode(value) if value is not None else "NULL"
        case str():
            return _quoted(value)
        case _:
            return _quoted(encode(value))


def _quoted(text: str) -> str:
    try:
        literal = quote_literal(_checked(text))
    except ValueError as error:
        raise SubstitutionError(str(error)) from error
    return f" {literal}" if literal.startswith("E") else literal  # or E would end a word before it


def _checked(text: str) -> str:
    found = LONE_SURROGATE.search(text)
    if found is not None:
        raise SubstitutionError(
            f"a value contains \\u{ord(found[0]):04x}, half of a character, which text can't hold"
        )
    return text


def _derived_table(value: RowSet) -> str:
    alias = quote_identifier(value.name)
    if not value.rows:
        nulls = ", ".join(
            f"NULL::{kind if kind in _BARE_TYPES else 'text'} AS {quote_identifier(name)}"
            for name, kind in value.columns
        )
        return f"(SELECT {nulls or 'NULL'} WHERE false) AS {alias}"
    first = value.rows[0]
    names = list(first) if isinstance(first, dict) else []
    if not names:
        raise SubstitutionError(f"${value.name}.* — the rows have no columns")
    rows = ", ".join(
        "(" + ", ".join(_cell(row, name) for name in names) + ")" for row in value.rows
    )
    columns = ", ".join(quote_identifier(name) for name in names)
    return f"(VALUES {rows}) AS {alias}({columns})"


def _cell(row: JsonValue, name: str) -> str:
    value = row.get(name) if isinstance(row, dict) else None
    literal = _scalar_literal(value)
    return f"{literal}::text" if isinstance(value, str | list | dict) else literal


def as_array(reference: Reference, results: Mapping[str, str]) -> str:
    """All rows' first column (or the named one) as an array, for ANY, SOME and ALL.

    No rows make an empty array. One row whose column holds an array makes that array. The array has
    the column's type; without one the server takes the type of what it is compared with.
    """
    if reference.path:
        match resolve(reference, results):
            case Scalar(value=list() as found_items):
                return _array(_items(found_items, ""))
            case found:
                return as_literal(found)
    text = results[reference.name]
    try:
        document = parse(text)
    except ValueError:
        return as_literal(resolve(reference, results))
    rows = rows_of(document)
    if rows is None:
        value = resolve(reference, results)
        items = parse(value.text) if isinstance(value, Document) else None
        items = value.value if isinstance(value, Scalar) else items
        return _array(_items(items, "")) if isinstance(items, list) else as_literal(value)
    kind = _type_of(document, reference.field)
    values = [_column(reference, row, results) for row in rows]
    if len(values) == 1 and isinstance(values[0], list) and (not kind or kind.endswith("[]")):
        return _array(_items(values[0], kind), kind)
    if kind.endswith("[]"):
        # ANY looks at all elements whatever the dimensions, which would have to be equal.
        return _array(_items([*_elements(values, kind)], kind), kind)
    return _array([_item(value, kind) for value in values], kind and f"{kind}[]")


def _column(reference: Reference, row: JsonValue, results: Mapping[str, str]) -> JsonValue:
    if not isinstance(row, dict):
        return row
    if reference.field is None:
        return next(iter(row.values()), None)
    if reference.field not in row:
        if reference.null_safe:
            return None
        available = ", ".join(sorted(row))
        raise SubstitutionError(
            f"{reference.strict_text}: result has no field '{reference.field}' "
            f"(available: {available})",
            reference=reference.text,
            bound=sorted(results),
        )
    return row[reference.field]


def _type_of(document: JsonValue, field: str | None) -> str:
    for column in columns_of(document):
        if field is None or column.name == field:
            return column.type
    return ""


def _elements(values: list[JsonValue], kind: str) -> Iterator[JsonValue]:
    for value in values:
        if not isinstance(value, list):
            yield value
        elif kind.startswith("json"):  # whose elements may be lists themselves
            yield from value
        else:
            yield from _elements(value, kind)


def _items(values: list[JsonValue], kind: str) -> list[ArrayItem]:
    return [_item(value, kind) for value in values]


def _item(value: JsonValue, kind: str) -> ArrayItem:
    match value:
        case None:
            return None
        case _ if kind.startswith("json"):
            return encode(value)
        case list():
            return _items(value, kind)
        case str():
            return value
        case _:
            # PostgreSQL reads true and false as booleans and as text.
            return encode(value)


def _array(items: list[ArrayItem], kind: str = "") -> str:
    element = kind.removesuffix("[]")
    kind = f"{_UNLIMITED.get(element, element)}[]" if kind else ""
    return _quoted(array_literal(items)) + (f"::{kind}" if kind else "")
