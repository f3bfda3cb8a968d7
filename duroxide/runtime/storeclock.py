"""The store's clock as this process knows it."""

from __future__ import annotations

import asyncio
from collections import deque


class StoreClock:
    """Estimates the store's time from what its answers say and when they arrived.

    An answer arrives after the store has read its clock, so each sample is late by the way back; of
    the last samples the least late one counts. Between samples the event loop's clock runs.
    """

    def __init__(self, samples: int = 16) -> None:
        self._offsets: deque[float] = deque(maxlen=samples)

    def observe(self, now_ms: int) -> None:
        """The store said just now that it is `now_ms`."""
        self._offsets.append(now_ms - _loop_ms())

    def now_ms(self) -> int:
        """The store's time, never later than it is by more than the clocks drift.

        Raises:
            RuntimeError: the store has not said anything yet.
        """
        if not self._offsets:
            raise RuntimeError("the store's clock is not known before its first answer")
        return int(_loop_ms() + max(self._offsets))


def _loop_ms() -> float:
    return asyncio.get_running_loop().time() * 1000
