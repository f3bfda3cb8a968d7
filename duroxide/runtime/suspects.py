"""Work that processes may have died of: one piece of it at a time, so that no other is blamed for it.

A process that dies takes everything with it that it had leased, and each of these deliveries counts. So
what has been delivered several times is either the cause or was near it, again and again. Those suspects
never run beside each other: the next one that brings the process down is the only one of them that it
costs a delivery, and the others end in peace.
"""

from __future__ import annotations

import asyncio

ALONE_S = 300.0  # then the next one begins beside it: long work would hold up the others for ever
STEPS_MS = 10, 250  # between those that are turned away at once, so that they come back one by one
MOST_STEPS = 60


class Suspects:
    """The one seat of a process for what was delivered suspiciously often.

    Args:
        attempts: deliveries before something is poison; from beyond a third of them on it is suspect.
    """

    def __init__(self, attempts: int) -> None:
        self._from = max(1, attempts // 3) + 1
        self._seated: str | None = None
        self._since = 0.0
        self._steps = 0
        self._on_their_way = 0
        self._all_back = asyncio.Event()
        self._all_back.set()

    def is_one(self, attempt_count: int) -> bool:
        return attempt_count >= self._from

    def seat(self, token: str) -> bool:
        """Whether it may run now, after `alone`; `leave` has to follow."""
        now = asyncio.get_running_loop().time()
        if self._seated is not None and now - self._since < ALONE_S:
            return False
        self._seated, self._since, self._steps = token, now, 0
        return True

    async def alone(self) -> None:
        """Wait until those that were turned away are in the store again: what runs now can't harm them."""
        await asyncio.sleep(0)  # others of the same answer of the store are turned away
        await self._all_back.wait()

    def leave(self, token: str) -> None:
        if self._seated == token:
            self._seated = None

    def turn_away(self) -> int:
        """How many milliseconds later it is to come again; `turned_away` follows once that is stored.

        What has sat here for long may sit for as long again. Most suspects were only refused, by a worker
        without their code, and need a moment each.
        """
        self._on_their_way += 1
        self._all_back.clear()
        self._steps += 1
        least, most = STEPS_MS
        sat_ms = round((asyncio.get_running_loop().time() - self._since) * 1000)
        return min(max(least, sat_ms), most) * min(self._steps, MOST_STEPS)

    def turned_away(self) -> None:
        self._on_their_way -= 1
        if self._on_their_way == 0:
            self._all_back.set()
