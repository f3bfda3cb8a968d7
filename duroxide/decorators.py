"""`@activity` and `@orchestration`: a function becomes a definition that keeps its signature."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from datetime import timedelta
from typing import ParamSpec, TypeVar, overload

from duroxide.definitions import (
    DEFAULT_VERSION,
    ActivityDef,
    OrchestrationDef,
    Prepare,
    define_activity,
    define_orchestration,
)
from duroxide.payload import JSON, Codec
from duroxide.retry import RetryPolicy, milliseconds

P = ParamSpec("P")
R = TypeVar("R")


@overload
def activity(fn: Callable[P, R], /) -> ActivityDef[P, R]: ...


@overload
def activity(
    *,
    name: str | None = None,
    raw: bool = False,
    codec: Codec = JSON,
    retry: RetryPolicy | None = None,
    max_concurrency: int | None = None,
    executor: Executor | None = None,
) -> Callable[[Callable[P, R]], ActivityDef[P, R]]: ...


def activity(
    fn: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    raw: bool = False,
    codec: Codec = JSON,
    retry: RetryPolicy | None = None,
    max_concurrency: int | None = None,
    executor: Executor | None = None,
) -> ActivityDef[P, R] | Callable[[Callable[P, R]], ActivityDef[P, R]]:
    """Make a function an activity: it may do anything, and runs at least once for every call.

    A plain function runs in a thread (or on `executor`), an `async def` in the worker's event loop. If
    its first parameter is called `ctx`, it is given an `ActivityContext`.

    Args:
        name: under which it is recorded; default: the function's. Keep it when you rename the function.
        retry: for calls that bring no policy of their own; default: one attempt.
        max_concurrency: how many may run at once in one worker process.
        raw: payloads are exact texts; the function takes and returns `str`.

    Raises:
        RegistrationError: the function can't be an activity.
    """

    def define(function: Callable[P, R]) -> ActivityDef[P, R]:
        return define_activity(
            function,
            name=name,
            raw=raw,
            codec=codec,
            retry=retry,
            max_concurrency=max_concurrency,
            executor=executor,
        )

    return define if fn is None else define(fn)


@overload
def orchestration(fn: Callable[P, R], /) -> OrchestrationDef[P, R]: ...


@overload
def orchestration(
    *,
    name: str | None = None,
    version: str = DEFAULT_VERSION,
    raw: bool = False,
    codec: Codec = JSON,
    prepare: Prepare | None = None,
    cancel_grace: timedelta | None = None,
) -> Callable[[Callable[P, R]], OrchestrationDef[P, R]]: ...


def orchestration(
    fn: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    version: str = DEFAULT_VERSION,
    raw: bool = False,
    codec: Codec = JSON,
    prepare: Prepare | None = None,
    cancel_grace: timedelta | None = None,
) -> OrchestrationDef[P, R] | Callable[[Callable[P, R]], OrchestrationDef[P, R]]:
    """Make a function an orchestration: deterministic code whose every step is recorded.

    `async def` functions await what the context gives them; generator functions yield it.

    Args:
        name: under which it is recorded; default: the function's.
        version: of this code, as 1.2.3. Running instances go on with the version they began with.
        prepare: awaited before a turn with the text of the input; its result is `ctx.prepared`. It must
            give the same for the same text for ever.
        cancel_grace: how long the code may clean up after a cancel request, which it then sees as
            `OrchestrationCancelled`; a second request ends it at once. Default: it ends at once and sees
            nothing.

    Raises:
        RegistrationError: the function can't be an orchestration.
    """

    def define(function: Callable[P, R]) -> OrchestrationDef[P, R]:
        return define_orchestration(
            function,
            name=name,
            version=version,
            raw=raw,
            codec=codec,
            prepare=prepare,
            cancel_grace_ms=None if cancel_grace is None else milliseconds(cancel_grace),
        )

    return define if fn is None else define(fn)
