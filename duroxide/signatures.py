"""How the arguments of a durable function become one payload, and how a payload becomes arguments.

No parameter: `null`. One: the bare value. Several: an object by parameter name. When a payload for
several parameters is not such an object, an array is taken by position and anything else is the
first argument; so callers that know only the name of a function can reach it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints

from duroxide.errors import CodecError, RegistrationError
from duroxide.payload import JSON, Codec, decoder

_CONTEXT_NAMES = frozenset({"ctx", "context", "_ctx", "_"})
_KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def underlying(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, under partials and objects with `__call__`."""
    while isinstance(fn, partial):
        fn = fn.func
    if not inspect.isroutine(fn) and not inspect.isclass(fn):
        return getattr(type(fn), "__call__", fn)  # noqa: B004 - the function, not a test for one
    return fn


@dataclass(frozen=True, slots=True)
class Signature:
    """The payload side of a function's signature."""

    names: tuple[str, ...]  # parameters that the payload fills, in order
    annotations: Mapping[str, Any]  # of those that have one
    required: frozenset[str]
    result: Any  # annotation of the return value; Any if there is none
    takes_context: bool

    def encode(
        self, name: str, codec: Codec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> str:
        """The payload of a call of `name` with these arguments.

        Raises:
            TypeError: they do not fit the signature.
            CodecError: one has no JSON form.
        """
        if not kwargs and len(args) == 1 and len(self.names) == 1:
            return codec.encode(args[0])
        if len(args) > len(self.names):
            raise TypeError(
                f"{name!r} takes {len(self.names)} arguments but {len(args)} were given"
            )
        values = dict(zip(self.names, args, strict=False))
        for key, value in kwargs.items():
            if key not in self.names or key in values:
                word = "more than one value for" if key in values else "an unknown argument"
                raise TypeError(f"{name!r} got {word} {key!r}")
            values[key] = value
        missing = [n for n in self.names if n in self.required and n not in values]
        if missing:
            raise TypeError(f"{name!r} is missing the argument {missing[0]!r}")
        if len(self.names) <= 1:
            return codec.encode(next(iter(values.values()), None))
        return codec.encode(values)

    def decode(self, codec: Codec, text: str) -> Arguments:
        """The arguments that a payload stands for.

        Raises:
            CodecError: the payload does not fit the signature.
        """
        names = self.names
        if not names:
            return (), {}
        if len(names) == 1:
            name = names[0]
            if text == "null" and name not in self.required:
                return (), {}
            return (codec.decode(text, self.annotations.get(name, Any)),), {}
        return (), self._by_name(codec.decode(text, Any))

    def _by_name(self, value: Any) -> dict[str, Any]:
        if value is None:
            values = {}
        elif isinstance(value, dict) and self._names_parameters(value):
            values = value
        elif isinstance(value, list) and len(value) <= len(self.names):
            values = dict(zip(self.names, value, strict=False))
        else:
            values = {self.names[0]: value}
        missing = [n for n in self.names if n in self.required and n not in values]
        if missing:
            raise CodecError(f"the payload lacks the argument {missing[0]!r}")
        return {n: self._typed(n, v) for n, v in values.items()}

    def _names_parameters(self, value: Mapping[str, Any]) -> bool:
        return set(value) <= set(self.names) and self.required <= set(value)

    def _typed(self, name: str, value: Any) -> Any:
        annotation = self.annotations.get(name, Any)
        return value if annotation is Any else decoder(annotation)(value, f"$.{name}")


UNKNOWN = Signature(("input",), {}, frozenset(), Any, takes_context=True)
"""Of a function that is known by name only."""


def signature_of(
    fn: Callable[..., Any], *, takes_context: bool | None = None, what: str = "function"
) -> Signature:
    """Read a function's signature.

    Args:
        takes_context: whether the first parameter is the context; None: decide by its name (`ctx`)
            or annotation.

    Raises:
        RegistrationError: it takes `*args`, `**kwargs`, or keyword-only parameters without default.
    """
    parameters = list(inspect.signature(fn).parameters.values())
    hints = _hints(underlying(fn))
    if takes_context is None:
        takes_context = bool(parameters) and _is_context(parameters[0], hints)
    if takes_context:
        if not parameters:
            raise RegistrationError(f"{what} {_name(fn)!r} must take the context as first argument")
        parameters = parameters[1:]
    filled = []
    for parameter in parameters:
        if (
            parameter.kind in _KINDS
            or (
                parameter.default is inspect.Parameter.empty
                and parameter.kind
                not in (
                    inspect.Parameter.VAR_POSITIONAL,
                    inspect.Parameter.VAR_KEYWORD,
                )
            )
            or parameter.kind is inspect.Parameter.KEYWORD_ONLY
        ):
            filled.append(parameter)
        else:
            raise RegistrationError(
                f"{what} {_name(fn)!r} takes {parameter}: a payload can't say what fills it; "
                "name the parameters"
            )
    return Signature(
        names=tuple(p.name for p in filled),
        annotations={p.name: hints[p.name] for p in filled if p.name in hints},
        required=frozenset(p.name for p in filled if p.default is inspect.Parameter.empty),
        result=hints.get("return", Any),
        takes_context=takes_context,
    )


def _is_context(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> bool:
    if parameter.name in _CONTEXT_NAMES:
        return True
    annotation = hints.get(parameter.name, parameter.annotation)
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return name.rpartition(".")[2] in ("OrchestrationContext", "ActivityContext")


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(fn, include_extras=True)
    except (NameError, TypeError):
        # A name that exists only for the type checker: the payload is then plain JSON.
        return {}


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def encode_positional(args: tuple[Any, ...]) -> str:
    """The payload for a function of which only the name is known."""
    if not args:
        return "null"
    return JSON.encode(args[0] if len(args) == 1 else list(args))
