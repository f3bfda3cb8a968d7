"""JSON text: the standard library's, without what it sets up anew for each call.

An orchestration writes and reads a few dozen small values, so that the set-up would cost more than the
work. Both functions give exactly what `json` gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from duroxide.errors import CodecError

_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_ESCAPED = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # not in the stubs


def _writer() -> Callable[[object], str]:
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without it
        return _COMPACT.encode
    # No table of what is being written: what contains itself ends in a RecursionError.
    write = make(
        None, _COMPACT.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
    )
    return lambda value: "".join(write(value, 0))


_write = _writer()


def dump_json(value: object) -> str:
    """Compact JSON on one line; equal values give equal text.

    Raises:
        CodecError: the value holds NaN, an infinity or something that JSON has no form for.
    """
    try:
        text = _write(value)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:  # a lone surrogate has a form only as an escape
                text = _ESCAPED.encode(value)
    except (TypeError, ValueError) as error:
        raise CodecError(f"cannot be written as JSON: {error}") from error
    except RecursionError as error:
        raise CodecError("cannot be written as JSON: it is nested too deeply") from error
    return text


def load_json(text: str) -> Any:
    """Read JSON.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        try:
            value, end = _scan(text, 0)
        except StopIteration:
            return json.loads(text)  # white space before it, or an error in good words
        return value if end == len(text) else json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
