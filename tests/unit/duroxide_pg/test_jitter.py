from __future__ import annotations

import random

from duroxide_pg.jitter import uniform


def test_the_random_numbers_of_the_program_are_left_alone() -> None:
    before = random.getstate()
    assert 1.0 <= uniform(1.0, 2.0) <= 2.0
    assert random.getstate() == before
