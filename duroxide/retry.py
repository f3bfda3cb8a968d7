"""When to try an activity again, as arithmetic: no clock, no randomness of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from duroxide.errors import TaskError

# Far above any sensible wait, far below where a float stops counting single milliseconds.
_LONGEST_MS = 10**15


@dataclass(frozen=True, slots=True)
class NoBackoff:
    """Try again at once."""

    def delay_ms(self, failed_attempt: int) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class FixedBackoff:
    delay: timedelta

    def delay_ms(self, failed_attempt: int) -> int:
        return milliseconds(self.delay)


@dataclass(frozen=True, slots=True)
class LinearBackoff:
    """`base` after the first failure, twice that after the second, up to `longest`."""

    base: timedelta = timedelta(milliseconds=100)
    longest: timedelta = timedelta(seconds=30)

    def delay_ms(self, failed_attempt: int) -> int:
        return min(milliseconds(self.base) * failed_attempt, milliseconds(self.longest))


@dataclass(frozen=True, slots=True)
class ExponentialBackoff:
    """`base * multiplier ** (n - 1)` after the n-th failure, up to `longest`."""

    base: timedelta = timedelta(milliseconds=100)
    multiplier: float = 2.0
    longest: timedelta = timedelta(seconds=30)

    def delay_ms(self, failed_attempt: int) -> int:
        try:
            wanted = milliseconds(self.base) * self.multiplier ** (failed_attempt - 1)
        except OverflowError:
            wanted = _LONGEST_MS
        return int(min(wanted, milliseconds(self.longest)))


Backoff: TypeAlias = NoBackoff | FixedBackoff | LinearBackoff | ExponentialBackoff


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, how long and after which failures an activity is tried.

    A failure that says `retryable=False` ends the attempts whatever the policy says.

    Raises:
        TypeError: `max_attempts` is no integer.
        ValueError: a number or a duration that can't be meant.
    """

    max_attempts: int = 3  # the first one counts
    backoff: Backoff = ExponentialBackoff()
    timeout: timedelta | None = None  # of one attempt; a timed-out attempt counts as failed
    total_timeout: timedelta | None = None  # of all attempts and the waits between them
    jitter: float = 0.0  # 0.2: each delay is scaled by a factor from 0.8 to 1.2
    retry_on_timeout: bool = True
    retry_if: Callable[[TaskError], bool] | None = None  # must be pure: it runs in replay too

    def __post_init__(self) -> None:
        if not isinstance(self.max_attempts, int):
            raise TypeError(f"max_attempts is {self.max_attempts!r}; it has to be an int")
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}; at least 1 attempt is made")
        if not 0.0 <= self.jitter <= 1.0:
            raise ValueError(f"jitter is {self.jitter}; it is a fraction from 0 to 1")
        for name in ("timeout", "total_timeout"):
            value: timedelta | None = getattr(self, name)
            if value is not None and value <= timedelta():
                raise ValueError(f"{name} is {value}; it must be positive, or None for no limit")

    def delay_ms(self, failed_attempt: int, fraction: float = 0.5) -> int:
        """How long to wait after the `failed_attempt`-th attempt (1-based) failed.

        Args:
            fraction: from 0 to 1, places the delay in the range that jitter allows.
        """
        delay = self.backoff.delay_ms(failed_attempt)
        if not self.jitter:
            return delay
        return max(0, round(delay * (1.0 + self.jitter * (2.0 * fraction - 1.0))))

    def allows_another(self, failed_attempt: int, error: TaskError, timed_out: bool) -> bool:
        """Whether there is to be an attempt after this failure."""
        if failed_attempt >= self.max_attempts:
            return False
        if timed_out:
            return self.retry_on_timeout
        return error.retryable and (self.retry_if is None or self.retry_if(error))


def milliseconds(duration: timedelta) -> int:
    """A duration in whole milliseconds, rounded up: a wait is never shorter than asked for."""
    return -(-duration // timedelta(milliseconds=1))
