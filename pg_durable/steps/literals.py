"""PostgreSQL's text form of arrays and composite values, both ways."""

from __future__ import annotations

import re
from typing import TypeAlias

ArrayItem: TypeAlias = "str | list[ArrayItem] | None"

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_FIELD = re.compile(r'((?:"(?:[^"\\]|\\.|"")*"|\\.|[^",()\\])*)([,)])', re.DOTALL)
_FIELD_PIECE = re.compile(r'"((?:[^"\\]|\\.|"")*)"|\\(.)|([^"\\]+)', re.DOTALL)
_FIELD_ESCAPE = re.compile(r'\\(.)|"(")', re.DOTALL)


def parse_array(text: str, delimiter: str = ",") -> list[ArrayItem]:
    """Read `{1,NULL,"a b",{...}}`, bounds (`[0:1]={...}`) dropped; lists nest per dimension.

    Raises:
        ValueError: the text is not an array literal.
    """
    position = text.find("=") + 1 if text.startswith("[") else 0
    root: list[ArrayItem] = []
    stack: list[list[ArrayItem]] = [root]
    bare = re.compile(rf"[^{{}}{re.escape(delimiter)}\"]+")
    while position < len(text):
        character = text[position]
        if character == "{":
            nested: list[ArrayItem] = []
            stack[-1].append(nested)
            stack.append(nested)
            position += 1
        elif character == "}":
            stack.pop()
            position += 1
        elif character == delimiter:
            position += 1
        elif (quoted := _QUOTED.match(text, position)) is not None:
            stack[-1].append(_ESCAPED.sub(r"\1", quoted[1]))
            position = quoted.end()
        elif (item := bare.match(text, position)) is not None:
            stack[-1].append(None if item[0] == "NULL" else item[0])
            position = item.end()
        else:
            break
    if len(stack) != 1 or len(root) != 1 or not isinstance(root[0], list):
        raise ValueError(f"not an array literal: {text[:100]!r}")
    return root[0]


def array_literal(items: list[ArrayItem]) -> str:
    """Write an array so that the server reads these items."""
    return "{" + ",".join(_array_item(item) for item in items) + "}"


def _array_item(item: ArrayItem) -> str:
    match item:
        case None:
            return "NULL"
        case str():
            return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return array_literal(item)


def parse_record(text: str) -> list[str | None]:
    r"""Read `(1,"a \"b",)`; an empty field is NULL.

    Raises:
        ValueError: the text is not a composite value.
    """
    fields: list[str | None] = []
    position = 1
    while position < len(text):
        match = _FIELD.match(text, position)
        if match is None:
            break
        fields.append(_field(match[1]) if match[1] else None)
        position = match.end()
        if match[2] == ")":
            return [] if text == "()" else fields
    raise ValueError(f"not a composite value: {text[:100]!r}")


def _field(text: str) -> str:
    pieces = []
    for quoted, escaped, plain in _FIELD_PIECE.findall(text):
        inner = _FIELD_ESCAPE.sub(lambda m: m[1] or m[2], quoted)
        pieces.append(inner or escaped or plain)
    return "".join(pieces)
