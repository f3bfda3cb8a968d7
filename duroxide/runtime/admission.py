"""Which of the activities in hand may run now: so many of each name, and so many in all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Begin = Callable[[], None]


class Gate:
    """Lets a number through at a time, the others in the order in which they came."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Begin] = deque()

    def enter(self, begin: Begin) -> None:
        """Call `begin`, now or as soon as there is room."""
        if self._free > 0:
            self._free -= 1
            begin()
        else:
            self._waiting.append(begin)

    def leave(self) -> None:
        """One that was let through has ended."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1


class Admission:
    """A gate for each name, and behind them one for all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._all = Gate(limit)
        self._by_name: dict[str, Gate] = {}

    def enter(self, name: str, limit: int | None, begin: Begin) -> None:
        """Call `begin`, now or as soon as there is room; `leave` has to follow.

        Args:
            limit: of this name; None: only that of all.
        """
        if limit is None:
            return self._all.enter(begin)
        gate = self._by_name.get(name)
        if gate is None:
            gate = self._by_name[name] = Gate(min(limit, self._limit))
        return gate.enter(lambda: self._all.enter(begin))

    def leave(self, name: str, limit: int | None) -> None:
        self._all.leave()
        if limit is not None:
            self._by_name[name].leave()
