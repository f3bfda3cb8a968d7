"""How an orchestration asks for activities; a type checker knows their arguments and results."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypedDict, TypeVar, Unpack, overload

from duroxide.activity_context import ActivityContext
from duroxide.definitions import ActivityDef, BoundActivity
from duroxide.engine.futures import DurableFuture
from duroxide.engine.journal import ScheduledFuture
from duroxide.payload import JSON
from duroxide.replaylog import ReplayLogger
from duroxide.retry import RetryPolicy
from duroxide.retrying import Schedule, call_with_retry
from duroxide.sdk_context import SdkMethods
from duroxide.shapes import (
    Activity0,
    Activity1,
    Activity2,
    Activity3,
    ContextActivity0,
    ContextActivity1,
    ContextActivity2,
    ContextActivity3,
)
from duroxide.signatures import encode_positional

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class CallOptions(TypedDict, total=False):
    """How an activity is called, beside its arguments; see `OrchestrationContext.call`."""

    tag: str | None
    session: str | None
    retry: RetryPolicy | None
    timeout: float | timedelta | None


_OPTIONS = frozenset(CallOptions.__annotations__)


class CallMethods(SdkMethods):
    """Mixed into `OrchestrationContext`."""

    @property
    def logger(self) -> ReplayLogger:
        raise NotImplementedError

    # Activities.

    @overload
    def call(
        self,
        activity: ActivityDef[Concatenate[ActivityContext, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self,
        activity: ActivityDef[Concatenate[ActivityContext, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self, activity: ActivityDef[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self, activity: ActivityDef[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self,
        activity: Activity0[Coroutine[Any, Any, T]] | ContextActivity0[Coroutine[Any, Any, T]],
        /,
        **options: Unpack[CallOptions],
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self,
        activity: Activity1[A, Coroutine[Any, Any, T]]
        | ContextActivity1[A, Coroutine[Any, Any, T]],
        a: A,
        /,
        **options: Unpack[CallOptions],
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self,
        activity: Activity2[A, B, Coroutine[Any, Any, T]]
        | ContextActivity2[A, B, Coroutine[Any, Any, T]],
        a: A,
        b: B,
        /,
        **options: Unpack[CallOptions],
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self,
        activity: Activity3[A, B, C, Coroutine[Any, Any, T]]
        | ContextActivity3[A, B, C, Coroutine[Any, Any, T]],
        a: A,
        b: B,
        c: C,
        /,
        **options: Unpack[CallOptions],
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self, activity: Activity0[T] | ContextActivity0[T], /, **options: Unpack[CallOptions]
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self,
        activity: Activity1[A, T] | ContextActivity1[A, T],
        a: A,
        /,
        **options: Unpack[CallOptions],
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self,
        activity: Activity2[A, B, T] | ContextActivity2[A, B, T],
        a: A,
        b: B,
        /,
        **options: Unpack[CallOptions],
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self,
        activity: Activity3[A, B, C, T] | ContextActivity3[A, B, C, T],
        a: A,
        b: B,
        c: C,
        /,
        **options: Unpack[CallOptions],
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self, activity: BoundActivity[T], **options: Unpack[CallOptions]
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self, activity: str, *args: Any, result: type[T], **options: Unpack[CallOptions]
    ) -> DurableFuture[T]: ...

    @overload
    def call(
        self, activity: str, *args: Any, result: Any = Any, **options: Unpack[CallOptions]
    ) -> DurableFuture[Any]: ...

    @overload
    def call(
        self,
        activity: ActivityDef[..., Any] | str,
        *,
        raw_input: str,
        **options: Unpack[CallOptions],
    ) -> DurableFuture[Any]: ...

    def call(  # type: ignore[misc]  # an argument may be called like an option: see `bind`
        self,
        activity: ActivityDef[..., Any] | BoundActivity[Any] | str,
        *args: Any,
        result: Any = Any,
        tag: str | None = None,
        session: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
        raw_input: str | None = None,
        **kwargs: Any,
    ) -> DurableFuture[Any]:
        """Ask for an activity.

        A type checker compares the arguments with the function's; beside options, up to three of them
        by position. More, or by keyword, are bound first: `ctx.call(reserve.bind(order, n=3), timeout=5)`.

        Args:
            activity: a decorated function, what its `bind` has made, or a name.
            args, kwargs: its arguments; several for a mere name are sent as an array.
            result: the type of the result, for a mere name.
            tag: only workers that accept this tag run it.
            session: all activities of a session run in the worker process that owns it.
            retry: default: the activity's own policy, else one attempt.
            timeout: of the whole call, all attempts included; seconds or a timedelta.
            raw_input: the exact input text, instead of `args`; the result is then the exact text too.

        Raises (when awaited):
            ActivityError: it failed, as often as the policy allows.
            DurableTimeout: it took too long.

        Raises (at once):
            LimitExceeded: an argument, the tag or the history is too big.
            CodecError: an argument has no JSON form.
            TypeError: the arguments do not fit the function.
        """
        if isinstance(activity, BoundActivity):
            args, kwargs = (*activity.args, *args), {**activity.kwargs, **kwargs}
            activity = activity.activity
        elif isinstance(activity, ActivityDef) and not _OPTIONS.isdisjoint(
            activity.signature.names
        ):
            given = {"tag": tag, "session": session, "retry": retry, "timeout": timeout}
            _refuse_ambiguous(activity, given)
        name, text, decode = self._activity_call(activity, args, kwargs, result, raw_input)
        policy = retry
        if policy is None and isinstance(activity, ActivityDef):
            policy = activity.retry

        def schedule() -> ScheduledFuture[Any]:
            return self.journal.activity(name, text, decode=decode, tag=tag, session_id=session)

        if timeout is not None:
            policy = with_total_timeout(policy, timeout)
        return schedule() if policy is None else self.retrying(schedule, policy)

    def _activity_call(
        self,
        activity: ActivityDef[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
        raw_input: str | None,
    ) -> tuple[str, str, Callable[[str], Any] | None]:
        """Name, input text, and what reads the result."""
        if not isinstance(activity, str | ActivityDef):
            raise TypeError(
                f"{activity!r} is no activity: decorate it with @activity, or give a name"
            )
        name = activity if isinstance(activity, str) else activity.name
        if raw_input is not None:
            if args or kwargs:
                raise TypeError("raw_input takes the place of arguments; give one or the other")
            return name, raw_input, None
        if isinstance(activity, str):
            if kwargs:
                raise TypeError(f"activity {name!r} is called by name, without keyword arguments")
            return name, encode_positional(args), lambda text: JSON.decode(text, result)
        text = activity.encode_arguments(args, kwargs)
        return name, text, None if activity.raw else activity.decode_result

    def retrying(self, schedule: Schedule, policy: RetryPolicy) -> DurableFuture[Any]:
        """Run attempts beside the code."""
        return self.journal.executor.spawn(
            call_with_retry(self.journal, schedule, policy, self.logger.warning)
        )


def _refuse_ambiguous(activity: ActivityDef[..., Any], given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None and name in activity.signature.names:
            raise TypeError(
                f"{name!r} is an option of the call and an argument of {activity.name!r}: "
                f"pass arguments with bind, ctx.call({activity.name}.bind(...), {name}=...)"
            )


def with_total_timeout(policy: RetryPolicy | None, timeout: float | timedelta) -> RetryPolicy:
    """The policy, bounded; without one, a single attempt, bounded."""
    limit = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
    base = policy or RetryPolicy(max_attempts=1)
    if base.total_timeout is not None:
        limit = min(limit, base.total_timeout)
    return replace(base, total_timeout=limit)
