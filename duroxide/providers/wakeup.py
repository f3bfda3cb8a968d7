"""Waiting inside a store: for something to happen, or for its clock to reach a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from duroxide.clock import Clock


@runtime_checkable
class TellingClock(Protocol):
    """A clock whose time does not pass by itself (`duroxide.testing.clocks.ManualClock`)."""

    def now_ms(self) -> int: ...

    def on_advance(self, listener: Callable[[], None]) -> None: ...


class Wakeup:
    """Wakes everybody who waits; whoever is woken looks for himself whether there is something.

    Looking and then waiting, without an `await` between the two, misses nothing. For one event loop
    at a time; `notify` is called on that loop.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiters: set[asyncio.Future[None]] = set()
        self._time_is_told = isinstance(clock, TellingClock)
        if isinstance(clock, TellingClock):
            clock.on_advance(self.notify)

    def notify(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait(self, until_ms: int) -> None:
        """Return after the next `notify`, or once the clock has reached `until_ms`."""
        left_ms = until_ms - self._clock.now_ms()
        if left_ms <= 0:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(None if self._time_is_told else left_ms / 1000):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)
