"""Values of user code as JSON text, and back, driven by annotations. Never pickle.

Equal values give equal text: objects keep their order, sets are sorted, NaN and infinities are
refused. Without an annotation a value is plain JSON, and text that is not JSON is itself the value,
so that payloads of other implementations can be read.

Formats: a dataclass, attrs class, msgspec struct, pydantic model, NamedTuple or TypedDict is an
object; an enum is its value; date, time and datetime are ISO 8601, a timedelta is an ISO 8601
duration ("PT1.5S"); UUID, Decimal and Path are strings; bytes are base64; tuples and sets are arrays.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Protocol
from uuid import UUID

from duroxide.errors import CodecError
from duroxide.jsontext import dump_json, load_json
from duroxide.payload_scalars import Decoder
from duroxide.payload_types import decoder_for


class Codec(Protocol):
    """How values become text. It must be pure: it runs again in every replay."""

    def encode(self, value: object) -> str: ...

    def decode(self, text: str, annotation: Any) -> Any: ...


class JsonCodec:
    """The default."""

    def encode(self, value: object) -> str:
        """The value as compact JSON.

        Raises:
            CodecError: something in it has no JSON form; the message says where.
        """
        if value is None:
            return "null"
        try:
            return dump_json(_plain(value, "$"))
        except RecursionError:
            raise CodecError(
                f"$: a {type(value).__name__} that is nested too deeply has no JSON form, nor has one "
                "that contains itself"
            ) from None

    def decode(self, text: str, annotation: Any = Any) -> Any:
        """The value that the text stands for, as the annotation has it.

        Raises:
            CodecError: the text does not fit the annotation; the message says where.
        """
        try:
            value = load_json(text)
        except ValueError:
            value = text
        if annotation is Any:
            return value
        return decoder(annotation)(value, "$")


JSON = JsonCodec()


@lru_cache(maxsize=1024)
def _cached(annotation: Any) -> Decoder:
    return decoder_for(annotation)


def decoder(annotation: Any) -> Decoder:
    """What turns parsed JSON into a value of the annotated type."""
    try:
        return _cached(annotation)
    except TypeError:  # an annotation that can't be hashed, such as Literal[[]]
        return decoder_for(annotation)


# To JSON.


def _plain(value: Any, path: str) -> Any:
    """The value in terms of what `json` writes."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    convert = _BY_TYPE.get(kind)
    if convert is not None:
        return convert(value, path)
    return _plain_by_shape(value, path)


def _plain_by_shape(value: Any, path: str) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value, path)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{path}.{f.name}") for f in fields(value)}
    names = field_names(type(value))
    if names is not None:
        return {name: _plain(getattr(value, name), f"{path}.{name}") for name in names}
    dump = getattr(value, "model_dump", None)  # pydantic 2
    if callable(dump) and not isinstance(value, type):
        return _sets_sorted(_plain(dump(mode="json", by_alias=True), path), dump(by_alias=True))
    for base, convert in _BY_BASE:
        if isinstance(value, base):
            return convert(value, path)
    raise CodecError(
        f"{path}: a {type(value).__module__}.{type(value).__qualname__} has no JSON form; "
        "use a dataclass, or convert it first"
    )


def _sets_sorted(plain: Any, value: Any) -> Any:
    """Give the sets of a model one order: as JSON they are arrays in the order of their hashes."""
    match plain, value:
        case list(), set() | frozenset():
            return sorted(plain, key=dump_json)
        case list(), list() | tuple() if len(plain) == len(value):
            return [_sets_sorted(p, v) for p, v in zip(plain, value, strict=True)]
        case dict(), dict() if len(plain) == len(value):
            pairs = zip(plain.items(), value.values(), strict=True)
            return {key: _sets_sorted(p, v) for (key, p), v in pairs}
    return plain


def field_names(cls: type[Any]) -> tuple[str, ...] | None:
    """The fields of an attrs class, a msgspec struct or a NamedTuple, known by their marks."""
    attributes = getattr(cls, "__attrs_attrs__", None)
    if attributes is not None:
        return tuple(a.name for a in attributes)
    names = getattr(cls, "__struct_fields__", None)
    if names is None and issubclass(cls, tuple):
        names = getattr(cls, "_fields", None)
    return None if names is None else tuple(names)


def _float(value: float, path: str) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        raise CodecError(f"{path}: {value} has no JSON form")
    return float(value)


def _array(value: Any, path: str) -> list[Any]:
    return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]


def _sorted_array(value: Any, path: str) -> list[Any]:
    return sorted((_plain(item, f"{path}{{}}") for item in value), key=dump_json)


def _object(value: Mapping[Any, Any], path: str) -> dict[str, Any]:
    plain = {}
    for key, item in value.items():
        name = _key(key, path)
        if name in plain:
            raise CodecError(f"{path}: two keys are both written as {name!r}")
        plain[name] = _plain(item, f"{path}.{name}")
    return plain


def _key(key: Any, path: str) -> str:
    if type(key) is str:
        return key
    plain = _plain(key, f"{path} key")
    if isinstance(plain, str):
        return plain
    if isinstance(plain, bool | int):
        return json.dumps(plain)
    raise CodecError(f"{path}: a {type(key).__name__} can't be the key of a JSON object")


def iso_duration(value: timedelta) -> str:
    """`PT90S`, `-PT0.5S`: exact, and read by other libraries."""
    microseconds = value // timedelta(microseconds=1)
    whole, rest = divmod(abs(microseconds), 1_000_000)
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{'-' if microseconds < 0 else ''}PT{whole}{fraction}S"


_BY_TYPE: Mapping[type[Any], Callable[[Any, str], Any]] = {
    float: _float,
    list: _array,
    tuple: _array,
    dict: _object,
    set: _sorted_array,
    frozenset: _sorted_array,
}

_BY_BASE: tuple[tuple[type[Any], Callable[[Any, str], Any]], ...] = (
    (str, lambda value, _: str.__str__(value)),
    (int, lambda value, _: int(value)),
    (float, _float),
    (datetime, lambda value, _: value.isoformat()),
    (date, lambda value, _: value.isoformat()),
    (time, lambda value, _: value.isoformat()),
    (timedelta, lambda value, _: iso_duration(value)),
    (UUID, lambda value, _: str(value)),
    (Decimal, lambda value, _: str(value)),
    (bytes, lambda value, _: base64.b64encode(value).decode()),
    (bytearray, lambda value, _: base64.b64encode(value).decode()),
    (PurePath, lambda value, _: str(value)),
    (Mapping, _object),
    (list, _array),
    (tuple, _array),
    (set, _sorted_array),
    (frozenset, _sorted_array),
)
