"""SQL text by lexical context: where a placeholder would be code, a literal's content, or a comment.

Only what decides about context is told apart; the parts of a text, joined, are the text. The rules are
those of PostgreSQL's scanner with `standard_conforming_strings` on. Text that ends inside a literal or
a comment is read as if it were closed there; the server is the one to complain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Context(Enum):
    CODE = "code"
    STRING = "'...'"
    ESCAPE_STRING = "E'...'"
    UNICODE_STRING = "U&'...'"
    IDENTIFIER = '"..."'
    UNICODE_IDENTIFIER = 'U&"..."'
    DOLLAR = "$tag$...$tag$"
    COMMENT = "comment"


@dataclass(frozen=True, slots=True)
class Token:
    context: Context
    text: str  # delimiters included
    start: int  # offset in the text


# Between two pieces of one literal: white space with a line break, and comments that end a line.
_CONTINUES = re.compile(r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\f\v\n\r]|--[^\n\r]*+[\n\r])*+'")
# Every character beyond ASCII is a letter to the server.
_WORD = re.compile(r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*")
_DOLLAR_DELIMITER = re.compile(r"\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$")
_LINE_COMMENT = re.compile(r"--[^\n\r]*")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_CODE_RUN = re.compile(r"[^'\"$/\-A-Za-z_\x80-\U0010ffff]+")
_SPECIAL = {
    Context.ESCAPE_STRING: re.compile(r"['\\]"),
    Context.IDENTIFIER: re.compile(r'"'),
    Context.UNICODE_IDENTIFIER: re.compile(r'"'),
    Context.STRING: re.compile(r"'"),
    Context.UNICODE_STRING: re.compile(r"'"),
}

# What may follow a prefix word directly.
_QUOTED: dict[str, Context] = {
    "'": Context.STRING,
    '"': Context.IDENTIFIER,
    "e'": Context.ESCAPE_STRING,
    "u&'": Context.UNICODE_STRING,
    'u&"': Context.UNICODE_IDENTIFIER,
}


def tokenize(text: str) -> Iterator[Token]:
    """Split a text into runs of one context; neighbouring code is one run."""
    code_start = position = 0
    while position < len(text):
        context, end = _scan(text, position)
        if context is not Context.CODE:
            if code_start < position:
                yield Token(Context.CODE, text[code_start:position], code_start)
            yield Token(context, text[position:end], position)
            code_start = end
        position = end
    if code_start < len(text):
        yield Token(Context.CODE, text[code_start:], code_start)


def dollar_delimiter(token: Token) -> str:
    """The `$tag$` that a DOLLAR token begins with."""
    match = _DOLLAR_DELIMITER.match(token.text)
    assert match is not None, token
    return match[0]


def _scan(text: str, position: int) -> tuple[Context, int]:
    """What begins at `position`, and where it ends."""
    run = _CODE_RUN.match(text, position)
    if run is not None:
        return Context.CODE, run.end()
    for prefix, context in _QUOTED.items():
        if text[position : position + len(prefix)].lower() == prefix:
            return context, _quoted_end(text, position + len(prefix), context)
    word = _WORD.match(text, position)
    if word is not None:
        return Context.CODE, word.end()
    delimiter = _DOLLAR_DELIMITER.match(text, position)
    if delimiter is not None:
        close = text.find(delimiter[0], delimiter.end())
        return Context.DOLLAR, len(text) if close < 0 else close + len(delimiter[0])
    comment = _LINE_COMMENT.match(text, position)
    if comment is not None:
        return Context.COMMENT, comment.end()
    if text.startswith("/*", position):
        return Context.COMMENT, _block_comment_end(text, position)
    return Context.CODE, position + 1


def _quoted_end(text: str, position: int, context: Context) -> int:
    """The end of a quoted token whose content begins at `position`; its pieces belong together."""
    special = _SPECIAL[context]
    while (found := special.search(text, position)) is not None:
        position = found.end()
        quote = found[0]
        if quote == "\\" or text.startswith(quote, position):
            position += 1
        elif quote == "'" and (more := _CONTINUES.match(text, position)) is not None:
            position = more.end()
        else:
            return position
    return len(text)  # also when a backslash is the last character


def _block_comment_end(text: str, position: int) -> int:
    """Block comments nest."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, position):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)
