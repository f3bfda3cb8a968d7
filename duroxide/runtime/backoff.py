"""How long to wait before trying again."""

from __future__ import annotations

import random

SHORTEST_S = 0.010
LONGEST_S = 1.0


class Backoff:
    """Decorrelated jitter from 10 ms to 1 s: spreads callers out and still answers quickly."""

    def __init__(self, draw: random.Random | None = None) -> None:
        self._draw = draw or random.Random()
        self._last_s = SHORTEST_S

    def next_s(self) -> float:
        wanted = self._draw.uniform(SHORTEST_S, self._last_s * 3)
        self._last_s = min(max(wanted, SHORTEST_S), LONGEST_S)
        return self._last_s

    def reset(self) -> None:
        self._last_s = SHORTEST_S


def redelivery_delay_ms(attempt: int, *, base_ms: int = 1_000, longest_ms: int = 60_000) -> int:
    """Before another worker tries what this one could not do: 1, 2, 4 ... 60 s."""
    return int(min(base_ms * 2 ** min(max(attempt, 1) - 1, 6), longest_ms))
