"""How long `pg-durable dev` waits before it starts a worker again."""

from __future__ import annotations

from itertools import islice

from pg_durable.commands.dev import delays


def test_each_crash_of_a_series_doubles_the_wait_up_to_half_a_minute() -> None:
    assert list(islice(delays(), 9)) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
