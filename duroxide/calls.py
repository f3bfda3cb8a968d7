"""How an orchestration asks for activities and for other orchestrations; arguments and results are typed."""

# ruff: noqa: A002 - `id` is the public name of an argument
from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypedDict, TypeVar, Unpack, overload

from duroxide.activity_context import ActivityContext
from duroxide.engine.futures import DurableFuture
from duroxide.engine.journal import ScheduledFuture
from duroxide.payload import JSON
from duroxide.registry import ActivityDef, BoundActivity, OrchestrationDef
from duroxide.replaylog import ReplayLogger
from duroxide.retry import RetryPolicy
from duroxide.retrying import Schedule, call_with_retry
from duroxide.sdk_context import SdkMethods
from duroxide.signatures import encode_positional

P = ParamSpec("P")
T = TypeVar("T")


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

        A type checker compares the arguments with the function's. With options it can do so if they
        are bound first: `ctx.call(reserve.bind(order), timeout=5)`.

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

    # Other orchestrations.

    @overload
    def call_child(
        self,
        orchestration: OrchestrationDef[..., Coroutine[Any, Any, T]]
        | OrchestrationDef[..., Generator[Any, Any, T]],
        *args: Any,
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
        orchestration: OrchestrationDef[..., Any] | str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        result: Any = Any,
    ) -> DurableFuture[Any]: ...

    def call_child(
        self,
        orchestration: OrchestrationDef[..., Any] | str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        result: Any = Any,
    ) -> DurableFuture[Any]:
        """Start a child orchestration and wait for its output.

        Args:
            id: of the instance; default: derived from this execution.
            version: default: the version policy of the worker that starts it. A decorated function
                stands for its name only, since the worker may know later versions.
            result: the type of the output, for a mere name.

        Raises (when awaited):
            SubOrchestrationError: it failed, was cancelled, or the id is taken.

        Raises (at once):
            ValueError: the id begins with `sub::`.
        """
        name, text = _start_of(orchestration, args)
        if isinstance(orchestration, str):
            decode: Callable[[str], Any] = lambda text: JSON.decode(text, result)  # noqa: E731
        else:
            decode = orchestration.decode_output
        return self.journal.child(name, text, instance=id, version=version, decode=decode)

    def start(
        self,
        orchestration: OrchestrationDef[..., Any] | str,
        *args: Any,
        id: str,
        version: str | None = None,
    ) -> None:
        """Start an orchestration and have nothing more to do with it.

        Raises:
            ValueError: the id uses the marker of child ids, `sub::`.
        """
        name, text = _start_of(orchestration, args)
        self.journal.detached(name, id, text, version)


def _start_of(
    orchestration: OrchestrationDef[..., Any] | str, args: tuple[Any, ...]
) -> tuple[str, str]:
    if isinstance(orchestration, str):
        return orchestration, encode_positional(args)
    return orchestration.name, orchestration.encode_input(args, {})


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
