"""What an orchestration awaits: a value that settles exactly once, in the order of history."""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import IntEnum
from typing import Any, Generic, Protocol, TypeVar, cast

from duroxide.errors import Cancelled

T = TypeVar("T")


class State(IntEnum):
    PENDING = 0
    DONE = 1
    FAILED = 2
    CANCELLED = 3


_PENDING, _DONE, _FAILED = State.PENDING, State.DONE, State.FAILED

Waiter = Callable[["DurableFuture[Any]"], None]

# The waiters of a future whose end somebody was told; never added to, since it is settled.
_TOLD: list[Waiter] = []


class _Followed(list[Waiter]):
    """Stands for the waiters of a future whose end was told to one other future alone."""

    __slots__ = ("by",)

    def __init__(self, by: DurableFuture[Any]) -> None:
        super().__init__()
        self.by = by


class Budget(Protocol):
    """Counts what a run does without waiting, so that one that never stops is noticed."""

    def spend(self) -> None: ...


class DurableFuture(Generic[T]):
    """A result that is on its way. Await it as often, and from as many tasks, as you like.

    Waiters are told in the order in which they began to wait. Nothing happens when a future is
    garbage collected: giving up is always explicit, by `cancel()`.
    """

    __slots__ = ("_budget", "_state", "_value", "_waiters")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._state = _PENDING
        self._value: Any = None
        self._waiters: list[Waiter] | None = None

    def done(self) -> bool:
        """It has a result, an error, or was cancelled."""
        return self._state is not _PENDING

    def cancelled(self) -> bool:
        """It was given up."""
        return self._state is State.CANCELLED

    def result(self) -> T:
        """The result.

        Raises:
            Cancelled: it was given up.
            RuntimeError: it is not settled yet; await it.
            Exception: what it failed with.
        """
        state = self._state
        if state is _DONE:
            self._waiters = _TOLD
            return cast("T", self._value)
        if state is _FAILED:
            self._waiters = _TOLD
            raise self._value
        if state is _PENDING:
            raise RuntimeError("the result is not there yet; await it")
        raise Cancelled

    def exception(self) -> BaseException | None:
        """What it failed with; None if it has not failed."""
        if self._state is not _FAILED:
            return None
        self._waiters = _TOLD
        return cast("BaseException", self._value)

    def cancel(self) -> bool:
        """Give it up: what it stands for is cancelled too, and whoever awaits it gets `Cancelled`.

        Returns:
            False if it was settled already; then nothing changes.
        """
        if self._state is not _PENDING:
            return False
        self._give_up()
        self.settle(State.CANCELLED)
        return True

    def __await__(self) -> Generator[DurableFuture[Any], None, T]:
        if self._state is _PENDING:
            yield self
        else:
            self._budget.spend()
        return self.result()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.name.lower()}>"

    # For the engine.

    def was_awaited(self) -> bool:
        """Of a pending future: somebody waits, or waited, for it."""
        return self._waiters is not None

    def is_awaited(self) -> bool:
        """Of a pending future: somebody waits for it now."""
        return bool(self._waiters)

    def was_seen(self) -> bool:
        """Of a settled future: code may have been told how it ended."""
        told = self._waiters
        if type(told) is _Followed:
            return not told.by.done() or told.by.was_seen()
        return told is not None

    def give_back(self) -> None:
        """Of a settled future that lost a race: return what it holds, unless it was seen."""
        if not self.was_seen():
            self._give_back()

    def revoke(self) -> None:
        """Turn a settled future that nobody has seen into one that was given up."""
        self._state = State.CANCELLED
        self._value = None
        if type(self._waiters) is _Followed:
            self._waiters.by.revoke()

    def _give_up(self) -> None:
        """Cancel what this future stands for; called once, while it is pending."""

    def _give_back(self) -> None:
        """Return what it was settled with to where that came from, if that can be."""

    def settle(self, state: State, value: Any = None) -> None:
        """Settle now and tell the waiters; a settled future stays as it is."""
        if self._state is not _PENDING:
            return
        self._state = state
        self._value = value
        waiters = self._waiters
        if waiters:
            self._waiters = _TOLD
            for waiter in waiters:
                waiter(self)
        else:
            self._waiters = None

    def add_waiter(self, waiter: Waiter) -> None:
        """Call `waiter` when it settles, or now if it has."""
        if self._state is not _PENDING:
            self._waiters = _TOLD
            waiter(self)
        elif self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)

    def add_follower(self, follower: DurableFuture[Any], waiter: Waiter) -> None:
        """`add_waiter` for a future that only passes on what it hears: if this one has settled and
        nobody saw it, then it is not seen before the follower is.
        """
        unseen = self._state is not _PENDING and self._waiters is None
        self.add_waiter(waiter)
        if unseen:
            self._waiters = _Followed(follower)

    def is_followed_by(self, follower: DurableFuture[Any]) -> bool:
        told = self._waiters
        return type(told) is _Followed and told.by is follower

    def remove_waiter(self, waiter: Waiter) -> bool:
        """Stop waiting; the future goes on. Returns whether nobody waits any more."""
        waiters = self._waiters
        if waiters is None or waiter not in waiters:
            return False
        waiters.remove(waiter)
        return not waiters

    def forsake(self, waiter: Waiter) -> None:
        """Stop waiting. What nobody else waits for is given up."""
        if self.remove_waiter(waiter):
            self.cancel()
