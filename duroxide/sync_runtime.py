"""Blocking `Runtime`: an async one in the background, with the registration of the official SDK."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar, overload

from duroxide.activity_context import ActivityContext
from duroxide.definitions import DEFAULT_VERSION, Style, define_activity, define_orchestration
from duroxide.errors import ClientError, ProviderError
from duroxide.portal import shared_portal
from duroxide.providers import base
from duroxide.registry import RESERVED_PREFIX, Registry
from duroxide.results import MetricsSnapshot
from duroxide.runtime.counting import CountingObserver
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.runtime.telemetry import Observers
from duroxide.sdk_codec import SDK_JSON
from duroxide.signatures import signature_of
from duroxide.sync import Client
from duroxide.sync_users import Use

Fn = TypeVar("Fn", bound=Callable[..., Any])


def _sdk_function(ctx: object, input: Any) -> Any: ...  # noqa: A002 - the SDK's name


# The SDK's functions take plain JSON values, whatever their annotations claim.
_PLAIN_JSON = signature_of(_sdk_function, takes_context=True, what="an SDK function")


class SdkActivityContext:
    """What an activity registered with `Runtime.register_activity` gets as its first argument."""

    def __init__(self, context: ActivityContext, provider: base.Provider) -> None:
        self._context = context
        self._provider = provider
        self.instance_id = context.instance_id
        self.execution_id = context.execution_id
        self.orchestration_name = context.orchestration_name
        self.orchestration_version = context.orchestration_version
        self.activity_name = context.activity_name
        self.worker_id = context.worker_id
        self.session_id = context.session_id
        self.attempt = context.attempt

    def tag(self) -> str | None:
        return self._context.tag

    def is_cancelled(self) -> bool:
        return self._context.is_cancelled()

    def get_client(self) -> Client:
        return Client(self._provider)

    def trace_info(self, message: str) -> None:
        self._context.logger.info(message)

    def trace_warn(self, message: str) -> None:
        self._context.logger.warning(message)

    def trace_error(self, message: str) -> None:
        self._context.logger.error(message)

    def trace_debug(self, message: str) -> None:
        self._context.logger.debug(message)


class Runtime:
    """Runs orchestrations and activities in the background of a blocking program.

    Register everything, then `start`, which returns at once; `shutdown` when done. Also a context
    manager.
    """

    def __init__(self, provider: Any, options: RuntimeOptions | None = None) -> None:
        self._provider: base.Provider = provider
        self._options = options or RuntimeOptions()
        self._portal = shared_portal()
        self._use = Use(provider, is_work=True)
        self._registry = Registry()
        self._counts = CountingObserver()
        self._runtime: AsyncRuntime | None = None

    def __enter__(self) -> Runtime:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def register(self, *definitions: Any) -> None:
        """What `@activity` and `@orchestration` have made."""
        self._registry.add(*definitions)

    @overload
    def register_activity(self, name: str, fn: Fn) -> Fn: ...

    @overload
    def register_activity(self, name: str, fn: None = None) -> Callable[[Fn], Fn]: ...

    def register_activity(self, name: str, fn: Fn | None = None) -> Any:
        """Register `fn(ctx, input)`; without `fn`, a decorator that returns the function unchanged."""

        def register(function: Fn) -> Fn:
            if not name.startswith(RESERVED_PREFIX):
                adapted = self._with_sdk_context(function)
                self._registry.add_activity(
                    define_activity(adapted, name=name, takes_context=True, codec=SDK_JSON)
                )
            return function

        return register if fn is None else register(fn)

    def _with_sdk_context(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def call_async(ctx: ActivityContext, input: Any) -> Any:  # noqa: A002 - the SDK's name
                return await function(SdkActivityContext(ctx, self._provider), input)

            return _untyped(call_async)

        @wraps(function)
        def call(ctx: ActivityContext, input: Any) -> Any:  # noqa: A002 - the SDK's name
            return function(SdkActivityContext(ctx, self._provider), input)

        return _untyped(call)

    @overload
    def register_orchestration(self, name: str, fn: Fn) -> Fn: ...

    @overload
    def register_orchestration(self, name: str, fn: None = None) -> Callable[[Fn], Fn]: ...

    def register_orchestration(self, name: str, fn: Fn | None = None) -> Any:
        """Register version 1.0.0 of a generator (or plain) function `fn(ctx, input)`."""
        return self.register_orchestration_versioned(name, DEFAULT_VERSION, fn)

    @overload
    def register_orchestration_versioned(self, name: str, version: str, fn: Fn) -> Fn: ...

    @overload
    def register_orchestration_versioned(
        self, name: str, version: str, fn: None = None
    ) -> Callable[[Fn], Fn]: ...

    def register_orchestration_versioned(
        self, name: str, version: str, fn: Fn | None = None
    ) -> Any:
        def register(function: Fn) -> Fn:
            definition = define_orchestration(function, name=name, version=version, codec=SDK_JSON)
            if definition.style is not Style.NATIVE:
                definition = replace(definition, signature=_PLAIN_JSON)
            self._registry.add_orchestration(definition)
            return function

        return register if fn is None else register(fn)

    register_activity_typed = register_activity
    register_orchestration_typed = register_orchestration
    register_orchestration_versioned_typed = register_orchestration_versioned

    def start(self) -> None:
        """Begin to work, in the background.

        Raises:
            RuntimeError: it was started already, or the store can't be used.
        """
        if self._runtime is not None:
            raise RuntimeError("the runtime is running already")
        options = _observed(self._options, self._counts)
        runtime = AsyncRuntime(self._provider, self._registry, options)

        async def begin() -> None:
            await runtime.start()
            self._use.begin()

        try:
            self._portal.call(begin())
        except ProviderError as error:
            raise ClientError(str(error)) from error
        self._runtime = runtime

    def shutdown(self, timeout_ms: int | None = None) -> None:
        """Finish what is under way, for at most `timeout_ms` (default 1000), and stop."""
        runtime, self._runtime = self._runtime, None
        if runtime is None:
            return
        limit = timedelta(milliseconds=1000 if timeout_ms is None else timeout_ms)

        async def end() -> None:
            try:
                await runtime.drain(limit)
                await runtime.stop()
            finally:
                await self._use.end()

        self._portal.call(end())

    def metrics_snapshot(self) -> MetricsSnapshot | None:
        return self._counts.snapshot()


def _untyped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Without annotations: the SDK's activities take plain JSON values, whatever they claim."""
    del function.__wrapped__  # type: ignore[attr-defined]  # set by wraps
    function.__annotations__ = {}
    return function


def _observed(options: RuntimeOptions, counts: CountingObserver) -> RuntimeOptions:
    return replace(options, observer=Observers(counts, options.observer))
