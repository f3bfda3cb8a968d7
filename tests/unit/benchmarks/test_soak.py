"""How the soak decides that something grows, and that nothing is missing from its account."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import SHAPES, Sample, complaints, growth, judge


def samples(*worker_mb: float) -> list[Sample]:
    return [
        Sample(at_s=5 * place, worker_bytes=round(mb * 2**20), table_bytes=2**20, open=0, started=0)
        for place, mb in enumerate(worker_mb)
    ]


def test_the_first_third_is_warming_up_and_does_not_count() -> None:
    assert growth([1, 50, 99, 100, 100, 100, 100, 100, 100]) == 0


def test_a_single_peak_is_no_growth() -> None:
    assert growth([100, 100, 100, 100, 100, 100, 100, 900, 100]) == 0


@pytest.mark.parametrize("per_sample_mb", [1, 2, 10])
def test_what_grows_steadily_is_found(per_sample_mb: float) -> None:
    (sentence,) = judge(samples(*(50 + per_sample_mb * n for n in range(30))), tolerance=0.1)
    assert "memory of the worker grew by" in sentence


def test_what_stays_is_not_mentioned() -> None:
    assert judge(samples(*(50 + n % 3 for n in range(30))), tolerance=0.1) == []


def test_too_few_samples_are_an_error_rather_than_a_good_answer() -> None:
    with pytest.raises(ValueError, match="too few"):
        growth([1, 2])


def test_warnings_and_errors_of_the_worker_are_shown(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text(
        "t INFO duroxide.runtime: started\nt WARNING duroxide.runtime: odd\nt ERROR x: bad\n"
    )
    assert complaints(log) == ["t WARNING duroxide.runtime: odd", "t ERROR x: bad"]


def test_shapes_end_in_every_way() -> None:
    assert {shape.end for shape in SHAPES.values()} == {"completed", "failed", "cancelled"}
