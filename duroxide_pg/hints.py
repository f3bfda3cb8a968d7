"""Hints inside one process: something may have happened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

DUTY = 2
"""A busy process looks at most this fraction of the time, so that each look finds more."""
LONGEST_LOOK_S = 0.003


class Hint:
    """Something may have happened; everyone who looked before that looks again."""

    def __init__(self) -> None:
        self.count = 0
        self.early_returns = 0  # asked for: who waits now looks once more and then returns
        self.looked_at = 0.0  # the event loop's clock
        self.look_took_s = 0.0
        self._waiting: set[asyncio.Future[bool]] = set()

    @property
    def is_awaited(self) -> bool:
        return bool(self._waiting)

    def rest_s(self) -> float:
        """How long to let things gather before the next look; nothing in an idle process."""
        now = asyncio.get_running_loop().time()
        return max(0.0, self.looked_at + DUTY * min(self.look_took_s, LONGEST_LOOK_S) - now)

    def give(self, *, return_early: bool = False) -> None:
        self.count += 1
        self.early_returns += return_early
        ring_all(self._waiting)

    async def wait(self, seen: int, seconds: float) -> bool:
        """Whether there has been a hint since the count was `seen`; waits at most so long for one."""
        if self.count != seen:
            return True
        bell = asyncio.get_running_loop().create_future()
        self._waiting.add(bell)
        try:
            return await rung(bell, seconds)
        finally:
            self._waiting.discard(bell)


def ring_all(bells: Iterable[asyncio.Future[bool]]) -> None:
    for bell in bells:
        if not bell.done():
            bell.set_result(True)


async def rung(bell: asyncio.Future[bool], seconds: float) -> bool:
    """Whether the bell is rung in time. (`asyncio.timeout` would take ten times as long as this.)"""
    timer = bell.get_loop().call_later(max(seconds, 0), _give_up, bell)
    try:
        return await bell
    finally:
        timer.cancel()


def _give_up(bell: asyncio.Future[bool]) -> None:
    if not bell.done():
        bell.set_result(False)
