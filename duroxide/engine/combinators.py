"""All of them, the first of them, and what protects one from the other's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from duroxide.engine.futures import Budget, DurableFuture, State
from duroxide.errors import Cancelled

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Winner(Generic[T]):
    """What `select` returns."""

    index: int  # position among the arguments
    key: str | int  # its keyword, or the index of a positional argument
    value: T


class Gather(DurableFuture[list[Any]]):
    """Settles with all results, in argument order.

    The first failure settles it, and cancels the rest in argument order; with `collect`, failures
    stand among the results instead.
    """

    __slots__ = ("_children", "_collect", "_missing")

    def __init__(
        self, budget: Budget, children: Sequence[DurableFuture[Any]], *, collect: bool
    ) -> None:
        super().__init__(budget)
        self._children = tuple(children)
        self._collect = collect
        self._missing = len(self._children)
        if not self._children:
            self.settle(State.DONE, [])
        for child in self._children:
            child.add_follower(self, self._heard)

    def _heard(self, child: DurableFuture[Any]) -> None:
        if self._state is not State.PENDING:
            return
        self._missing -= 1
        if not self._collect and child._state is not State.DONE:
            self._drop_children()
            self.settle(child._state, child._value)
        elif self._missing == 0:
            self.settle(State.DONE, [_outcome(child) for child in self._children])

    def _drop_children(self) -> None:
        self._state = State.CANCELLED  # deaf to the children's own end
        for child in self._children:
            child.cancel()
        self._state = State.PENDING

    def _give_up(self) -> None:
        self._drop_children()

    def _give_back(self) -> None:
        for child in self._children:
            if child.is_followed_by(self):
                child._give_back()


def _outcome(child: DurableFuture[Any]) -> Any:
    if child._state is State.DONE:
        return child._value
    error = child.exception()
    if error is not None:
        return error
    return Cancelled()


class Select(DurableFuture[Winner[Any]]):
    """Settles with the first that settles and cancels the others in argument order.

    Of several that are settled already, the leftmost wins; a message that another one holds goes
    back to its queue, unless it was seen. The winner's error is raised.
    """

    __slots__ = ("_children", "_keys")

    def __init__(
        self,
        budget: Budget,
        children: Sequence[DurableFuture[Any]],
        keys: Sequence[str | int],
    ) -> None:
        super().__init__(budget)
        if not children:
            raise ValueError("select needs at least one awaitable; it would never settle")
        self._children = tuple(children)
        self._keys = tuple(keys)
        for child in self._children:
            if self._state is not State.PENDING:
                break
            child.add_follower(self, self._heard)

    def _heard(self, child: DurableFuture[Any]) -> None:
        if self._state is not State.PENDING:
            return
        index = next(i for i, c in enumerate(self._children) if c is child)
        value: Any = child._value
        if child._state is State.DONE:
            value = Winner(index, self._keys[index], value)
        self._state = State.CANCELLED  # deaf to the losers' own end
        held = [c for c in self._children if c is not child and c._state is not State.PENDING]
        for loser in self._children:
            if loser is not child:
                loser.cancel()
        # Only now, or one that waited would take what another one gives back.
        for loser in held:
            loser.give_back()
        self._state = State.PENDING
        self.settle(child._state, value)

    def _give_up(self) -> None:
        self._state = State.CANCELLED
        for child in self._children:
            child.cancel()
        self._state = State.PENDING

    def _give_back(self) -> None:
        for child in self._children:
            if child.is_followed_by(self):
                child._give_back()


class Shield(DurableFuture[T]):
    """Follows another future; cancelling the shield leaves that one alone."""

    __slots__ = ("_inner",)

    def __init__(self, budget: Budget, inner: DurableFuture[T]) -> None:
        super().__init__(budget)
        self._inner = inner
        inner.add_waiter(self._heard)

    def _heard(self, inner: DurableFuture[Any]) -> None:
        self.settle(inner._state, inner._value)

    def _give_up(self) -> None:
        self._inner.remove_waiter(self._heard)


class Mapped(DurableFuture[T]):
    """Another future's result, seen through a function that does not fail."""

    __slots__ = ("_function", "_inner")

    def __init__(
        self, budget: Budget, inner: DurableFuture[Any], function: Callable[[Any], T]
    ) -> None:
        super().__init__(budget)
        self._inner = inner
        self._function = function
        inner.add_follower(self, self._heard)

    def _heard(self, inner: DurableFuture[Any]) -> None:
        if inner._state is State.DONE:
            self.settle(State.DONE, self._function(inner._value))
        else:
            self.settle(inner._state, inner._value)

    def _give_up(self) -> None:
        self._inner.forsake(self._heard)

    def _give_back(self) -> None:
        if self._inner.is_followed_by(self):
            self._inner._give_back()


def settled(budget: Budget, value: T) -> DurableFuture[T]:
    """A future that has its result already."""
    future: DurableFuture[T] = DurableFuture(budget)
    future.settle(State.DONE, value)
    return future
