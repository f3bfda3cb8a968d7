"""Blocking `Client` and `Runtime`: the names of the official SDK over the async ones, and no logic."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

from duroxide.activity_context import ActivityContext
from duroxide.client import AsyncClient, caller_transactions
from duroxide.definitions import DEFAULT_VERSION, Style, define_activity, define_orchestration
from duroxide.errors import ClientError, InstanceNotFound, ProviderError, WaitTimeout
from duroxide.outgoing import Request, Sent, Signal
from duroxide.portal import shared_portal
from duroxide.providers import base
from duroxide.registry import RESERVED_PREFIX, Registry
from duroxide.results import (
    DeleteInstanceResult,
    Event,
    ExecutionInfo,
    InstanceFilter,
    InstanceInfo,
    InstanceTree,
    MetricsSnapshot,
    OrchestrationResult,
    PruneOptions,
    PruneResult,
    QueueDepths,
    SystemMetrics,
    SystemStats,
    decoded,
)
from duroxide.runtime.counting import CountingObserver
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.runtime.telemetry import Observers
from duroxide.sdk_codec import SDK_JSON
from duroxide.signatures import signature_of
from duroxide.transactions import Transaction

T = TypeVar("T")
Fn = TypeVar("Fn", bound=Callable[..., Any])

WAIT_MS = 30_000

_running: list[base.Provider] = []
"""Of each runtime that works, its provider; only the portal's thread changes it."""


@runtime_checkable
class Resting(Protocol):
    """A provider that can give up its connections for the time in which nobody needs it."""

    async def rest(self) -> None: ...


def _sdk_function(ctx: object, input: Any) -> Any: ...  # noqa: A002 - the SDK's name


# The SDK's functions take plain JSON values, whatever their annotations claim.
_PLAIN_JSON = signature_of(_sdk_function, takes_context=True, what="an SDK function")


class Client:
    """Starts, steers and watches instances. Safe to use from any thread, and beside a running loop.

    Values are written as JSON. Failures are `RuntimeError`s, mostly the more telling `ClientError`s, which
    say whether the same call may be made again (`retryable`).

    Args:
        provider: opened on first use; one object may serve a client and a runtime.
    """

    def __init__(self, provider: Any) -> None:
        self._provider: base.Provider = provider
        self._portal = shared_portal()
        self._client = AsyncClient(provider, codec=SDK_JSON)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        async def started() -> T:
            try:
                await self._provider.start()
            except BaseException:
                work.close()
                raise
            return await work

        try:
            return self._portal.call(started())
        except ProviderError as error:
            failure = ClientError(str(error))
            failure.retryable = error.retryable
            raise failure from error

    @property
    def _admin(self) -> base.ProviderAdmin:
        return self._client.admin

    # Starting and steering.

    def start_orchestration(self, instance_id: str, name: str, input: Any = None) -> None:  # noqa: A002 - the SDK's name
        """Ask for an instance; an id that was started before is left as it is."""
        self._call(self._client.start_raw(name, SDK_JSON.encode(input), instance_id=instance_id))

    def start_orchestration_versioned(
        self,
        instance_id: str,
        name: str,
        input: Any,  # noqa: A002 - the SDK's name
        version: str,
    ) -> None:
        text = SDK_JSON.encode(input)
        self._call(self._client.start_raw(name, text, instance_id=instance_id, version=version))

    start_orchestration_typed = start_orchestration
    start_orchestration_versioned_typed = start_orchestration_versioned

    def start_with_signal(
        self,
        instance_id: str,
        name: str,
        input: Any,  # noqa: A002 - as above
        signal: Signal,
    ) -> None:
        """Start and signal in one commit: both happen or neither."""
        text = SDK_JSON.encode(input)
        self._call(self._client.start_raw(name, text, instance_id=instance_id, signal=signal))

    def send_many(self, requests: Sequence[Request]) -> list[Sent]:
        """Starts, signals and cancellations in one call, each with an answer of its own."""
        return self._call(self._client.send_many(requests))

    def within(self, connection: Any) -> Transaction:
        """Start and signal inside the transaction that is open on a connection of the caller's.

        It commits or rolls back together with what the caller writes. On PostgreSQL: a connection of
        psycopg, or a `Connection` or `Session` of SQLAlchemy; on SQLite: a `sqlite3` connection to the
        store's file, which has to have been opened once. Runs in the caller's thread.

        Raises:
            ClientError: the store can't; the transaction is not open, for what is sent then.
        """
        store = caller_transactions(self._provider)
        return Transaction(lambda messages: store.send_within(connection, messages))

    def cancel_instance(self, instance_id: str, reason: str | None = None) -> None:
        self._call(self._client.cancel(instance_id, reason or ""))

    def raise_event(self, instance_id: str, event_name: str, data: Any = None) -> None:
        self._call(self._client.raise_event(instance_id, event_name, data))

    def enqueue_event(self, instance_id: str, queue_name: str, data: Any = None) -> None:
        self._call(self._client.enqueue(instance_id, queue_name, data))

    raise_event_typed = raise_event
    enqueue_event_typed = enqueue_event

    # Looking and waiting.

    def get_status(self, instance_id: str) -> OrchestrationResult:
        return OrchestrationResult.of(self._call(self._client.status(instance_id)))

    def wait_for_orchestration(
        self, instance_id: str, timeout_ms: int = WAIT_MS
    ) -> OrchestrationResult:
        """Wait until it has completed or failed; it need not exist yet.

        Raises:
            WaitTimeout: it did not end in time.
        """
        limit = timedelta(milliseconds=timeout_ms)
        return OrchestrationResult.of(self._call(self._client.wait(instance_id, limit)))

    def wait_for_orchestration_typed(self, instance_id: str, timeout_ms: int = WAIT_MS) -> Any:
        """The output.

        Raises:
            Exception: it failed; the text is the failure's.
        """
        result = self.wait_for_orchestration(instance_id, timeout_ms)
        if result.status == "Failed":
            raise Exception(result.error)
        return result.output

    def wait_for_status_change(
        self,
        instance_id: str,
        last_seen_version: int = 0,
        poll_interval_ms: int = 200,
        timeout_ms: int = WAIT_MS,
    ) -> OrchestrationResult:
        """Wait for a newer custom status, or for the end. `poll_interval_ms` is not needed any more."""
        limit = timedelta(milliseconds=timeout_ms)
        state = self._call(
            self._client.wait_for_custom_status(instance_id, last_seen_version, limit)
        )
        return OrchestrationResult.of(state)

    def get_kv_value(self, instance_id: str, key: str) -> str | None:
        found = self._call(self._client.key_values(instance_id)).get(key)
        return None if found is None else found.value

    def get_kv_value_typed(self, instance_id: str, key: str) -> Any:
        return decoded(self.get_kv_value(instance_id, key))

    def get_kv_all_values(self, instance_id: str) -> dict[str, str]:
        values = self._call(self._client.key_values(instance_id))
        return {key: value.value for key, value in values.items()}

    def wait_for_kv_value(self, instance_id: str, key: str, timeout_ms: int = WAIT_MS) -> str:
        """Wait until the instance has stored that key.

        Raises:
            TimeoutError: it has not in time.
        """
        limit = timedelta(milliseconds=timeout_ms)
        try:
            return self._call(self._client.wait_for_key_value(instance_id, key, limit))
        except WaitTimeout as error:
            raise TimeoutError(
                f"Timed out waiting for value '{key}' on instance '{instance_id}'"
            ) from error

    def wait_for_kv_value_typed(self, instance_id: str, key: str, timeout_ms: int = WAIT_MS) -> Any:
        return decoded(self.wait_for_kv_value(instance_id, key, timeout_ms))

    # Managing.

    def get_system_metrics(self) -> SystemMetrics:
        found = self._call(self._admin.system_metrics())
        return SystemMetrics(*_fields(found))

    def get_orchestration_stats(self, instance_id: str) -> SystemStats | None:
        found = self._call(self._admin.instance_stats(instance_id))
        return None if found is None else SystemStats(*_fields(found))

    def get_queue_depths(self) -> QueueDepths:
        return QueueDepths(*_fields(self._call(self._admin.queue_depths())))

    def list_all_instances(self) -> list[str]:
        """Ids, newest first."""
        return [state.instance_id for state in self._call(self._admin.list_instances())]

    def list_instances_by_status(self, status: str) -> list[str]:
        found = self._call(self._admin.list_instances(status=status))
        return [state.instance_id for state in found]

    def get_instance_info(self, instance_id: str) -> InstanceInfo:
        state = self._call(self._client.status(instance_id))
        if state is None:
            raise InstanceNotFound(instance_id)
        return InstanceInfo.of(state)

    def get_execution_info(self, instance_id: str, execution_id: int) -> ExecutionInfo:
        for info in self._call(self._admin.list_executions(instance_id)):
            if info.execution_id == execution_id:
                return ExecutionInfo.of(info)
        raise InstanceNotFound(f"{instance_id}, execution {execution_id}")

    def list_executions(self, instance_id: str) -> list[int]:
        return [info.execution_id for info in self._call(self._admin.list_executions(instance_id))]

    def read_execution_history(self, instance_id: str, execution_id: int) -> list[Event]:
        """The events; none if there is no such execution."""
        try:
            events = self._call(self._client.history(instance_id, execution_id))
        except InstanceNotFound:
            return []
        return [Event.of(event) for event in events]

    def get_instance_tree(self, instance_id: str) -> InstanceTree:
        return InstanceTree(instance_id, list(self._call(self._admin.instance_tree(instance_id))))

    def list_instances(
        self,
        which: base.InstanceQuery | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> base.InstancePage:
        """A page of the instances that pass a query, newest first; `cursor` is `next_cursor` of the last."""
        return self._call(self._client.page(which, limit=limit, cursor=cursor))

    def list_poisoned(self, limit: int = 100, cursor: str | None = None) -> base.InstancePage:
        """A page of the instances that were given up because no worker could run them."""
        return self._call(self._client.poisoned(limit=limit, cursor=cursor))

    def start_again(
        self,
        instance_id: str,
        new_instance_id: str | None = None,
        version: str | None = None,
    ) -> str:
        """Start a new instance with the name and the input of another; its id."""
        again = self._client.start_again(
            instance_id, new_instance_id=new_instance_id, version=version
        )
        return self._call(again)

    def export_instance(self, instance_id: str, path: str | os.PathLike[str]) -> int:
        """Write an instance with its histories into a file, a line of JSON each; how many lines."""
        return self._call(self._client.export_to(instance_id, path))

    def has_management_capability(self) -> bool:
        """Whether the store offers lists, deletion and the like at all."""
        return self._client.has_management_capability

    def list_dead_letters(
        self, instance_id: str | None = None, limit: int = 100, cursor: int | None = None
    ) -> base.DeadLetterPage:
        """A page of the messages that were given up, oldest first."""
        return self._call(self._client.dead_letters(instance_id, limit=limit, cursor=cursor))

    def requeue_instance(self, instance_id: str) -> int:
        """Put its dead letters back as never delivered, and let it go on if it was given up; how many.

        Raises:
            ClientError: it has ended otherwise.
        """
        return self._call(self._client.requeue(instance_id))

    def discard_dead_letters(self, instance_id: str) -> int:
        """Delete the dead letters of an instance for good; how many."""
        return self._call(self._client.discard_dead_letters(instance_id))

    def suspend_instance(self, instance_id: str) -> bool:
        """Give it no turns until it is resumed; what comes for it waits. False: it was suspended already.

        Raises:
            ClientError: it has ended; InstanceNotFound if it is unknown, or has had no turn yet.
        """
        return self._call(self._client.suspend(instance_id))

    def resume_instance(self, instance_id: str) -> bool:
        """Let it go on with what has waited; False: it was not suspended."""
        return self._call(self._client.resume(instance_id))

    def delete_instance(self, instance_id: str, force: bool = False) -> DeleteInstanceResult:
        """Delete an instance with all its children.

        Raises:
            ClientError: it is running, unknown, or itself a child.
        """
        result = self._call(self._client.delete(instance_id, force=force))
        return DeleteInstanceResult(*_fields(result))

    def delete_instance_bulk(self, filter: InstanceFilter | None = None) -> DeleteInstanceResult:  # noqa: A002 - the SDK's name
        which = (filter or InstanceFilter()).to_base()
        result = self._call(self._admin.delete_instances_by_filter(which))
        return DeleteInstanceResult(*_fields(result))

    def prune_executions(
        self, instance_id: str, options: PruneOptions | None = None
    ) -> PruneResult:
        chosen = (options or PruneOptions()).to_base()
        return PruneResult(*_fields(self._call(self._admin.prune_executions(instance_id, chosen))))

    def prune_executions_bulk(
        self,
        filter: InstanceFilter | None = None,  # noqa: A002 - the SDK's name
        options: PruneOptions | None = None,
    ) -> PruneResult:
        which, chosen = (
            (filter or InstanceFilter()).to_base(),
            (options or PruneOptions()).to_base(),
        )
        result = self._call(self._admin.prune_executions_by_filter(which, chosen))
        return PruneResult(*_fields(result))


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
            _running.append(self._provider)

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
                _leave(self._provider)
            # Nobody closes the provider of a blocking program: what a server has to keep for it ends
            # here, and a client that goes on opens what it needs.
            if isinstance(self._provider, Resting) and not any(
                other is self._provider for other in _running
            ):
                await self._provider.rest()

        self._portal.call(end())

    def metrics_snapshot(self) -> MetricsSnapshot | None:
        return self._counts.snapshot()


def _fields(value: Any) -> list[Any]:
    return [getattr(value, name) for name in value.__slots__]


def _untyped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Without annotations: the SDK's activities take plain JSON values, whatever they claim."""
    del function.__wrapped__  # type: ignore[attr-defined]  # set by wraps
    function.__annotations__ = {}
    return function


def _observed(options: RuntimeOptions, counts: CountingObserver) -> RuntimeOptions:
    return replace(options, observer=Observers(counts, options.observer))


def _leave(provider: base.Provider) -> None:
    """Take one runtime of this very provider out; providers need not be comparable."""
    place = next(n for n, other in enumerate(_running) if other is provider)
    del _running[place]
