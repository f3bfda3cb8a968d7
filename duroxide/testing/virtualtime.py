"""An event loop whose time passes only when nothing else can happen: hours of sleep in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_MS = 1_700_000_000_000
THREAD_PATIENCE_S = 10.0


class Stalled(RuntimeError):
    """Everybody waits for something that will never come."""


class _Selector(selectors.DefaultSelector):
    """Never waits for time: moves it. Waits for real only if nothing is scheduled (threads may be)."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None:
            events = super().select(0)
            if not events and timeout > 0:
                self.now_s += timeout
            return events
        events = super().select(THREAD_PATIENCE_S)
        if not events:
            raise Stalled("nothing is scheduled and nothing arrives: every task waits for another")
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`loop.time()` jumps to the next thing that is scheduled as soon as everybody waits."""

    def __init__(self) -> None:
        selector = _Selector()
        self._virtual = selector
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual.now_s


class LoopClock:
    """The wall clock of a store that lives on such a loop."""

    def now_ms(self) -> int:
        return EPOCH_MS + int(asyncio.get_running_loop().time() * 1000 + 0.001)


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time.

    Raises:
        Stalled: it would wait for ever.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
