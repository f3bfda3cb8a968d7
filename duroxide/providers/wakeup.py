"""Waiting inside a store: for something to happen, or for its clock to reach a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from duroxide.clock import Clock
from duroxide.ids import InstanceId


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
        self.count = 0  # of notifications; for who looks somewhere that takes time
        self._time_is_told = isinstance(clock, TellingClock)
        if isinstance(clock, TellingClock):
            clock.on_advance(self.notify)

    def notify(self) -> None:
        self.count += 1
        _wake(self._waiters)
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


class ChangeFeed:
    """Tells those who wait for an instance that it has changed. For one event loop at a time."""

    def __init__(self) -> None:
        self._waiters: dict[InstanceId, set[asyncio.Future[None]]] = {}

    def tell(self, instance_ids: Iterable[InstanceId]) -> None:
        for instance_id in instance_ids:
            _wake(self._waiters.get(instance_id, ()))

    def tell_all(self) -> None:
        self.tell(tuple(self._waiters))

    async def wait(self, instance_ids: Iterable[InstanceId], seconds: float) -> bool:
        """Wait for a change of one of the instances, for so long; whether there was one."""
        ids = frozenset(instance_ids)
        waiter = asyncio.get_running_loop().create_future()
        for instance_id in ids:
            self._waiters.setdefault(instance_id, set()).add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return waiter.done() and not waiter.cancelled()  # told in the very last moment
        finally:
            for instance_id in ids:
                waiters = self._waiters[instance_id]
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[instance_id]
        return True


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
