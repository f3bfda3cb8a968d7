"""What an orchestration sees: everything it may ask for, and nothing that a replay could not repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, NoReturn, TypeVar, cast, overload
from uuid import UUID

from duroxide.calls import CallMethods
from duroxide.children import ChildMethods
from duroxide.definitions import OrchestrationDef, Style
from duroxide.descriptors import ScheduledTask
from duroxide.engine.combinators import Gather, Select, Shield, Winner
from duroxide.engine.executor import Task, entered_executor
from duroxide.engine.futures import DurableFuture
from duroxide.engine.journal import Journal
from duroxide.engine.scopes import Scope, Timeout
from duroxide.payload import JSON
from duroxide.randomness import DurableRandom, uuid_from
from duroxide.replaylog import ReplayLogger
from duroxide.retry import milliseconds
from duroxide.signatures import encode_positional

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A history this long is slow to load; continue as new well before the limits say no.
_SUGGESTED_SHARE = 5


class Queue(Generic[T]):
    """A mailbox of this instance: first in, first out, and nothing in it is ever lost."""

    def __init__(self, journal: Journal, name: str, decode: Callable[[str], T]) -> None:
        self._journal = journal
        self._decode = decode
        self.name = name

    def get(self) -> DurableFuture[T]:
        """The next message; given up, it takes none."""
        return self._journal.queue_read(self.name, self._decode)

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            yield await self.get()


class OrchestrationContext(CallMethods, ChildMethods):
    """The first argument of every orchestration.

    Methods that return a future have asked already when they return; await the future for the answer.
    The methods of the official SDK are here too (`schedule_activity` and so on, see `SdkMethods`).
    """

    @classmethod
    def attached(
        cls, journal: Journal, definition: OrchestrationDef[..., Any], prepared: object
    ) -> OrchestrationContext:
        """The context of a running execution."""
        started = journal.started
        self = cls(
            {
                "instanceId": journal.instance_id,
                "executionId": journal.execution_id,
                "orchestrationName": started.name,
                "orchestrationVersion": started.version,
            }
        )
        self._journal = journal
        journal.executor.owner = self
        self._definition = definition
        self.prepared = prepared
        """What the orchestration's `prepare` made of the input; None without one."""
        return self

    # Who, when, how far.

    @property
    def is_replaying(self) -> bool:
        """The code repeats what it did before; true for logging decisions only."""
        return self.journal.is_replaying

    @property
    def history_length(self) -> int:
        """Events of this execution so far."""
        return self.journal.history_length

    @property
    def history_size_bytes(self) -> int:
        """What they count against `Limits.history_bytes`."""
        return self.journal.history_bytes

    def should_continue_as_new(self) -> bool:
        """The history has become long: a fifth of what the limits allow."""
        limits = self.journal.limits
        return (
            self.history_length * _SUGGESTED_SHARE >= limits.history_events
            or self.history_size_bytes * _SUGGESTED_SHARE >= limits.history_bytes
        )

    def now(self) -> datetime:
        """The time (aware, UTC) of the event that the code reacts to; never goes backwards."""
        return _EPOCH + timedelta(milliseconds=self.journal.now_ms)

    def uuid(self) -> UUID:
        """A random UUID that a replay draws again."""
        return uuid_from(self._uuids.getrandbits(128))

    @property
    def random(self) -> DurableRandom:
        """Random numbers that a replay draws again; a `random.Random`."""
        return self._lazily("_random", lambda: DurableRandom(self.journal.seed, "random"))

    @property
    def _uuids(self) -> DurableRandom:
        return self._lazily("_uuid_source", lambda: DurableRandom(self.journal.seed, "uuid"))

    @property
    def logger(self) -> ReplayLogger:
        """A logger that names the instance and is silent in replay."""
        return self._lazily("_logger", self._make_logger)

    def _make_logger(self) -> ReplayLogger:
        return ReplayLogger(
            self.journal,
            {
                "instance_id": self.instance_id,
                "execution_id": self.execution_id,
                "orchestration_name": self.orchestration_name,
                "orchestration_version": self.orchestration_version,
            },
        )

    def _lazily(self, name: str, make: Callable[[], T]) -> T:
        value = self.__dict__.get(name)
        if value is None:
            value = self.__dict__[name] = make()
        return cast("T", value)

    def patched(self, patch_id: str) -> bool:
        """Whether to take a new way in code that is running already.

        True in executions that reach this call for the first time live, which is recorded once; false
        in those that went past it before it existed. It stays the same within an execution.

        Args:
            patch_id: any name that this orchestration has not used before, for as long as histories with
                it may be replayed.
        """
        return self.journal.patched(patch_id)

    def project(self, text: str) -> None:
        """Hand a text to the store's commit hook in the transaction of this turn; not in replay.

        For stores with a commit hook (`Capabilities.commit_hook`); others drop it.
        """
        self.journal.project(text)

    # Time.

    def sleep(
        self,
        delay: float | timedelta = 0,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        milliseconds: float = 0,
    ) -> DurableFuture[None]:
        """A durable timer: `sleep(30)`, `sleep(timedelta(days=2))`, `sleep(hours=1)`.

        Never fires early; cancelled, it leaves nothing behind.

        Raises:
            ValueError: the delay is negative.
        """
        extra = timedelta(
            days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds
        )
        return self.journal.timer(_milliseconds(delay, extra))

    def sleep_until(self, when: datetime) -> DurableFuture[None]:
        """A durable timer; a time that has passed is due at once.

        Raises:
            ValueError: the datetime has no time zone.
        """
        if when.tzinfo is None:
            raise ValueError(f"{when!r} has no time zone, so it is not a point in time")
        at_ms = milliseconds(when - _EPOCH)
        return self.journal.timer(max(0, at_ms - self.journal.now_ms))

    def timeout(self, delay: float | timedelta = 0, **units: float) -> Timeout:
        """`async with ctx.timeout(5):` raises DurableTimeout if the block takes longer.

        Takes the same durations as `sleep`.
        """
        return Timeout(self.journal, _milliseconds(delay, timedelta(**units)))

    # Events and queues.

    @overload
    def wait_event(
        self, name: str, data_type: type[T], *, buffered: bool = False
    ) -> DurableFuture[T]: ...

    @overload
    def wait_event(
        self, name: str, data_type: Any = Any, *, buffered: bool = False
    ) -> DurableFuture[Any]: ...

    def wait_event(
        self, name: str, data_type: Any = Any, *, buffered: bool = False
    ) -> DurableFuture[Any]:
        """The next event of that name that a client raises.

        Args:
            data_type: the data is read as this.
            buffered: also take one that was raised before this call and that nobody took.

        Raises (when awaited):
            CodecError: the data is none of that type.

        Raises (at once):
            LimitExceeded: the name or the history is too long.
        """
        return self.journal.external_event(
            name, lambda text: JSON.decode(text, data_type), buffered=buffered
        )

    @overload
    def queue(self, name: str, data_type: type[T]) -> Queue[T]: ...

    @overload
    def queue(self, name: str, data_type: Any = Any) -> Queue[Any]: ...

    def queue(self, name: str, data_type: Any = Any) -> Queue[Any]:
        """The mailbox of that name: `await q.get()`, or `async for message in q`.

        Args:
            data_type: messages are read as this; one that is none of it raises CodecError when awaited.
        """
        return Queue(self.journal, name, lambda text: JSON.decode(text, data_type))

    # Together.

    def spawn(self, awaitable: Awaitable[T]) -> DurableFuture[T]:
        """Run a coroutine beside this one; it starts at once and runs to its first wait."""
        if isinstance(awaitable, DurableFuture):
            return awaitable
        if isinstance(awaitable, ScheduledTask) and awaitable.future is not None:
            return awaitable.future
        if isinstance(awaitable, Coroutine):
            return self.journal.executor.spawn(awaitable)
        return self.journal.executor.spawn(_await(awaitable))

    @overload
    def gather(
        self, *awaitables: Awaitable[T], return_exceptions: Literal[False] = False
    ) -> DurableFuture[list[T]]: ...

    @overload
    def gather(
        self, *awaitables: Awaitable[T], return_exceptions: bool
    ) -> DurableFuture[list[T | BaseException]]: ...

    def gather(
        self, *awaitables: Awaitable[Any], return_exceptions: bool = False
    ) -> DurableFuture[Any]:
        """All results, in argument order.

        The first failure cancels the rest in argument order and is raised; with `return_exceptions`
        failures stand among the results instead.
        """
        futures = [self.spawn(a) for a in awaitables]
        return Gather(self.journal.executor, futures, collect=return_exceptions)

    def select(
        self, *awaitables: Awaitable[Any], **named: Awaitable[Any]
    ) -> DurableFuture[Winner[Any]]:
        """The first that settles; the others are cancelled in argument order.

        Returns `Winner(index, key, value)`; the key is the keyword, or the index. If the winner failed,
        its error is raised.

        Raises:
            ValueError: there is nothing to wait for.
        """
        futures = [self.spawn(a) for a in (*awaitables, *named.values())]
        return Select(self.journal.executor, futures, (*range(len(awaitables)), *named))

    def shield(self, awaitable: Awaitable[T]) -> DurableFuture[T]:
        """Protect from cancellation: a select that loses it, or a timeout, leaves it running."""
        return Shield(self.journal.executor, self.spawn(awaitable))

    def scope(self) -> Scope:
        """`async with ctx.scope() as scope: scope.spawn(...)` waits for all that it spawned."""
        return Scope(self.journal)

    def run(self, steps: Generator[Any, Any, T]) -> DurableFuture[T]:
        """Run a helper that is written as a generator: what it yields is scheduled, its return value awaited."""
        from duroxide.driver import drive

        return cast("Task[T]", self.journal.executor.spawn(drive(self, steps)))

    # The end of this history.

    def continue_as_new(self, *args: Any, version: str | None = None) -> NoReturn:  # noqa: RET503
        """End this execution and begin the next one with a fresh history.

        Unread queue messages, key-values and the custom status go along; whatever is still open is
        cancelled. In a generator orchestration this returns a descriptor to yield.

        Args:
            args: the input of the next execution, as this orchestration takes it.
            version: default: the version policy of the worker that begins it.

        Raises:
            LimitExceeded: the input is too big.
        """
        if self._is_generator:
            return self._continue_descriptor(*args, version=version)  # type: ignore[misc] # a generator
        definition = self._definition
        text = encode_positional(args) if definition is None else definition.encode_input(args, {})
        self.journal.continue_as_new(text, version)

    @property
    def _is_generator(self) -> bool:
        """Whether the code that asks yields what it wants; decided by task, since styles mix."""
        task = None if self._journal is None else self._journal.executor.current
        if task is not None:
            return task.yields
        return self._definition is None or self._definition.style is not Style.NATIVE


def current_context() -> OrchestrationContext:
    """The context of the orchestration whose code runs, for helpers that were not handed it.

    Raises:
        RuntimeError: none does; an activity is given its own context as its first argument, `ctx`.
    """
    executor = entered_executor.get()
    owner = None if executor is None else executor.owner
    if not isinstance(owner, OrchestrationContext):
        raise RuntimeError(
            "no orchestration runs here: current_context() is for orchestration code; an activity is "
            "given its context if its first parameter is called ctx"
        )
    return owner


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _milliseconds(delay: float | timedelta, extra: timedelta) -> int:
    try:
        first = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        return milliseconds(first + extra)
    except (OverflowError, ValueError) as error:  # inf, nan, and what is beyond all calendars
        raise ValueError(f"a timer can't take {delay!r} seconds: {error}") from error
