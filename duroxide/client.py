"""The async client: starts instances, talks to them and looks at them. It needs no runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast, overload

from duroxide.codec import decode_events
from duroxide.errors import (
    ClientError,
    DuroxideError,
    InstanceNotFound,
    ProviderError,
    WaitTimeout,
)
from duroxide.history import Event, OrchestrationStarted
from duroxide.ids import ExecutionId, InstanceId
from duroxide.management import Management
from duroxide.outgoing import Composer, IfExists, Letter, Request, Sent, Signal, StartRequest
from duroxide.payload import JSON, Codec
from duroxide.providers.base import (
    CallerTransactions,
    CommitResult,
    Enqueue,
    InstanceStatus,
    Provider,
)
from duroxide.registry import OrchestrationDef
from duroxide.runtime.watching import StatusReader, wait_for
from duroxide.state import ExecutionStatus, KeyValue
from duroxide.storable import flaw_of
from duroxide.transactions import AsyncTransaction

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_TIMEOUT = timedelta(seconds=30)
ONE_LOOK_S = 0.1  # who wants to wait for less still wants to know what is there already
MAX_TOGETHER = 256  # messages in one commit


class OrchestrationFailed(ClientError):
    """The instance that was waited for failed, or was cancelled."""

    def __init__(self, instance_id: InstanceId, message: str) -> None:
        super().__init__(instance_id, message)
        self.instance_id = instance_id
        self.message = message

    def __str__(self) -> str:
        return self.message


class InstanceExists(ClientError):
    """An instance of that id was started before."""

    def __init__(self, instance_id: InstanceId) -> None:
        super().__init__(instance_id)
        self.instance_id = instance_id

    def __str__(self) -> str:
        return f"instance {self.instance_id!r} exists already"


class AsyncClient(Management):
    """Starts, steers and watches instances through a store.

    A retryable `ProviderError` means that the outcome is unknown. Starting again is safe; raising an
    event again may raise it twice.

    Args:
        provider: started on first use; whoever made it closes it.
        codec: how values become payloads where no orchestration definition says otherwise.
    """

    def __init__(self, provider: Provider, *, codec: Codec = JSON) -> None:
        self.provider = provider
        self._codec = codec
        self._compose = Composer(codec)
        self._reader = StatusReader(provider)

    async def __aenter__(self) -> Self:
        await self.provider.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop watching; the provider stays open."""
        await self._reader.close()

    # Starting.

    async def start(
        self,
        orchestration: OrchestrationDef[..., Any] | str,
        *args: Any,
        instance_id: InstanceId | None = None,
        version: str | None = None,
        if_exists: IfExists = "ignore",
        signal: Signal | None = None,
    ) -> InstanceId:
        """Ask for an instance to be started; returns its id at once.

        Args:
            orchestration: a definition, which also pins its version, or a name.
            args: its arguments, without the context.
            instance_id: default: a new UUID. Starting an id twice starts it once.
            version: of the code; default: that of the definition, or what the worker's registry says.
            if_exists: "error" refuses an id that is known to the store. Two callers at the same time
                may both pass; still only one instance is started.
            signal: sent along in the same commit: both happen or neither.

        Raises:
            InstanceExists: it does, and `if_exists` is "error".
            ClientError: the id uses the marker of child ids, `sub::`.
        """
        name, text, version = self._compose.call(orchestration, args, version)
        return await self.start_raw(
            name,
            text,
            instance_id=instance_id,
            version=version,
            if_exists=if_exists,
            signal=signal,
        )

    async def start_raw(
        self,
        name: str,
        text: str,
        *,
        instance_id: InstanceId | None = None,
        version: str | None = None,
        if_exists: IfExists = "ignore",
        signal: Signal | None = None,
    ) -> InstanceId:
        """`start` with the exact text of the input."""
        if if_exists not in ("ignore", "error"):
            raise ValueError(f"if_exists must be 'ignore' or 'error', not {if_exists!r}")
        letter = self._compose.start(name, text, instance_id, version, signal)
        instance = letter.instance_id
        if if_exists == "error" and await self.provider.read_status([instance]):
            raise InstanceExists(instance)
        await self._send(letter)
        return instance

    async def start_again(
        self,
        instance_id: InstanceId,
        *,
        new_instance_id: InstanceId | None = None,
        version: str | None = None,
    ) -> InstanceId:
        """Start a new instance with the name and the input of another; what that one did is not copied.

        Args:
            instance_id: of the old one. After continue-as-new the input is that of its last execution.
            new_instance_id: default: a new UUID.
            version: of the code; default: what the worker's registry says.

        Raises:
            InstanceNotFound: the store does not know the old one.
            InstanceExists: it knows the new one.
        """
        texts = await self.provider.read_history(instance_id)
        if not texts:
            raise InstanceNotFound(instance_id)
        first = decode_events(texts[:1])[0].kind
        if not isinstance(first, OrchestrationStarted):
            raise ClientError(f"the history of {instance_id!r} does not begin with its start")
        return await self.start_raw(
            first.name,
            first.input,
            instance_id=new_instance_id,
            version=version,
            if_exists="error",
        )

    # Steering.

    async def raise_event(self, instance_id: InstanceId, name: str, data: Any = None) -> None:
        """Tell whoever waits for this event now; unless the wait is buffered, it is not kept."""
        await self._send(self._compose.signal(instance_id, Signal(name=name, data=data)))

    async def enqueue(self, instance_id: InstanceId, queue: str, data: Any = None) -> None:
        """Put a message into one of the instance's queues: first in, first out, kept until taken."""
        signal = Signal(name=queue, data=data, queued=True)
        await self._send(self._compose.signal(instance_id, signal))

    async def cancel(self, instance_id: InstanceId, reason: str = "") -> None:
        """Ask for the end of an instance and of its children; without effect if it has ended."""
        await self._send(self._compose.cancel(instance_id, reason))

    async def send_many(self, requests: Sequence[Request]) -> list[Sent]:
        """Starts, signals and cancellations in one commit, in order, each with an answer of its own.

        A request that can't be sent leaves its neighbours alone: its answer has the error that the call
        for it alone would raise. More than 256 messages are several commits, one after the other.

        Raises:
            ProviderError: the store failed; if it is retryable, any of them may have been written.
        """
        answers, letters = self._composed(requests)
        wanted = [letters[n].instance_id for n in letters if _must_be_new(requests[n])]
        known = set(await self.provider.read_status(wanted)) if wanted else set()
        for number, letter in tuple(letters.items()):
            if _must_be_new(requests[number]) and letter.instance_id in known:
                answers[number] = Sent(
                    instance_id=letter.instance_id, error=InstanceExists(letter.instance_id)
                )
                del letters[number]
            elif isinstance(requests[number], StartRequest):
                known.add(letter.instance_id)
        for numbers in _together(letters):
            items = [Enqueue(message=m) for n in numbers for m in letters[n].messages]
            results = iter(await self.provider.commit(items))
            for number in numbers:
                errors = [_refusal(next(results)) for _ in letters[number].messages]
                error = next((e for e in errors if e is not None), None)
                answers[number] = Sent(instance_id=letters[number].instance_id, error=error)
        return [answers[number] for number in range(len(requests))]

    def _composed(self, requests: Sequence[Request]) -> tuple[dict[int, Sent], dict[int, Letter]]:
        """The answers to requests that can't be written, and the messages of the others, by place."""
        answers: dict[int, Sent] = {}
        letters: dict[int, Letter] = {}
        for number, request in enumerate(requests):
            try:
                letters[number] = self._compose.compose(request)
            except (DuroxideError, TypeError, ValueError) as error:
                answers[number] = Sent(instance_id=request.instance_id, error=error)
        return answers, letters

    def within(self, connection: Any) -> AsyncTransaction:
        """Start and signal inside the transaction that is open on a connection of the caller's.

        Workers see it when that transaction commits, together with whatever else it wrote; if it rolls
        back, nothing was sent. On PostgreSQL: an async connection of psycopg, or an `AsyncConnection` or
        `AsyncSession` of SQLAlchemy, to the database of the store. On SQLite: a `sqlite3` connection to
        its file.

        Raises:
            ClientError: the store can't; the transaction is not open, for what is sent then.
        """
        store = caller_transactions(self.provider)
        return AsyncTransaction(
            self._compose, lambda messages: store.send_within_async(connection, messages)
        )

    # Looking.

    async def status(self, instance_id: InstanceId) -> InstanceStatus | None:
        """The instance's state; None if the store does not know it (yet)."""
        return (await self.provider.read_status([instance_id])).get(instance_id)

    async def wait(
        self, instance_id: InstanceId, timeout: timedelta | None = DEFAULT_TIMEOUT
    ) -> InstanceStatus:
        """Wait until the instance has completed or failed. It need not exist yet.

        Raises:
            WaitTimeout: it did not end in time.
        """
        return await self.wait_until(instance_id, lambda state: state.status.is_terminal, timeout)

    async def wait_until(
        self,
        instance_id: InstanceId,
        is_reached: Callable[[InstanceStatus], bool],
        timeout: timedelta | None = DEFAULT_TIMEOUT,
    ) -> InstanceStatus:
        """Wait until a state passes the test; states that pass quickly may be missed.

        Raises:
            WaitTimeout: none did in time.
        """

        async def look() -> InstanceStatus | None:
            state = await self._reader.read(instance_id)
            return state if state is not None and is_reached(state) else None

        return await self._wait_for(instance_id, look, timeout)

    async def wait_for_custom_status(
        self,
        instance_id: InstanceId,
        last_seen_version: int = 0,
        timeout: timedelta | None = DEFAULT_TIMEOUT,
    ) -> InstanceStatus:
        """Wait for a custom status that is newer than the one of that version, or for the end.

        Raises:
            WaitTimeout: neither came in time.
        """

        def is_newer(state: InstanceStatus) -> bool:
            return state.custom_status_version > last_seen_version or state.status.is_terminal

        return await self.wait_until(instance_id, is_newer, timeout)

    @overload
    async def result(
        self,
        instance_id: InstanceId,
        orchestration: OrchestrationDef[..., Coroutine[Any, Any, R]]
        | OrchestrationDef[..., Generator[Any, Any, R]],
        timeout: timedelta | None = DEFAULT_TIMEOUT,
    ) -> R: ...

    @overload
    async def result(
        self,
        instance_id: InstanceId,
        orchestration: OrchestrationDef[..., Any] | None = None,
        timeout: timedelta | None = DEFAULT_TIMEOUT,
    ) -> Any: ...

    async def result(
        self,
        instance_id: InstanceId,
        orchestration: OrchestrationDef[..., Any] | None = None,
        timeout: timedelta | None = DEFAULT_TIMEOUT,
    ) -> Any:
        """Wait for the end and return the output, decoded as the definition says.

        Raises:
            OrchestrationFailed: it failed or was cancelled.
            WaitTimeout: it did not end in time.
        """
        state = await self.wait(instance_id, timeout)
        if state.status is ExecutionStatus.FAILED:
            raise OrchestrationFailed(instance_id, state.output or "")
        text = state.output or "null"
        return orchestration.decode_output(text) if orchestration else self._codec.decode(text, Any)

    async def history(
        self, instance_id: InstanceId, execution_id: ExecutionId | None = None
    ) -> Sequence[Event]:
        """All events of an execution, by default of the current one.

        Raises:
            InstanceNotFound: the store knows no such execution.
            CodecError: it was written by a newer version.
        """
        texts = await self.provider.read_history(instance_id, execution_id)
        if not texts and await self.status(instance_id) is None:
            raise InstanceNotFound(instance_id)
        return decode_events(texts)

    async def key_values(self, instance_id: InstanceId) -> dict[str, KeyValue]:
        """What the instance has stored, the running execution included; empty if there is none."""
        return dict(await self.provider.read_key_values(instance_id))

    async def wait_for_key_value(
        self, instance_id: InstanceId, key: str, timeout: timedelta | None = DEFAULT_TIMEOUT
    ) -> str:
        """Wait until the instance has stored that key; its value.

        Raises:
            WaitTimeout: it has not in time.
        """

        async def look() -> str | None:
            found = (await self.provider.read_key_values(instance_id)).get(key)
            return None if found is None else found.value

        return await self._wait_for(instance_id, look, timeout)

    # Inside.

    async def _wait_for(
        self,
        instance_id: InstanceId,
        look: Callable[[], Awaitable[R | None]],
        timeout: timedelta | None,
    ) -> R:
        flaw = flaw_of(instance_id)
        if flaw is not None:
            raise ClientError(f"Invalid input: an instance id contains {flaw}")
        seconds = None if timeout is None else timeout.total_seconds()
        try:
            if seconds is not None and seconds <= ONE_LOOK_S:
                found = await look()
                if found is not None:
                    return found
            async with asyncio.timeout(seconds) as limit:
                return await wait_for(self.provider, instance_id, look)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise WaitTimeout(instance_id, int((seconds or 0) * 1000)) from error

    async def _send(self, letter: Letter) -> None:
        """All in one commit; the first refusal is raised.

        Raises:
            ProviderError: the store failed, or it can't keep such a message.
        """
        results = await self.provider.commit([Enqueue(message=m) for m in letter.messages])
        for error in map(_refusal, results):
            if error is not None:
                raise error


def caller_transactions(provider: Provider) -> CallerTransactions:
    """The provider, if it can send inside transactions of others.

    Raises:
        ClientError: it can't.
    """
    if not provider.capabilities.caller_transaction:
        raise ClientError(f"the {provider.name} provider can't send inside a caller's transaction")
    return cast("CallerTransactions", provider)


def _together(letters: Mapping[int, Letter]) -> Iterator[list[int]]:
    """As many in one commit as a store writes in one transaction: no request is split."""
    numbers: list[int] = []
    size = 0
    for number, letter in letters.items():
        if size + len(letter.messages) > MAX_TOGETHER:
            yield numbers
            numbers, size = [], 0
        numbers.append(number)
        size += len(letter.messages)
    if numbers:
        yield numbers


def _must_be_new(request: Request) -> bool:
    return isinstance(request, StartRequest) and request.if_exists == "error"


def _refusal(result: CommitResult) -> ProviderError | None:
    if result.ok:
        return None
    return ProviderError("enqueue", result.error or result.code.name, retryable=False)
