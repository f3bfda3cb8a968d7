"""Work that processes may have died of: little of it at a time, so that no other is blamed for it.

A process that dies takes everything with it that it had leased, and each of these deliveries counts. So
what has been delivered several times is either the cause or was near it, again and again; or it was only
refused, by workers without its code, and then there may be thousands of it. Suspects are seated one at a
time, and the others given back, uncounted. As more of them end in peace, more may sit together: a crowd that
was refused is soon done. But what has only a few deliveries left sits alone: the next time that the
process dies costs nobody else one of those, and the others end in peace.
"""

from __future__ import annotations

import asyncio

ALONE_S = 300.0  # then the next one begins beside it: long work would hold up the others for ever
STEPS_MS = 10, 250  # between those that are turned away at once, so that they come back one by one
MOST_STEPS = 60
MOST_SEATS = 16
LAST = 3
"""Deliveries before something is poison for which it sits alone: one that a death beside others has cost
it is behind it then, and two are left for workers that end for other reasons."""


class Suspects:
    """The seats of a process for what was delivered suspiciously often.

    Args:
        attempts: deliveries before something is poison; from beyond a third of them on it is suspect.
    """

    def __init__(self, attempts: int) -> None:
        self._from = max(1, attempts // 3) + 1
        self._alone_from = max(self._from, attempts - LAST + 1)
        self._seats = 1
        self._seated: dict[str, float] = {}  # since when
        self._is_alone = False  # who sits now, or sat last
        self._since = 0.0
        self._steps = 0
        self._on_their_way = 0
        self._all_back = asyncio.Event()
        self._all_back.set()

    def is_one(self, attempt_count: int) -> bool:
        return attempt_count >= self._from

    def seat(self, token: str, attempt_count: int) -> bool:
        """Whether it may run now, after `alone`; `leave` has to follow."""
        now = asyncio.get_running_loop().time()
        sits_alone = attempt_count >= self._alone_from
        recent = sum(now - since < ALONE_S for since in self._seated.values())
        if recent >= (1 if sits_alone or self._is_alone else self._seats):
            return False
        self._seated[token] = self._since = now
        self._is_alone, self._steps = sits_alone, 0
        return True

    async def alone(self) -> None:
        """Wait until those that were turned away are in the store again: what runs now can't harm them."""
        await asyncio.sleep(0)  # others of the same answer of the store are turned away
        await self._all_back.wait()

    def leave(self, token: str) -> None:
        """It has ended, and the process with it has not."""
        if self._seated.pop(token, None) is not None:
            self._seats = min(self._seats + 1, MOST_SEATS)

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
        seats = 1 if self._is_alone else self._seats
        return min(max(least, sat_ms), most) * min(-(-self._steps // seats), MOST_STEPS)

    def turned_away(self) -> None:
        self._on_their_way -= 1
        if self._on_their_way == 0:
            self._all_back.set()
