"""Text as every store can keep it: Unicode without NUL and without lone surrogates."""

from __future__ import annotations

import re

_FLAW = re.compile("[\0\ud800-\udfff]")


def flaw_of(text: str) -> str | None:
    """What keeps a store from keeping the text, in words; None if nothing does."""
    if text.isascii():
        return "a NUL character" if "\0" in text else None
    found = _FLAW.search(text)
    if found is None:
        return None
    return "a NUL character" if found[0] == "\0" else "a lone surrogate"


def text_of(error: BaseException) -> str:
    """What an exception says of itself, even if it can't: an author's `__str__` may raise, too."""
    try:
        return str(error)
    except Exception as reason:
        return f"its text can't be made, __str__ raised {type(reason).__name__}"


def readable(text: str) -> str:
    """The text with a replacement character for each that no store keeps: for people, not to be parsed."""
    return text if flaw_of(text) is None else _FLAW.sub("\ufffd", text)
