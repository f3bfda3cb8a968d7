"""Values as SQL text."""

from __future__ import annotations


def quote_literal(text: str) -> str:
    """A string constant that means `text` whatever standard_conforming_strings says.

    Raises:
        ValueError: the text contains NUL, which the server can't store.
    """
    if "\0" in text:
        raise ValueError("a value contains a NUL character, which SQL text can't hold")
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def quote_identifier(text: str) -> str:
    """A delimited identifier.

    Raises:
        ValueError: the text is empty or contains NUL.
    """
    if not text or "\0" in text:
        raise ValueError(f"{text!r} can't be the name of anything in PostgreSQL")
    return '"' + text.replace('"', '""') + '"'
