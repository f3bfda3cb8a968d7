"""The comparison with the official wheel, as far as it goes without the wheel."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import official
from tests.docs.blocks import ROOT


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("python", [sys.executable, "/nowhere/python"])
def test_without_the_wheel_it_says_how_to_get_it(python: str) -> None:
    done = benchmarks("official", "--python", python)
    assert done.returncode == 1
    assert python in done.stderr
    assert "make benchmark-official" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_program_runs_with_this_package(tmp_path: Path) -> None:
    task = {
        "store": str(tmp_path / "store.db"),
        "schema": "",
        "options": official.CONFIGURATIONS["tuned"],
        "count": 3,
        "samples": 1,
    }
    result = official.run(sys.executable, task)
    assert set(result) == set(official.BETTER)
    assert result["fan_out_success_percent"] == 100
    assert all(math.isfinite(value) and value >= 0 for value in result.values()), result


@pytest.mark.parametrize("measure", official.BETTER)
def test_a_ratio_above_one_is_in_our_favour(measure: str) -> None:
    better, worse = (20.0, 10.0) if official.BETTER[measure] is max else (10.0, 20.0)
    assert official.ratio(measure, better, worse) == 2
    assert official.ratio(measure, worse, better) == 0.5
