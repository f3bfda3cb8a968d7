"""What a decorated function is: an activity or an orchestration, with the payload side of its signature."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeAlias, TypeVar, overload

from duroxide.errors import RegistrationError
from duroxide.payload import JSON, Codec
from duroxide.retry import RetryPolicy
from duroxide.signatures import UNKNOWN, Arguments, Signature, signature_of, underlying
from duroxide.version import SemVer

if TYPE_CHECKING:
    from duroxide.activity_context import ActivityContext, Foreseen, HeadStart
    from duroxide.engine.journal import Journal

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

DEFAULT_VERSION = "1.0.0"

Prepare = Callable[[str], Awaitable[object]]
BeginEarly: TypeAlias = "Callable[[Foreseen], HeadStart | None]"


class Style(Enum):
    """How an orchestration is written."""

    NATIVE = "native"  # async def: what it asks for is scheduled when it asks
    GENERATOR = "generator"  # yields descriptors: scheduled when they are yielded
    PLAIN = "plain"  # returns at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActivityDef(Generic[P, R_co]):
    """A registered activity. Call it to run the function itself, as a test would."""

    name: str
    fn: Callable[P, R_co]
    is_async: bool
    takes_context: bool
    signature: Signature
    codec: Codec = JSON
    retry: RetryPolicy | None = None  # for calls that bring none of their own
    max_concurrency: int | None = None  # in one worker process
    executor: Executor | None = None  # where a plain function runs; None: the runtime's threads
    raw: bool = False  # payloads are exact texts: the function takes and returns str
    head_start: BeginEarly | None = None  # called on the event loop while a turn is committed

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.fn(*args, **kwargs)

    @overload
    def bind(
        self: ActivityDef[Concatenate[ActivityContext, Q], Coroutine[Any, Any, T]],
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> BoundActivity[T]: ...

    @overload
    def bind(
        self: ActivityDef[Concatenate[ActivityContext, Q], T], *args: Q.args, **kwargs: Q.kwargs
    ) -> BoundActivity[T]: ...

    @overload
    def bind(
        self: ActivityDef[Q, Coroutine[Any, Any, T]], *args: Q.args, **kwargs: Q.kwargs
    ) -> BoundActivity[T]: ...

    @overload
    def bind(self: ActivityDef[Q, T], *args: Q.args, **kwargs: Q.kwargs) -> BoundActivity[T]: ...

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """The activity with its arguments (without the context), for a call with options.

        Raises (when called):
            TypeError: they do not fit the function.
        """
        return BoundActivity(activity=self, args=args, kwargs=kwargs)

    def decode_arguments(self, text: str) -> Arguments:
        """Positional and keyword arguments, the context not among them.

        Raises:
            CodecError: the payload does not fit the function's signature.
        """
        if self.raw:
            return (text,), {}
        return self.signature.decode(self.codec, text)

    def encode_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The payload of a call."""
        if self.raw:
            return _the_raw_text(self.name, args, kwargs)
        return self.signature.encode(self.name, self.codec, args, kwargs)

    def encode_result(self, value: object) -> str:
        """The completion's text.

        Raises:
            CodecError: the value has no JSON form.
        """
        if self.raw:
            return _checked_text(self.name, value)
        return self.codec.encode(value)

    def decode_result(self, text: str) -> Any:
        """What the caller gets."""
        if self.raw:
            return text
        return self.codec.decode(text, awaited_result(self.signature.result))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundActivity(Generic[T]):
    """An activity and the arguments of one call; T is what the call gives."""

    activity: ActivityDef[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OrchestrationDef(Generic[P, R_co]):
    """A registered orchestration, in one version."""

    name: str
    version: str
    fn: Callable[P, R_co]
    style: Style
    signature: Signature
    codec: Codec = JSON
    raw: bool = False  # input and output are exact texts
    prepare: Prepare | None = None  # awaited by the runtime before a turn with the input's text
    cancel_grace_ms: int | None = None  # how long to clean up after a cancel; None: ends at once

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.fn(*args, **kwargs)

    @property
    def semver(self) -> SemVer:
        return SemVer.parse(self.version)

    @property
    def tells_traceback(self) -> bool:
        """Generator orchestrations report failures as the official SDK does."""
        return self.style is Style.GENERATOR

    def decode_input(self, text: str) -> Arguments:
        """The arguments after the context."""
        if self.raw:
            return (text,), {}
        return self.signature.decode(self.codec, text)

    def encode_input(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The payload that starts it."""
        if self.raw:
            return _the_raw_text(self.name, args, kwargs)
        return self.signature.encode(self.name, self.codec, args, kwargs)

    def encode_output(self, value: object) -> str:
        if self.raw:
            return _checked_text(self.name, value)
        return self.codec.encode(value)

    def decode_output(self, text: str) -> Any:
        """What a parent or a client gets."""
        if self.raw:
            return text
        return self.codec.decode(text, awaited_result(self.signature.result))

    def launch(self, journal: Journal, prepared: object) -> Coroutine[Any, Any, str]:
        """The code, ready to be driven by the engine."""
        from duroxide.driver import launch

        return launch(self, journal, prepared)


def awaited_result(annotation: Any) -> Any:
    """The type of what a call gives: of a generator, its return value."""
    arguments: tuple[Any, ...] = getattr(annotation, "__args__", ())
    origin = getattr(annotation, "__origin__", None)
    if getattr(origin, "__name__", "") in ("Generator", "Coroutine") and len(arguments) == 3:
        return arguments[2]
    if getattr(origin, "__name__", "") == "Awaitable" and arguments:
        return arguments[0]
    return annotation


def _the_raw_text(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    if kwargs or len(args) > 1:
        raise TypeError(f"{name!r} is raw: it takes one text")
    return _checked_text(name, args[0] if args else "")


def _checked_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name!r} is raw: its payload is a str, not a {type(value).__name__}")
    return value


def style_of(fn: Callable[..., Any], what: str) -> Style:
    """How a function is written.

    Raises:
        RegistrationError: it is an async generator.
    """
    inner = underlying(fn)
    if inspect.isasyncgenfunction(inner):
        raise RegistrationError(
            f"{what} is an async generator (it has both `async def` and `yield`): write `await` "
            "instead of `yield`, or `def` instead of `async def`"
        )
    if inspect.iscoroutinefunction(inner):
        return Style.NATIVE
    return Style.GENERATOR if inspect.isgeneratorfunction(inner) else Style.PLAIN


def define_activity(
    fn: Callable[P, R],
    *,
    name: str | None = None,
    takes_context: bool | None = None,
    raw: bool = False,
    codec: Codec = JSON,
    retry: RetryPolicy | None = None,
    max_concurrency: int | None = None,
    executor: Executor | None = None,
    head_start: BeginEarly | None = None,
) -> ActivityDef[P, R]:
    """Describe a function as an activity.

    Args:
        name: default: the function's own.
        takes_context: whether the first parameter is the context; default: by its name or annotation.
        raw: it takes the payload's exact text and returns the result's.
        head_start: begins what the activity would begin with, while the turn is being committed that
            adds it, and what can be undone until then; the activity finds it in `ctx.head_start`.

    Raises:
        RegistrationError: the function can't be one.
    """
    given = name or _own_name(fn)
    if not given:
        raise RegistrationError("an activity needs a name")
    style = style_of(fn, f"activity {given!r}")
    if style is Style.GENERATOR:
        raise RegistrationError(f"activity {given!r} is a generator; only orchestrations can be")
    if max_concurrency is not None and max_concurrency < 1:
        raise RegistrationError(f"activity {given!r}: max_concurrency is {max_concurrency}")
    return ActivityDef(
        name=given,
        fn=fn,
        is_async=style is Style.NATIVE,
        takes_context=_context_first(fn, takes_context),
        signature=_signature(fn, takes_context, raw, f"activity {given!r}"),
        codec=codec,
        retry=retry,
        max_concurrency=max_concurrency,
        executor=executor,
        raw=raw,
        head_start=head_start,
    )


def define_orchestration(
    fn: Callable[P, R],
    *,
    name: str | None = None,
    version: str = DEFAULT_VERSION,
    raw: bool = False,
    codec: Codec = JSON,
    prepare: Prepare | None = None,
    cancel_grace_ms: int | None = None,
) -> OrchestrationDef[P, R]:
    """Describe a function as an orchestration; its first parameter is the context.

    Raises:
        RegistrationError: the function can't be one, or the version is not of the form 1.2.3.
    """
    given = name or _own_name(fn)
    if not given:
        raise RegistrationError("an orchestration needs a name")
    try:
        SemVer.parse(version)
    except ValueError as error:
        raise RegistrationError(f"orchestration {given!r}: {error}") from error
    return OrchestrationDef(
        name=given,
        version=version,
        fn=fn,
        style=style_of(fn, f"orchestration {given!r}"),
        signature=_signature(fn, True, raw, f"orchestration {given!r}"),
        codec=codec,
        raw=raw,
        prepare=prepare,
        cancel_grace_ms=cancel_grace_ms,
    )


def _own_name(fn: Callable[..., Any]) -> str:
    name = getattr(underlying(fn), "__name__", "")
    return type(fn).__name__ if name == "__call__" else name


def _signature(
    fn: Callable[..., Any], takes_context: bool | None, raw: bool, what: str
) -> Signature:
    if raw:
        return UNKNOWN
    return signature_of(fn, takes_context=takes_context, what=what)


def _context_first(fn: Callable[..., Any], takes_context: bool | None) -> bool:
    if takes_context is not None:
        return takes_context
    return signature_of(fn, what="activity").takes_context
