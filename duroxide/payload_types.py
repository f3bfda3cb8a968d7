"""From parsed JSON to a value of an annotated type: one small decoder a type, built once."""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path, PurePath
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    NotRequired,
    Required,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from duroxide.errors import CodecError
from duroxide.payload_scalars import SCALARS, Decoder, from_text, mismatch


def decoder_for(annotation: Any) -> Decoder:
    """The decoder for a type.

    Raises:
        CodecError: values of that type can't be read from JSON.
    """
    if annotation is Any or annotation is object or isinstance(annotation, TypeVar):
        return _anything
    if annotation is None:
        return SCALARS[type(None)]
    if isinstance(annotation, NewType):
        return decoder_for(annotation.__supertype__)
    origin = get_origin(annotation)
    if origin is not None:
        return _generic(annotation, origin, get_args(annotation))
    if isinstance(annotation, type):
        return _class(cast("Hashable", annotation))
    raise CodecError(f"a parameter of type {annotation!r} can't be read from JSON")


def _anything(value: Any, path: str) -> Any:
    return value


# Containers.


def _generic(annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> Decoder:
    if origin is Annotated or origin in (Required, NotRequired):
        return decoder_for(arguments[0])
    if origin is Union or origin is types.UnionType:
        return _union(arguments)
    if origin is Literal:
        return _literal(arguments)
    if origin is tuple:
        return _tuple(arguments)
    if isinstance(origin, type):
        if issubclass(origin, Mapping):
            return _mapping(*(arguments or (str, Any)))
        if issubclass(origin, AbstractSet):
            build = frozenset if issubclass(frozenset, origin) and origin is not set else set
            return _sequence(build, arguments[0])
        if issubclass(origin, Sequence):
            return _sequence(list, arguments[0])
        return _class(cast("Hashable", origin))
    raise CodecError(f"a parameter of type {annotation!r} can't be read from JSON")


def _sequence(build: Callable[[list[Any]], Any], item: Any) -> Decoder:
    decode_item = decoder_for(item)

    def decode(value: Any, path: str) -> Any:
        if type(value) is not list:
            raise mismatch(path, "an array", value)
        return build([decode_item(v, f"{path}[{i}]") for i, v in enumerate(value)])

    return decode


def _tuple(arguments: tuple[Any, ...]) -> Decoder:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence(tuple, arguments[0])
    items = [decoder_for(a) for a in arguments]

    def decode(value: Any, path: str) -> Any:
        if type(value) is not list or len(value) != len(items):
            raise mismatch(path, f"an array of {len(items)}", value)
        return tuple(
            d(v, f"{path}[{i}]") for i, (d, v) in enumerate(zip(items, value, strict=True))
        )

    return decode


def _mapping(key: Any, item: Any) -> Decoder:
    decode_item = decoder_for(item)
    decode_key = _key_decoder(key)

    def decode(value: Any, path: str) -> Any:
        if type(value) is not dict:
            raise mismatch(path, "an object", value)
        return {decode_key(k, path): decode_item(v, f"{path}.{k}") for k, v in value.items()}

    return decode


def _key_decoder(key: Any) -> Decoder:
    """Keys are always strings in JSON, so numbers among them are read back from text."""
    if key is int:
        return from_text("an integer as key", int)
    if key is bool:
        return from_text("true or false as key", _boolean)
    return decoder_for(key)


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _union(members: tuple[Any, ...]) -> Decoder:
    decoders = [decoder_for(m) for m in members]
    wanted = " or ".join(getattr(m, "__name__", str(m)) for m in members)

    def decode(value: Any, path: str) -> Any:
        for attempt in decoders:  # the first that fits, in the order of the annotation
            try:
                return attempt(value, path)
            except CodecError:
                continue
        raise mismatch(path, wanted, value)

    return decode


def _literal(choices: tuple[Any, ...]) -> Decoder:
    by_json = [(c.value if isinstance(c, Enum) else c, c) for c in choices]
    wanted = "one of " + ", ".join(repr(value) for value, _ in by_json)

    def decode(value: Any, path: str) -> Any:
        for candidate, choice in by_json:
            if type(candidate) is type(value) and candidate == value:
                return choice
        raise mismatch(path, wanted, value)

    return decode


# Classes.


@lru_cache(maxsize=1024)
def _class(cls: Any) -> Decoder:
    scalar = SCALARS.get(cls)
    if scalar is not None:
        return scalar
    if issubclass(cls, Enum):
        return _enum(cls)
    if issubclass(cls, PurePath):
        return from_text("a path", Path if cls in (Path, PurePath) else cls)
    if is_typeddict(cls):
        return _typed_dict(cls)
    if is_dataclass(cls):
        return _dataclass(cast("type[Any]", cls))
    validate = getattr(cls, "model_validate", None)  # pydantic 2
    if callable(validate):
        return _validated(cls, validate)
    if hasattr(cls, "__attrs_attrs__") or hasattr(cls, "__struct_fields__"):
        return _record(cls)
    if issubclass(cls, tuple):
        return _record(cls) if hasattr(cls, "_fields") else _sequence(tuple, Any)
    if issubclass(cls, Mapping):
        return _mapping(str, Any)
    if issubclass(cls, AbstractSet):
        return _sequence(frozenset if cls is frozenset else set, Any)
    if issubclass(cls, list) or cls is Sequence:
        return _sequence(list, Any)
    raise CodecError(
        f"a {cls.__module__}.{cls.__qualname__} can't be read from JSON; use a dataclass, or take "
        "plain values"
    )


def _enum(cls: type[Enum]) -> Decoder:
    # JSON has lists where an enum may have tuples, so members are found by their JSON form.
    wanted = f"a value of {cls.__name__}"

    def decode(value: Any, path: str) -> Any:
        for member in cls:
            plain = list(member.value) if isinstance(member.value, tuple) else member.value
            if plain == value and isinstance(value, bool) == isinstance(plain, bool):
                return member
        raise mismatch(path, wanted, value)

    return decode


def _hints(cls: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise CodecError(
            f"the annotations of {cls.__qualname__} name something unknown: {error}"
        ) from error


def _object_decoder(
    cls: type[Any],
    members: Mapping[str, Any],
    required: frozenset[str],
    build: Callable[[dict[str, Any]], Any],
) -> Decoder:
    name = cls.__qualname__
    decoders: dict[str, Decoder] = {}

    def decode(value: Any, path: str) -> Any:
        if type(value) is not dict:
            raise mismatch(path, f"an object ({name})", value)
        if not decoders:  # built when first needed, because a class may contain itself
            decoders.update((key, decoder_for(hint)) for key, hint in members.items())
        values = {}
        for key, item in value.items():
            member = decoders.get(key)
            if member is None:
                raise CodecError(f"{path}: {name} has no field {key!r}")
            values[key] = member(item, f"{path}.{key}")
        missing = sorted(required.difference(values))
        if missing:
            raise CodecError(f"{path}: {name} needs the field {missing[0]!r}")
        return build(values)

    return decode


def _typed_dict(cls: Any) -> Decoder:
    hints = _hints(cls)
    # Where annotations are postponed, the class itself does not know of these two marks.
    marks = {key: get_origin(hint) for key, hint in hints.items()}
    required = frozenset(
        key
        for key, mark in marks.items()
        if mark is Required or (mark is not NotRequired and key in cls.__required_keys__)
    )
    return _object_decoder(cls, hints, required, lambda values: values)


def _dataclass(cls: type[Any]) -> Decoder:
    hints = _hints(cls)
    taken = [f for f in fields(cls) if f.init]
    required = frozenset(
        f.name for f in taken if f.default is MISSING and f.default_factory is MISSING
    )
    computed = frozenset(f.name for f in fields(cls) if not f.init)

    def build(values: dict[str, Any]) -> Any:
        return cls(**{k: v for k, v in values.items() if k not in computed})

    return _object_decoder(cls, {f.name: hints[f.name] for f in fields(cls)}, required, build)


def _record(cls: type[Any]) -> Decoder:
    """An attrs class, a msgspec struct or a NamedTuple: built by keyword."""
    hints = _hints(cls)
    attributes = getattr(cls, "__attrs_attrs__", None)
    computed: set[str] = set()
    # attrs and msgspec mark "no default" with an object of their own; its name is all to go by.
    if attributes is not None:
        names = {a.name: a.alias or a.name for a in attributes if a.init}
        optional = {a.name for a in attributes if repr(a.default) != "NOTHING"}
        computed = {a.name for a in attributes if not a.init}
    elif hasattr(cls, "__struct_fields__"):
        fields_ = cls.__struct_fields__
        names = {name: name for name in fields_}
        defaults = getattr(cls, "__struct_defaults__", ())
        last = fields_[len(fields_) - len(defaults) :]
        optional = {n for n, d in zip(last, defaults, strict=True) if repr(d) != "NODEFAULT"}
    else:
        names = {name: name for name in cls._fields}
        optional = set(cls._field_defaults)

    def build(values: dict[str, Any]) -> Any:
        return cls(**{names[k]: v for k, v in values.items() if k in names})

    required = frozenset(names).difference(optional)
    members = {name: hints.get(name, Any) for name in (*names, *computed)}
    return _object_decoder(cls, members, required, build)


def _validated(cls: type[Any], validate: Callable[[Any], Any]) -> Decoder:
    def decode(value: Any, path: str) -> Any:
        try:
            return validate(value)
        except ValueError as error:
            raise CodecError(f"{path}: not a {cls.__qualname__}: {error}") from error

    return decode
