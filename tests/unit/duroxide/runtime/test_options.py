"""An option that can't be meant is refused when it is given, by its name."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from duroxide import RuntimeOptions


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("orchestration_concurrency", 0, "orchestration_concurrency must be at least 1, not 0"),
        ("max_attempts", -1, "max_attempts must be at least 1, not -1"),
        ("max_sessions_per_runtime", -1, "max_sessions_per_runtime must be at least 0, not -1"),
        ("worker_lock_renewal_buffer_ms", -1, "worker_lock_renewal_buffer_ms must be at least 0"),
        ("cache_size", -1, "cache_size must be at least 0"),
        ("drain_timeout_ms", -1, "drain_timeout_ms must be at least 0"),
        ("unregistered_backoff_ms", (0, 5), "unregistered_backoff_ms must be at least 1"),
        ("cache", "no", "cache must be 'on' or 'off' or 'verify', not 'no'"),
        ("nondeterminism", "ignore", "nondeterminism must be 'retry' or 'fail', not 'ignore'"),
        ("worker_node_id", "a\0", "worker_node_id contains a NUL character"),
        ("worker_node_id", "a\ud800", "worker_node_id contains a lone surrogate"),
        ("session_idle_timeout_ms", 10_000, "session_idle_timeout_ms .10000. must be longer"),
    ],
)
def test_a_value_that_can_not_be_meant_is_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RuntimeOptions(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("unregistered_backoff_ms", 5, "must be the first and the longest pause, not 5"),
        ("unregistered_backoff_ms", (1,), "must be the first and the longest pause, not .1,."),
        ("worker_node_id", 5, "worker_node_id must be of str, not 5"),
        ("limits", {}, "limits must be of Limits, not {}"),
        ("observer", 5, "observer must be of Observer, not 5"),
    ],
)
def test_a_value_of_another_kind_is_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        RuntimeOptions(**{name: value})


def test_none_means_the_default() -> None:
    nothing: Any = dict.fromkeys(field.name for field in fields(RuntimeOptions))
    given, default = RuntimeOptions(**nothing), RuntimeOptions()
    assert replace(given, observer=default.observer) == default


@pytest.mark.parametrize("value", ["2", 1.5, True])
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="worker_concurrency must be a whole number"):
        RuntimeOptions(worker_concurrency=value)


def test_a_session_may_be_idle_for_little_longer_than_its_activities_are_renewed() -> None:
    RuntimeOptions(session_idle_timeout_ms=10_001)
    RuntimeOptions(session_idle_timeout_ms=200, worker_lock_timeout_ms=300)


def test_zero_is_allowed_where_it_means_none() -> None:
    RuntimeOptions(
        max_sessions_per_runtime=0,
        worker_lock_renewal_buffer_ms=0,
        cache_size=0,
        orphan_retention_ms=0,
        cancellation_grace_ms=0,
        drain_timeout_ms=0,
        slow_turn_ms=0,
        prefetch_ms=0,
    )
