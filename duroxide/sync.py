"""Blocking `Client`: the names of the official SDK over the async one, and no logic."""

from __future__ import annotations

import weakref
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, Self, TypeVar

from duroxide.client import AsyncClient, caller_transactions
from duroxide.errors import ClientError, ProviderError, WaitTimeout
from duroxide.outgoing import Request, Sent, Signal, check_text
from duroxide.portal import shared_portal
from duroxide.providers import base
from duroxide.results import OrchestrationResult, decoded
from duroxide.sdk_codec import SDK_JSON
from duroxide.sync_management import BlockingManagement
from duroxide.sync_users import Use
from duroxide.transactions import Transaction

T = TypeVar("T")

WAIT_MS = 30_000


class Client(BlockingManagement):
    """Starts, steers and watches instances. Safe to use from any thread, and beside a running loop.

    Values are written as JSON. Failures are `RuntimeError`s, mostly the more telling `ClientError`s, which
    say whether the same call may be made again (`retryable`).

    What a server keeps for it ends with `close`, with the block of `with`, or a moment after the client is
    garbage collected, unless others use the provider.

    Args:
        provider: opened on first use; one object may serve a client and a runtime.
    """

    def __init__(self, provider: Any) -> None:
        self._provider: base.Provider = provider
        self._portal = shared_portal()
        self._client = AsyncClient(provider, codec=SDK_JSON)
        self._use = Use(provider, is_work=False)
        weakref.finalize(self, self._use.drop, self._portal).atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the provider's connections back, unless others use it. A call that comes later opens what it needs."""
        if self._portal.is_inherited:  # there is nothing of ours in this process
            return
        try:
            self._portal.call(self._use.end())
        except ProviderError as error:
            raise ClientError(str(error)) from error

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        async def started() -> T:
            self._use.begin()
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

    # Starting and steering.

    def start_orchestration(self, instance_id: str, name: str, input: Any = None) -> None:  # noqa: A002 - the SDK's name
        """Ask for an instance; an id that was started before is left as it is."""
        text = SDK_JSON.encode(input)
        given = check_text(
            "instance id", instance_id
        )  # here None is a mistake, not a wish for an id
        self._call(self._client.start_raw(name, text, instance_id=given))

    def start_orchestration_versioned(
        self,
        instance_id: str,
        name: str,
        input: Any,  # noqa: A002 - the SDK's name
        version: str,
    ) -> None:
        text = SDK_JSON.encode(input)
        given = check_text("instance id", instance_id)
        self._call(self._client.start_raw(name, text, instance_id=given, version=version))

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
