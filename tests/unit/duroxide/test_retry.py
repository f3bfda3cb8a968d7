"""When an activity is tried again (property 24), as arithmetic and in a running orchestration."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duroxide import (
    DurableTimeout,
    ExponentialBackoff,
    FixedBackoff,
    LinearBackoff,
    NoBackoff,
    OrchestrationContext,
    RetryPolicy,
    TaskError,
    orchestration,
)
from duroxide.retry import Backoff, milliseconds
from duroxide.testing.world import HOLD, World


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (NoBackoff(), [0, 0, 0]),
        (FixedBackoff(timedelta(seconds=2)), [2000, 2000, 2000]),
        (LinearBackoff(timedelta(seconds=1), timedelta(seconds=2)), [1000, 2000, 2000]),
        (ExponentialBackoff(), [100, 200, 400, 800]),
        (
            ExponentialBackoff(timedelta(seconds=1), 10.0, timedelta(seconds=50)),
            [1000, 10_000, 50_000],
        ),
    ],
)
def test_each_backoff_has_its_formula(backoff: Backoff, delays: list[int]) -> None:
    assert [backoff.delay_ms(n) for n in range(1, len(delays) + 1)] == delays


@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_a_delay_stays_in_the_range_of_its_jitter(attempt: int, jitter: float, at: float) -> None:
    policy = RetryPolicy(jitter=jitter)
    plain = policy.backoff.delay_ms(attempt)
    delay = policy.delay_ms(attempt, at)
    assert plain * (1 - jitter) - 1 <= delay <= plain * (1 + jitter) + 1
    assert plain <= 30_000


@given(st.timedeltas(timedelta(), timedelta(days=1000)))
def test_a_duration_is_never_rounded_down(duration: timedelta) -> None:
    assert timedelta(milliseconds=milliseconds(duration) - 1) < duration
    assert timedelta(milliseconds=milliseconds(duration)) >= duration


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": "3"},
        {"jitter": 1.5},
        {"timeout": timedelta()},
        {"total_timeout": timedelta(seconds=-1)},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong)) + " is"):
        RetryPolicy(**wrong)


def test_who_may_be_tried_again() -> None:
    policy = RetryPolicy(max_attempts=3, retry_if=lambda error: error.error_type != "Fatal")
    assert policy.allows_another(1, TaskError("x"), timed_out=False)
    assert not policy.allows_another(3, TaskError("x"), timed_out=False)
    assert not policy.allows_another(1, TaskError("x", retryable=False), timed_out=False)
    assert not policy.allows_another(1, TaskError("x", "Fatal"), timed_out=False)
    assert policy.allows_another(1, TaskError("x", "Fatal"), timed_out=True)
    assert not RetryPolicy(retry_on_timeout=False).allows_another(1, TaskError("x"), True)


def build(policy: RetryPolicy) -> Any:
    @orchestration
    async def code(ctx: OrchestrationContext) -> Any:
        return await ctx.call("act", retry=policy)

    return code


@given(st.integers(1, 6), st.integers(0, 8))
def test_attempts_and_their_spacing_equal_the_policy(attempts: int, failures: int) -> None:
    policy = RetryPolicy(max_attempts=attempts, backoff=LinearBackoff(), jitter=0.3)
    code = build(policy)
    world = World(code)
    times: list[int] = []

    def act() -> str:
        times.append(world.clock.now_ms())
        if len(times) <= failures:
            raise ValueError("no")
        return "done"

    world.answer("act", act)
    run = world.start(code)
    world.advance(minutes=10)
    assert len(times) == min(attempts, failures + 1)
    assert run.status == ("Completed" if failures < attempts else "Failed")
    for n, (before, after) in enumerate(pairwise(times), 1):
        assert policy.delay_ms(n, 0.0) <= after - before <= policy.delay_ms(n, 1.0)
    assert world.stage.next_timer_ms() is None
    run.assert_replays()


@given(st.integers(1, 6), st.integers(0, 7), st.none() | st.integers(1, 5), st.integers(1, 20))
def test_a_call_ends_when_its_attempts_or_its_time_are_used_up_and_never_later(
    attempts: int, pause_s: int, attempt_s: int | None, total_s: int
) -> None:
    """Every attempt fails: at once, or by its own timeout if there is one."""
    policy = RetryPolicy(
        max_attempts=attempts,
        backoff=FixedBackoff(timedelta(seconds=pause_s)),
        timeout=None if attempt_s is None else timedelta(seconds=attempt_s),
        total_timeout=timedelta(seconds=total_s),
    )
    code = build(policy)
    world = World(code)
    if attempt_s is None:
        world.answer("act", raises=ValueError("no"))
    else:
        world.answer("act", lambda: HOLD)
    run = world.start(code)
    world.advance(seconds=total_s)
    assert run.status == "Failed"
    took_ms = run.history[-1].timestamp_ms - run.history[0].timestamp_ms
    all_of_them_s = attempts * (attempt_s or 0) + (attempts - 1) * pause_s
    assert took_ms == min(all_of_them_s, total_s) * 1000
    assert world.stage.next_timer_ms() is None
    run.assert_replays()


def test_the_total_timeout_holds_over_all_attempts_and_waits() -> None:
    policy = RetryPolicy(
        max_attempts=100,
        backoff=FixedBackoff(timedelta(seconds=4)),
        total_timeout=timedelta(seconds=10),
    )
    code = build(policy)
    world = World(code)
    world.answer("act", raises=ValueError("no"))
    run = world.start(code)
    world.advance(seconds=9)
    assert run.status == "Running"
    world.advance(seconds=1)
    assert run.error == "DurableTimeout: timeout: activity timed out"
    assert len(world.calls) == 3
    run.assert_replays()


def test_a_call_with_a_timeout_gives_the_activity_up() -> None:
    @orchestration
    async def code(ctx: OrchestrationContext) -> str:
        try:
            await ctx.call("act", timeout=5)
        except DurableTimeout:
            return "gave up"
        return "?"

    world = World(code)
    world.answer("act", lambda: HOLD)
    run = world.start(code)
    world.advance(5)
    assert run.output == "gave up"
    assert world.held == []
