"""Structured waiting: a block that ends in time, and a block that owns the tasks it spawned."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from duroxide.engine.combinators import Gather
from duroxide.engine.executor import Task
from duroxide.engine.futures import DurableFuture, State
from duroxide.engine.journal import Journal, ScheduledFuture
from duroxide.errors import Cancelled, DurableTimeout

T = TypeVar("T")


def _current(journal: Journal) -> Task[Any]:
    task = journal.executor.current
    if task is None:
        raise RuntimeError("this can be used only inside a running orchestration")
    return task


async def _wait(awaitable: Awaitable[T]) -> T:
    return await awaitable


class Timeout:
    """`async with ctx.timeout(5):` raises DurableTimeout if the block takes longer.

    What the block awaits at that moment is cancelled. The timer goes with the block.
    """

    def __init__(self, journal: Journal, delay_ms: int) -> None:
        self._journal = journal
        self._delay_ms = delay_ms
        self._task: Task[Any] | None = None
        self._timer: ScheduledFuture[None] | None = None
        self._error: Cancelled | None = None

    async def __aenter__(self) -> Self:
        self._task = _current(self._journal)
        self._timer = self._journal.timer(self._delay_ms)
        self._timer.add_waiter(self._fire)
        return self

    def _fire(self, timer: DurableFuture[Any]) -> None:
        if timer.cancelled() or self._task is None:
            return
        self._error = Cancelled()
        self._task.interrupt(self._error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._task is not None
        assert self._timer is not None
        if self._error is None:
            self._timer.cancel()
        elif error is self._error:
            raise DurableTimeout(
                f"timeout: not done within {self._delay_ms} ms", "DurableTimeout"
            ) from None
        else:
            self._task.withdraw(self._error)


class Scope:
    """`async with ctx.scope() as scope:` does not end before the tasks it spawned have.

    The first failure, of a task or of the block, cancels all others; it is what the block raises.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._parent: Task[Any] | None = None
        self._tasks: list[DurableFuture[Any]] = []
        self._failure: BaseException | None = None
        self._interrupt: Cancelled | None = None
        self._in_block = False

    def spawn(self, awaitable: Awaitable[T]) -> DurableFuture[T]:
        """Run a coroutine beside the block, or adopt what is on its way; it belongs to the scope."""
        if self._parent is None:
            if isinstance(awaitable, Coroutine):
                awaitable.close()
            raise RuntimeError("spawn inside the block: async with ctx.scope() as scope")
        task = self._future(awaitable)
        self._tasks.append(task)
        task.add_waiter(self._heard)
        return task

    def _future(self, awaitable: Awaitable[T]) -> DurableFuture[T]:
        if isinstance(awaitable, DurableFuture):
            return awaitable
        coroutine = awaitable if isinstance(awaitable, Coroutine) else _wait(awaitable)
        return self._journal.executor.spawn(coroutine)

    def _heard(self, task: DurableFuture[Any]) -> None:
        if task._state is not State.FAILED or self._failure is not None:
            return
        self._failure = task.exception()
        self._cancel_all()
        if self._in_block and self._parent is not None:
            self._interrupt = Cancelled()
            self._parent.interrupt(self._interrupt)

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def __aenter__(self) -> Self:
        self._parent = _current(self._journal)
        self._in_block = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._parent is not None
        self._in_block = False
        if self._interrupt is not None:
            self._parent.withdraw(self._interrupt)
            if error is self._interrupt:
                error = None
        if error is not None:
            self._cancel_all()
        await Gather(self._journal.executor, self._tasks, collect=True)
        if error is None and self._failure is not None:
            raise self._failure
