"""How many activities to have in hand besides those that run: as many as will run in a moment."""

from __future__ import annotations

SMOOTHING = 0.05  # the weight of the newest one
AT_MOST = 8  # times the slots


class Ahead:
    """Short activities are leased ahead, so that their slots and batches stay full; long ones are not.

    What is leased ahead is out of the reach of other workers, so it must not wait here for long. With
    slots that are all taken, so many run in a second as the mean duration says.

    Args:
        wait_s: how long one that is leased ahead should wait at most, on average; 0: none is.
    """

    def __init__(self, slots: int, wait_s: float) -> None:
        self._slots = slots
        self._wait_s = wait_s
        self._mean_s: float | None = None
        self.count = 0

    def ended(self, seconds: float) -> None:
        """An activity has run for so long."""
        mean_s = self._mean_s
        self._mean_s = seconds if mean_s is None else mean_s + SMOOTHING * (seconds - mean_s)
        self._count()

    def waited(self, seconds: float) -> None:
        """One that was leased ahead has waited for so long, and no slot has become free."""
        self._mean_s = max(self._mean_s or 0.0, seconds)
        self._count()

    def _count(self) -> None:
        most = AT_MOST * self._slots
        mean_s = max(self._mean_s or 0.0, 1e-6)
        self.count = min(int(self._slots * self._wait_s / mean_s), most)
