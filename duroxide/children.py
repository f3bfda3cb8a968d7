"""How an orchestration starts others: children that answer, and instances that it leaves alone."""

# ruff: noqa: A002 - `id` is the public name of an argument
from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from duroxide.definitions import OrchestrationDef
from duroxide.engine.futures import DurableFuture
from duroxide.payload import JSON
from duroxide.sdk_context import SdkMethods
from duroxide.shapes import Orchestration0, Orchestration1, Orchestration2, Orchestration3
from duroxide.signatures import encode_positional

if TYPE_CHECKING:
    from duroxide.context import OrchestrationContext

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class ChildMethods(SdkMethods):
    """Mixed into `OrchestrationContext`."""

    @overload
    def call_child(
        self,
        orchestration: OrchestrationDef[
            Concatenate[OrchestrationContext, P], Coroutine[Any, Any, T]
        ]
        | OrchestrationDef[Concatenate[OrchestrationContext, P], Generator[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: OrchestrationDef[Concatenate[OrchestrationContext, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: Orchestration0[Coroutine[Any, Any, T]]
        | Orchestration0[Generator[Any, Any, T]],
        /,
        *,
        id: str | None = None,
        version: str | None = None,
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: Orchestration0[T],
        /,
        *,
        id: str | None = None,
        version: str | None = None,
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: Orchestration1[A, Coroutine[Any, Any, T]]
        | Orchestration1[A, Generator[Any, Any, T]],
        a: A,
        /,
        *,
        id: str | None = None,
        version: str | None = None,
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: Orchestration1[A, T],
        a: A,
        /,
        *,
        id: str | None = None,
        version: str | None = None,
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: Orchestration2[A, B, Coroutine[Any, Any, T]]
        | Orchestration2[A, B, Generator[Any, Any, T]],
        a: A,
        b: B,
        /,
        *,
        id: str | None = None,
        version: str | None = None,
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: Orchestration2[A, B, T],
        a: A,
        b: B,
        /,
        *,
        id: str | None = None,
        version: str | None = None,
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: Orchestration3[A, B, C, Coroutine[Any, Any, T]]
        | Orchestration3[A, B, C, Generator[Any, Any, T]],
        a: A,
        b: B,
        c: C,
        /,
        *,
        id: str | None = None,
        version: str | None = None,
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: Orchestration3[A, B, C, T],
        a: A,
        b: B,
        c: C,
        /,
        *,
        id: str | None = None,
        version: str | None = None,
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        result: type[T],
    ) -> DurableFuture[T]: ...

    @overload
    def call_child(
        self,
        orchestration: str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        result: Any = Any,
    ) -> DurableFuture[Any]: ...

    def call_child(  # type: ignore[misc]  # an argument may be called like an option: it is refused
        self,
        orchestration: OrchestrationDef[..., Any] | str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        result: Any = Any,
        **kwargs: Any,
    ) -> DurableFuture[Any]:
        """Start a child orchestration and wait for its output.

        A type checker compares the arguments with the function's; beside options, up to three of them
        by position.

        Args:
            args, kwargs: its input; several for a mere name are sent as an array.
            id: of the instance; default: derived from this execution.
            version: default: the version policy of the worker that starts it. A decorated function
                stands for its name only, since the worker may know later versions.
            result: the type of the output, for a mere name.

        Raises (when awaited):
            SubOrchestrationError: it failed, was cancelled, or the id is taken.

        Raises (at once):
            ValueError: the id begins with `sub::`.
            LimitExceeded: the input, a name or the history is too big.
            CodecError: an argument has no JSON form.
            TypeError: the arguments do not fit the function.
        """
        name, text = _start_of(orchestration, args, kwargs, id=id, version=version)
        if isinstance(orchestration, str):
            decode: Callable[[str], Any] = lambda text: JSON.decode(text, result)  # noqa: E731
        else:
            decode = orchestration.decode_output
        return self.journal.child(name, text, instance=id, version=version, decode=decode)

    @overload
    def start(
        self, orchestration: Orchestration0[Any], /, *, id: str, version: str | None = None
    ) -> None: ...

    @overload
    def start(
        self, orchestration: Orchestration1[A, Any], a: A, /, *, id: str, version: str | None = None
    ) -> None: ...

    @overload
    def start(
        self,
        orchestration: Orchestration2[A, B, Any],
        a: A,
        b: B,
        /,
        *,
        id: str,
        version: str | None = None,
    ) -> None: ...

    @overload
    def start(
        self,
        orchestration: Orchestration3[A, B, C, Any],
        a: A,
        b: B,
        c: C,
        /,
        *,
        id: str,
        version: str | None = None,
    ) -> None: ...

    @overload
    def start(
        self, orchestration: str, *args: Any, id: str, version: str | None = None
    ) -> None: ...

    def start(  # type: ignore[misc]  # as above
        self,
        orchestration: OrchestrationDef[..., Any] | str,
        *args: Any,
        id: str,
        version: str | None = None,
    ) -> None:
        """Start an orchestration and have nothing more to do with it.

        Args:
            id: of the instance. If there is one already, nothing happens.
            version: default: the version policy of the worker that starts it.

        Raises:
            ValueError: the id uses the marker of child ids, `sub::`.
            LimitExceeded, CodecError, TypeError: as `call_child`.
        """
        name, text = _start_of(orchestration, args, {}, id=id, version=version)
        self.journal.detached(name, id, text, version)


def _start_of(
    orchestration: OrchestrationDef[..., Any] | str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    **options: str | None,
) -> tuple[str, str]:
    """Name and input text."""
    if isinstance(orchestration, str):
        if kwargs:
            raise TypeError(
                f"orchestration {orchestration!r} is called by name, without keyword arguments"
            )
        return orchestration, encode_positional(args)
    if not isinstance(orchestration, OrchestrationDef):
        raise TypeError(
            f"{orchestration!r} is no orchestration: decorate it with @orchestration, or give a name"
        )
    for option, value in options.items():
        if value is not None and option in orchestration.signature.names:
            raise TypeError(
                f"{option!r} is an option of the call and an argument of {orchestration.name!r}: "
                f"start it by name, {orchestration.name!r}"
            )
    return orchestration.name, orchestration.encode_input(args, kwargs)
