"""Waiting inside a store: for something to happen, or for its clock to reach a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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


@dataclass(slots=True, eq=False)
class _Watch:
    event: asyncio.Event
    is_told: bool = False


class ChangeFeed:
    """Tells those who wait for an instance that it has changed. For one event loop at a time."""

    def __init__(self) -> None:
        self._watches: dict[InstanceId, set[_Watch]] = {}

    def tell(self, instance_ids: Iterable[InstanceId]) -> None:
        for instance_id in instance_ids:
            for watch in self._watches.get(instance_id, ()):
                watch.is_told = True
                watch.event.set()

    def tell_all(self) -> None:
        self.tell(tuple(self._watches))

    async def wait(self, instance_ids: Iterable[InstanceId], seconds: float) -> bool:
        """Wait for a change of one of the instances, for so long; whether there was one."""
        ids = frozenset(instance_ids)
        watch = _Watch(asyncio.Event())
        for instance_id in ids:
            self._watches.setdefault(instance_id, set()).add(watch)
        try:
            async with asyncio.timeout(seconds):
                await watch.event.wait()
        except TimeoutError:
            pass
        finally:
            for instance_id in ids:
                watches = self._watches[instance_id]
                watches.discard(watch)
                if not watches:
                    del self._watches[instance_id]
        return watch.is_told  # perhaps between the end of the time and now


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
