"""So many of each name, so many in all, and everybody gets a turn."""

from __future__ import annotations

from collections import Counter
from functools import partial
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from duroxide.runtime.admission import Admission

LIMITS = {"a": 1, "b": 2, "c": None}


def gates(name: str) -> tuple[tuple[str, int], ...]:
    limit = LIMITS[name]
    return () if limit is None else ((name, limit),)


@given(
    limit=st.integers(1, 4),
    names=st.lists(st.sampled_from(sorted(LIMITS)), max_size=30),
    draw=st.randoms(use_true_random=False),
)
def test_all_run_in_order_and_never_too_many(limit: int, names: list[str], draw: Random) -> None:
    admission = Admission(limit)
    running: list[tuple[str, int]] = []
    begun: list[tuple[str, int]] = []

    def begin(job: tuple[str, int]) -> None:
        running.append(job)
        begun.append(job)
        counts = Counter(name for name, _ in running)
        assert len(running) <= limit
        assert all(bound is None or counts[name] <= bound for name, bound in LIMITS.items())

    def end_one() -> None:
        name, number = running[draw.randrange(len(running))]
        running.remove((name, number))
        admission.leave(gates(name))

    for number, name in enumerate(names):
        admission.enter(gates(name), partial(begin, (name, number)))
        if running and draw.random() < 0.3:
            end_one()
    while running:
        end_one()
    assert sorted(number for _, number in begun) == list(range(len(names)))
    for name in LIMITS:
        mine = [number for other, number in begun if other == name]
        assert mine == sorted(mine)


def test_who_waits_at_a_special_gate_takes_no_place_of_the_general_one() -> None:
    admission = Admission(10)
    begun: list[str] = []
    for name in ("sql/ann", "sql/ann", "sql/ann", "sql/bob"):
        admission.enter(((name, 1), ("sql", 2)), partial(begun.append, name))
    assert begun == ["sql/ann", "sql/bob"]
    admission.leave((("sql/ann", 1), ("sql", 2)))
    assert begun == ["sql/ann", "sql/bob", "sql/ann"]
