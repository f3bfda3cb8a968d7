"""One poll that waits: how long still, and what for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from duroxide.clock import Clock
from duroxide_pg.hints import Hint
from duroxide_pg.jitter import uniform
from duroxide_pg.wakeups import PATIENCE_S, Wakeups

SHORTEST_POLL_S, LONGEST_POLL_S = 0.05, 1.0
"""How often a process looks that nobody tells."""
MANUAL_POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Emptied:
    """A look that found all there was, and less than was asked for."""

    seen: int  # hints before it
    looked_at: float  # the event loop's clock
    now_ms: int
    next_due_ms: int | None
    is_blocked: bool


class Waiting:
    """Between the looks of one poll.

    Args:
        clock: judges how long instead of the event loop, for tests; nobody tells when it moves.
    """

    def __init__(
        self,
        wakeups: Wakeups,
        hint: Hint,
        topics: Sequence[str],
        wait_ms: int,
        clock: Clock | None,
    ) -> None:
        self._wakeups = wakeups
        self._hint = hint
        self._topics = topics
        self._clock = clock
        self._deadline_ms = self._now_ms() + wait_ms
        self._early_returns = hint.early_returns
        self._seen = hint.count
        self._pause_s = SHORTEST_POLL_S

    async def look(self, *, is_busy: bool) -> None:
        """The store is asked now, or very soon in a busy process: earlier hints are used up."""
        if is_busy and self._clock is None and self._deadline_ms > self._now_ms():
            await asyncio.sleep(self._hint.rest_s())
        self._seen = self._hint.count
        self._hint.looked_at = asyncio.get_running_loop().time()

    def answered(self) -> None:
        """The store has answered."""
        self._hint.look_took_s = asyncio.get_running_loop().time() - self._hint.looked_at

    def emptied(self, now_ms: int, next_due_ms: int | None, *, is_blocked: bool) -> Emptied:
        return Emptied(
            seen=self._seen,
            looked_at=self._hint.looked_at,
            now_ms=now_ms,
            next_due_ms=next_due_ms,
            is_blocked=is_blocked,
        )

    async def go_on_from(self, last: Emptied | None) -> None:
        """Before the first look of a poll: wait, if the last poll has just left nothing behind.

        Whoever found something is busy with that, and a look that must find nothing would be in its way.
        """
        if last is None or self._clock is not None or last.seen != self._hint.count:
            return
        elapsed_s = asyncio.get_running_loop().time() - last.looked_at
        if elapsed_s < PATIENCE_S:  # or others may have sent something that they told nobody of
            self._seen = last.seen
            now_ms = last.now_ms + round(elapsed_s * 1000)
            await self.go_on(now_ms, last.next_due_ms, is_blocked=last.is_blocked)

    async def go_on(self, now_ms: int, next_due_ms: int | None, *, is_blocked: bool) -> bool:
        """After a look that found nothing: wait, and say whether to look again.

        Args:
            is_blocked: something is there, but somebody else has it leased.
        """
        left_s = (self._deadline_ms - self._now_ms()) / 1000
        if left_s <= 0 or self._hint.early_returns != self._early_returns:
            return False
        if self._clock is not None:
            await self._hint.wait(self._seen, MANUAL_POLL_S)
            return True
        wait_s = left_s
        if next_due_ms is not None:
            wait_s = min(wait_s, max(next_due_ms - now_ms, 0) / 1000)
        if is_blocked or not self._wakeups.is_listening:
            wait_s = min(wait_s, self._pause_s * uniform(0.8, 1.2))
            self._pause_s = min(LONGEST_POLL_S, 2 * self._pause_s)
        seen = self._seen
        await self._wakeups.wait_for_work(self._hint, self._topics, seen, wait_s)
        return self._hint.count != seen or wait_s < left_s or self._now_ms() < self._deadline_ms

    def _now_ms(self) -> float:
        if self._clock is not None:
            return self._clock.now_ms()
        return asyncio.get_running_loop().time() * 1000
