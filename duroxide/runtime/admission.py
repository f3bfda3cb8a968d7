"""Which of the activities in hand may run now: so many of each name, and so many in all."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

Begin: TypeAlias = Callable[[], None]
Gates: TypeAlias = Sequence[tuple[str, int]]


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

    @property
    def is_open(self) -> bool:
        """Whether one that comes now need not wait."""
        return self._free > 0

    def leave(self) -> None:
        """One that was let through has ended."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1


class Admission:
    """Gates by name, one behind the other, and behind them one for all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._all = Gate(limit)
        self._by_name: dict[str, Gate] = {}

    def enter(self, gates: Gates, begin: Begin) -> None:
        """Call `begin`, now or as soon as there is room behind each gate; `leave` has to follow.

        Args:
            gates: name and limit, in the order in which they are passed.
        """
        if not gates:
            return self._all.enter(begin)
        go_on = functools.partial(self._all.enter, begin)
        for name, limit in reversed(gates):
            go_on = functools.partial(self._gate(name, limit).enter, go_on)
        return go_on()

    def is_open(self, gates: Gates) -> bool:
        """Whether one that comes now need not wait."""
        return self._all.is_open and all(self._gate(name, limit).is_open for name, limit in gates)

    def _gate(self, name: str, limit: int) -> Gate:
        gate = self._by_name.get(name)
        if gate is None:
            gate = self._by_name[name] = Gate(min(limit, self._limit))
        return gate

    def leave(self, gates: Gates) -> None:
        self._all.leave()
        for name, _ in reversed(gates):
            self._by_name[name].leave()
