"""From parsed JSON to a value of a plain type: text, numbers, times, bytes."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias
from uuid import UUID

from duroxide.errors import CodecError

Decoder: TypeAlias = Callable[[Any, str], Any]
"""Takes parsed JSON and the path to it (for errors)."""

WORDS: Mapping[type[Any], str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def mismatch(path: str, wanted: str, value: object) -> CodecError:
    found = WORDS.get(type(value), type(value).__name__)
    return CodecError(f"{path}: {wanted} is expected here, not {found}")


def exactly(kind: type[Any]) -> Decoder:
    wanted = WORDS[kind]

    def decode(value: Any, path: str) -> Any:
        if type(value) is not kind:
            raise mismatch(path, wanted, value)
        return value

    return decode


def number(value: Any, path: str) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    raise mismatch(path, "a number", value)


def from_text(wanted: str, parse: Callable[[str], Any]) -> Decoder:
    def decode(value: Any, path: str) -> Any:
        if type(value) is not str:
            raise mismatch(path, wanted, value)
        try:
            return parse(value)
        except (ValueError, InvalidOperation):
            raise CodecError(f"{path}: {wanted} is expected here, not {value!r}") from None

    return decode


_DURATION = re.compile(r"(-)?P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d{1,6}))?S)?)?")


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None or text.endswith(("P", "T")):
        raise ValueError
    sign, days, hours, minutes, seconds, fraction = match.groups()
    value = timedelta(
        days=int(days or 0),
        hours=int(hours or 0),
        minutes=int(minutes or 0),
        seconds=int(seconds or 0),
        microseconds=int((fraction or "").ljust(6, "0")),
    )
    return -value if sign else value


def _decimal(value: Any, path: str) -> Decimal:
    if type(value) is int:
        return Decimal(value)
    decoded: Decimal = from_text("a decimal number", Decimal)(value, path)
    return decoded


SCALARS: Mapping[type[Any], Decoder] = {
    str: exactly(str),
    int: exactly(int),
    bool: exactly(bool),
    float: number,
    type(None): exactly(type(None)),
    datetime: from_text("an ISO 8601 date and time", datetime.fromisoformat),
    date: from_text("an ISO 8601 date", date.fromisoformat),
    time: from_text("an ISO 8601 time", time.fromisoformat),
    timedelta: from_text("an ISO 8601 duration", _duration),
    UUID: from_text("a UUID", UUID),
    Decimal: _decimal,
    bytes: from_text("base64", lambda text: base64.b64decode(text, validate=True)),
    bytearray: from_text("base64", lambda text: bytearray(base64.b64decode(text, validate=True))),
}
