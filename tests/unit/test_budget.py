"""Tests that repeat themselves come to an end, and report what they have found."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.budget import portions, within


@pytest.mark.parametrize(("minutes", "expected"), [(0, 1), (60, 50)])
def test_further_examples_pass_once_the_time_is_over(minutes: float, expected: int) -> None:
    seen = []

    @settings(max_examples=50, database=None)
    @given(number=st.integers(0))
    @within(minutes=minutes)
    def law(number: int) -> None:
        seen.append(number)

    law()
    assert len(seen) == expected


def test_what_fails_is_made_smaller_also_after_the_time_is_over() -> None:
    @settings(max_examples=50, database=None)
    @given(number=st.integers(0))
    @within(minutes=0)
    def law(number: int) -> None:
        assert number < 0, f"not {number}"

    with pytest.raises(AssertionError, match="not 0"):
        law()


@pytest.mark.parametrize(("minutes", "expected"), [(0, [0]), (60, [0, 1, 2])])
def test_there_is_one_portion_at_least(minutes: float, expected: list[int]) -> None:
    assert list(portions(3, minutes=minutes)) == expected
