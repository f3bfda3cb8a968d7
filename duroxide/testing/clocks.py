"""A clock that stands still until a test moves it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta


class ManualClock:
    """Wall-clock time that moves only by `advance`; it tells its listeners each time.

    A store that waits for a time to come listens, so that a waiting poll returns as soon as a test
    has moved the clock far enough, and never before.
    """

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._listeners: list[Callable[[], None]] = []

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, by: timedelta | int) -> None:
        """Move by a duration, or by milliseconds; a negative number is a clock that was set back."""
        step = by // timedelta(milliseconds=1) if isinstance(by, timedelta) else by
        self._now_ms += step
        for listener in tuple(self._listeners):
            listener()

    def on_advance(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each move, in the thread that moves the clock."""
        self._listeners.append(listener)
