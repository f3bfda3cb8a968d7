"""Starting and signalling inside a transaction that the caller owns: with its own rows or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from duroxide.ids import InstanceId
from duroxide.outgoing import Composer, Letter, Request, Signal
from duroxide.providers.base import Message
from duroxide.registry import OrchestrationDef
from duroxide.sdk_codec import SDK_JSON

Send: TypeAlias = Callable[[Sequence[Message]], None]
AsyncSend: TypeAlias = Callable[[Sequence[Message]], Awaitable[None]]


class AsyncTransaction:
    """`AsyncClient`'s ways to send, in the caller's transaction: seen by workers once it commits.

    What the database raises comes as the caller's driver raises it, and spoils his transaction as any
    other statement of his would. Starting an id that exists is ignored.
    """

    def __init__(self, composer: Composer, send: AsyncSend) -> None:
        self._compose = composer
        self._send = send

    async def start(
        self,
        orchestration: OrchestrationDef[..., Any] | str,
        *args: Any,
        instance_id: InstanceId | None = None,
        version: str | None = None,
        signal: Signal | None = None,
    ) -> InstanceId:
        """Start an instance, with a signal if there is one; returns its id."""
        name, text, version = self._compose.call(orchestration, args, version)
        return await self._post(self._compose.start(name, text, instance_id, version, signal))

    async def raise_event(self, instance_id: InstanceId, name: str, data: Any = None) -> None:
        await self._post(self._compose.signal(instance_id, Signal(name=name, data=data)))

    async def enqueue(self, instance_id: InstanceId, queue: str, data: Any = None) -> None:
        signal = Signal(name=queue, data=data, queued=True)
        await self._post(self._compose.signal(instance_id, signal))

    async def cancel(self, instance_id: InstanceId, reason: str = "") -> None:
        await self._post(self._compose.cancel(instance_id, reason))

    async def send_many(self, requests: Sequence[Request]) -> list[InstanceId]:
        """Any number of requests in one statement, all or none; the ids of their instances."""
        letters = [self._compose.compose(request) for request in requests]
        await self._send([message for letter in letters for message in letter.messages])
        return [letter.instance_id for letter in letters]

    async def _post(self, letter: Letter) -> InstanceId:
        await self._send(letter.messages)
        return letter.instance_id


class Transaction:
    """`Client`'s ways to send, in the caller's transaction and in his thread."""

    def __init__(self, send: Send) -> None:
        self._compose = Composer(SDK_JSON)
        self._send = send

    def start_orchestration(self, instance_id: str, name: str, input: Any = None) -> None:  # noqa: A002 - the SDK's name
        self._start(instance_id, name, input, None, None)

    def start_orchestration_versioned(
        self,
        instance_id: str,
        name: str,
        input: Any,  # noqa: A002 - the SDK's name
        version: str,
    ) -> None:
        self._start(instance_id, name, input, version, None)

    def start_with_signal(
        self,
        instance_id: str,
        name: str,
        input: Any,  # noqa: A002 - as above
        signal: Signal,
    ) -> None:
        self._start(instance_id, name, input, None, signal)

    def raise_event(self, instance_id: str, event_name: str, data: Any = None) -> None:
        self._post(self._compose.signal(instance_id, Signal(name=event_name, data=data)))

    def enqueue_event(self, instance_id: str, queue_name: str, data: Any = None) -> None:
        signal = Signal(name=queue_name, data=data, queued=True)
        self._post(self._compose.signal(instance_id, signal))

    def cancel_instance(self, instance_id: str, reason: str | None = None) -> None:
        self._post(self._compose.cancel(instance_id, reason or ""))

    def send_many(self, requests: Sequence[Request]) -> list[InstanceId]:
        """Any number of requests in one statement, all or none; the ids of their instances."""
        letters = [self._compose.compose(request) for request in requests]
        self._send([message for letter in letters for message in letter.messages])
        return [letter.instance_id for letter in letters]

    def _start(
        self, instance_id: str, name: str, value: Any, version: str | None, signal: Signal | None
    ) -> None:
        text = SDK_JSON.encode(value)
        self._post(self._compose.start(name, text, instance_id, version, signal))

    def _post(self, letter: Letter) -> None:
        self._send(letter.messages)
