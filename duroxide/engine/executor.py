"""Drives coroutines until all of them wait, always in the same order, without an event loop."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

from duroxide.engine.futures import DurableFuture, State
from duroxide.errors import Cancelled, DeterminismViolation, OrchestrationAbort

T = TypeVar("T")

STEPS_PER_RUN = 1_000_000
"""Steps and awaits of settled futures that one inbound event may cause."""

_MANY_GENERATORS = 64

_HINTS = {
    "sleep": "ctx.sleep",
    "gather": "ctx.gather",
    "Future": "ctx.call, ctx.gather or ctx.select",
    "Task": "ctx.spawn",
    "_GatheringFuture": "ctx.gather",
    "NoneType": "ctx.sleep",
}


class Parked(OrchestrationAbort):
    """The run left memory; code that still executes (a `finally`) can't ask for anything."""

    def __init__(self) -> None:
        super().__init__("this execution is not in memory any more: its context can't be used")


class ContinueAsNewRequested(OrchestrationAbort):
    """Unwinds the code that called `ctx.continue_as_new()`."""


class Task(DurableFuture[T]):
    """A coroutine that runs beside others; settles with what the coroutine returns or raises."""

    __slots__ = (
        "_executor",
        "_interrupts",
        "_queued",
        "_running",
        "_waiting_on",
        "coroutine",
        "yields",
    )

    def __init__(self, executor: Executor, coroutine: Coroutine[Any, Any, T]) -> None:
        super().__init__(executor)
        self.coroutine = coroutine
        self._executor = executor
        self._waiting_on: DurableFuture[Any] | None = None
        self._interrupts: list[BaseException] = []
        self._queued = False
        self._running = False
        self.yields = False  # a generator's: what it asks for is scheduled when it is yielded

    def cancel(self) -> bool:
        """Throw `Cancelled` into the coroutine where it waits; its `finally` blocks may do more.

        What it awaits is given up as well, unless somebody else awaits that too.
        """
        if self._state is not State.PENDING:
            return False
        self.interrupt(Cancelled())
        return True

    def interrupt(self, error: BaseException) -> None:
        """Raise `error` where the coroutine waits, as soon as it is its turn."""
        self._interrupts.append(error)
        if not self._running:
            self._leave_wait()

    def withdraw(self, error: BaseException) -> None:
        """Take back an interrupt that has not been raised yet."""
        if error in self._interrupts:
            self._interrupts.remove(error)

    def _leave_wait(self) -> None:
        awaited, self._waiting_on = self._waiting_on, None
        # Queue first: giving up what it awaits may queue others, and it was interrupted before them.
        self._enqueue()
        if awaited is not None:
            awaited.forsake(self._wake)

    def _enqueue(self) -> None:
        if not self._queued:
            self._queued = True
            self._executor.ready.append(self)

    def _wake(self, settled: DurableFuture[Any]) -> None:
        self._waiting_on = None
        if not self._queued:
            self._queued = True
            self._executor.ready.append(self)

    def step(self) -> None:
        """Run to the next wait, or to the end."""
        self._queued = False
        executor = self._executor
        outer, executor.current = executor.current, self
        self._running = True
        error = self._interrupts.pop(0) if self._interrupts else None
        try:
            while True:
                executor.spend()
                if error is None:
                    awaited = self.coroutine.send(None)
                else:
                    awaited = self.coroutine.throw(error)
                if isinstance(awaited, DurableFuture) and awaited._budget is executor:
                    break
                error = foreign_awaitable(awaited)
                executor.abort(error)
        except StopIteration as stop:
            self._end(State.DONE, stop.value)
        except (Cancelled, ContinueAsNewRequested):
            self._end(State.CANCELLED)
        except OrchestrationAbort as abort:
            executor.abort(abort)
            self._end(State.CANCELLED)
        except KeyboardInterrupt as interrupt:
            blamed = executor.blame(interrupt)
            if blamed is None:  # not of the code: somebody pressed Ctrl-C
                raise
            self._end(State.FAILED, blamed)
        except BaseException as failure:  # sys.exit() and its kin end the run, not the worker
            self._end(State.FAILED, failure)
        else:
            self._wait_for(awaited)
        finally:
            self._running = False
            executor.current = outer

    def _wait_for(self, awaited: DurableFuture[Any]) -> None:
        self._waiting_on = awaited
        awaited.add_waiter(self._wake)
        if self._interrupts:
            self._leave_wait()

    def _end(self, state: State, value: Any = None) -> None:
        del self._executor.tasks[self]
        self.settle(state, value)


Blame: TypeAlias = Callable[[KeyboardInterrupt], BaseException | None]
"""How code fails that was left by an interrupt; None: the interrupt is for the process."""


def _nobody(_: KeyboardInterrupt) -> None:
    return None


entered_executor: ContextVar[Executor | None] = ContextVar("entered_executor", default=None)
"""Whose code runs here and now."""


class Executor:
    """The ready queue of one execution; implements the budget of its futures."""

    __slots__ = (
        "_abort",
        "_left",
        "_limit",
        "async_generators",
        "blame",
        "current",
        "owner",
        "ready",
        "tasks",
    )

    def __init__(self, steps_per_run: int = STEPS_PER_RUN) -> None:
        self.ready: deque[Task[Any]] = deque()
        self.tasks: dict[Task[Any], None] = {}  # alive, in the order of creation
        self.current: Task[Any] | None = None
        self.owner: object = None  # the context of the code, for code that was not handed it
        self.blame: Blame = _nobody
        self.async_generators: list[AsyncGenerator[Any, Any]] = []
        self._limit = steps_per_run
        self._left = steps_per_run
        self._abort: OrchestrationAbort | None = None

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            endless = DeterminismViolation(
                f"the orchestration took {self._limit} steps without waiting for anything: "
                "a loop in it never ends"
            )
            self.abort(endless)
            raise endless

    def abort(self, error: OrchestrationAbort) -> None:
        """The run is void; the first reason counts."""
        if self._abort is None:
            self._abort = error

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Make a task and run it, at once, to its first wait."""
        task = Task(self, coroutine)
        self.tasks[task] = None
        task.step()
        return task

    def run(self) -> None:
        """Step what is ready until all wait.

        Raises:
            OrchestrationAbort: the code did what it may not do; the run is void.
        """
        ready = self.ready
        while ready and self._abort is None:
            task = ready.popleft()
            if task._state is State.PENDING:
                task.step()
        if self._abort is not None:
            raise self._abort

    def refill(self) -> None:
        """A new inbound event: the budget is whole again."""
        self._left = self._limit

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Keep async generators alive while code runs, so that no collector ends them at random."""
        before = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._keep, finalizer=_leave_alone)
        outer = entered_executor.set(self)
        try:
            yield
        finally:
            entered_executor.reset(outer)
            sys.set_asyncgen_hooks(*before)

    def _keep(self, generator: AsyncGenerator[Any, Any]) -> None:
        kept = self.async_generators
        if len(kept) >= _MANY_GENERATORS:
            kept[:] = [g for g in kept if getattr(g, "ag_frame", None) is not None]
        kept.append(generator)

    def wind_down(self) -> None:
        """Cancel the tasks that are left, then close async generators, each in creation order."""
        for task in list(self.tasks):
            task.cancel()
        self.run()
        for generator in self.async_generators:
            self.spawn(generator.aclose())
        self.async_generators.clear()
        self.run()

    def close(self) -> None:
        """Drop all coroutines, newest first; what their clean-up raises or wants is discarded."""
        for task in reversed(list(self.tasks)):
            _close_quietly(task.coroutine)
        for generator in reversed(self.async_generators):
            _finish_quietly(generator)
        self.tasks.clear()
        self.async_generators.clear()
        self.ready.clear()
        self.owner = None


def _close_quietly(coroutine: Coroutine[Any, Any, Any]) -> None:
    try:
        coroutine.close()
    except BaseException:  # noqa: S110 - a sealed context answers every call with one
        pass


def _finish_quietly(generator: AsyncGenerator[Any, Any]) -> None:
    closing = generator.aclose()
    try:
        closing.send(None)
    except BaseException:  # noqa: S110 - StopIteration when it ended; else as above
        pass
    _close_quietly(closing)


def _leave_alone(generator: AsyncGenerator[Any, Any]) -> None:
    """The executor closes it, in order."""


def foreign_awaitable(awaited: object) -> DeterminismViolation:
    """What to throw into code that awaited something which no history can bring back."""
    name = type(awaited).__name__
    hint = _HINTS.get(name, "the methods of ctx")
    what = "a bare yield (asyncio.sleep(0)?)" if awaited is None else f"{name!r}"
    if isinstance(awaited, DurableFuture):
        what, hint = "a future of another execution", "futures of its own ctx only"
    return DeterminismViolation(
        f"an orchestration can await only what its ctx gave it, not {what}: use {hint}"
    )
