"""A law that fails says how to fail again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FAILS = """
from hypothesis import given, strategies as st
import tests.conftest

@given(st.integers())
def test_small(number: int) -> None:
    assert number < 1000
"""


def test_a_failure_prints_the_program_and_the_line_that_replays_it(tmp_path: Path) -> None:
    (tmp_path / "test_law.py").write_text(FAILS)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "number=1000" in run.stdout
    assert "@reproduce_failure(" in run.stdout
