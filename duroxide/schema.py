"""JSON Schema of annotated types, for listings of what is registered; it never fails, it only says less."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from duroxide.signatures import Signature

JsonSchema = dict[str, Any]

_SCALARS: Mapping[Any, JsonSchema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    time: {"type": "string", "format": "time"},
    timedelta: {"type": "string", "format": "duration"},
    UUID: {"type": "string", "format": "uuid"},
    Decimal: {"type": "string"},
    bytes: {"type": "string", "contentEncoding": "base64"},
}


def schema_of(annotation: Any) -> JsonSchema:
    """What JSON a value of the type is; `{}` (anything) for a type that is not understood."""
    return _schema(annotation, ())


def parameters_schema(signature: Signature) -> JsonSchema:
    """What JSON a call's payload is."""
    names = signature.names
    if not names:
        return {"type": "null"}
    if len(names) == 1:
        return schema_of(signature.annotations.get(names[0], Any))
    return {
        "type": "object",
        "properties": {n: schema_of(signature.annotations.get(n, Any)) for n in names},
        "required": [n for n in names if n in signature.required],
    }


def _schema(annotation: Any, inside: tuple[Any, ...]) -> JsonSchema:
    try:
        scalar = _SCALARS.get(annotation)
    except TypeError:  # an annotation that can't be hashed
        return {}
    if scalar is not None:
        return dict(scalar)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(a, inside) for a in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if isinstance(origin, type):
        return _container(origin, arguments, inside)
    if isinstance(annotation, type):
        return _class(annotation, inside)
    return {}


def _container(
    origin: type[Any], arguments: tuple[Any, ...], inside: tuple[Any, ...]
) -> JsonSchema:
    if issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[-1], inside)}
    if issubclass(origin, tuple) and Ellipsis not in arguments:
        items = [_schema(a, inside) for a in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items)}
    if issubclass(origin, AbstractSet):
        return {"type": "array", "items": _schema(arguments[0], inside), "uniqueItems": True}
    if issubclass(origin, Sequence):
        return {"type": "array", "items": _schema(arguments[0], inside)}
    return {}


def _class(cls: type[Any], inside: tuple[Any, ...]) -> JsonSchema:
    if issubclass(cls, Enum):
        return {"enum": [member.value for member in cls]}
    if not is_dataclass(cls) or cls in inside:  # a class inside itself is not followed for ever
        return {}
    try:
        hints = get_type_hints(cls)
    except NameError:
        return {"title": cls.__name__, "type": "object"}
    return {
        "title": cls.__name__,
        "type": "object",
        "properties": {
            f.name: _schema(hints[f.name], (*inside, cls)) for f in fields(cls) if f.init
        },
        "required": [
            f.name
            for f in fields(cls)
            if f.init and f.default is MISSING and f.default_factory is MISSING
        ],
    }
