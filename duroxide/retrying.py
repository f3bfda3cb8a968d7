"""Runs an activity as often as a retry policy says; every attempt is an activity of its own."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from duroxide.engine.combinators import Select, Shield
from duroxide.engine.futures import DurableFuture
from duroxide.engine.journal import Journal, ScheduledFuture
from duroxide.errors import DurableTimeout, TaskError
from duroxide.retry import RetryPolicy, milliseconds

Schedule = Callable[[], ScheduledFuture[Any]]


async def call_with_retry(
    journal: Journal, schedule: Schedule, policy: RetryPolicy, on_retry: Callable[[str], None]
) -> Any:
    """The result of the first attempt that succeeds.

    Raises:
        DurableTimeout: an attempt took too long and may not be repeated, or all of them together did.
        TaskError: the last attempt's failure.
    """
    deadline: ScheduledFuture[None] | None = None
    attempt = 0
    try:
        while True:
            attempt += 1
            call = schedule()
            if policy.total_timeout is not None and deadline is None:
                deadline = journal.timer(milliseconds(policy.total_timeout))
            error = await _one_attempt(journal, call, policy, deadline)
            if error is None:
                return call.result()
            error.attempt = attempt
            timed_out = isinstance(error, DurableTimeout)
            no_time_left = deadline is not None and deadline.done()
            if no_time_left or not policy.allows_another(attempt, error, timed_out):
                raise error
            what = "timed out" if timed_out else error.error_type or type(error).__name__
            # Not its text, which may tell secrets to whoever reads logs; history has it.
            on_retry(f"attempt {attempt} of {policy.max_attempts} failed: {what}")
            delay_ms = policy.delay_ms(attempt, _fraction(journal, call.event_id))
            if delay_ms:
                await _pause(journal, delay_ms, deadline)
    finally:
        if deadline is not None:
            deadline.cancel()


async def _one_attempt(
    journal: Journal,
    call: ScheduledFuture[Any],
    policy: RetryPolicy,
    deadline: ScheduledFuture[None] | None,
) -> TaskError | None:
    """None if it succeeded, else why not."""
    limit = None if policy.timeout is None else journal.timer(milliseconds(policy.timeout))
    waits: list[DurableFuture[Any]] = [call]
    keys = ["call"]
    if limit is not None:
        waits.append(limit)
        keys.append("limit")
    if deadline is not None:
        waits.append(Shield(journal.executor, deadline))
        keys.append("deadline")
    try:
        winner = await Select(journal.executor, waits, keys)
    except TaskError as error:
        return error
    if winner.key == "call":
        return None
    return _timed_out()


async def _pause(journal: Journal, delay_ms: int, deadline: ScheduledFuture[None] | None) -> None:
    pause = journal.timer(delay_ms)
    if deadline is None:
        await pause
        return
    shield = Shield(journal.executor, deadline)
    winner = await Select(journal.executor, [pause, shield], ["pause", "deadline"])
    if winner.key == "deadline":
        raise _timed_out()


def _timed_out() -> DurableTimeout:
    return DurableTimeout("timeout: activity timed out", "DurableTimeout")


def _fraction(journal: Journal, event_id: int) -> float:
    """Places jitter; its own stream, so that retries do not move what the code draws."""
    text = f"{journal.seed}/retry/{event_id}"
    return int.from_bytes(sha256(text.encode()).digest()[:6], "big") / (1 << 48)
