"""`make` on a machine that has nothing prepared."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

LEFT_OUT = {".git", ".venv", ".venv-official", "dist", "build", "__pycache__"}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of this checkout as they are, with no environment beside them."""

    def ignore(_: str, names: list[str]) -> set[str]:
        return {name for name in names if name in LEFT_OUT or name.endswith("_cache")}

    return Path(shutil.copytree(ROOT, tmp_path / "clone", ignore=ignore))


def make(clone: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=clone,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long  # a second environment, for what test_wheel.py shows of the first
@pytest.mark.timeout(300)
def test_make_demo_needs_no_more_than_python(clone: Path) -> None:
    done = make(clone, "demo", "ARGS=--private")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every step took effect exactly once" in done.stdout
    assert "Installing" not in make(clone, "--dry-run", "demo").stdout


def test_make_without_a_python_says_which_is_needed(clone: Path) -> None:
    done = make(clone, "demo", "PYTHON=")
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stderr


def test_make_with_a_python_that_makes_no_environments_says_what_to_install(clone: Path) -> None:
    done = make(clone, "demo", "PYTHON=false")
    assert done.returncode == 2
    assert "python3-venv" in done.stderr
    assert not (clone / ".venv").exists()


def test_make_test_runs_every_check(clone: Path) -> None:
    planned = make(clone, "--dry-run", "test").stdout
    for check in ("ruff format --check", "ruff check", "mypy", "lint-imports", "pytest"):
        assert check in planned


def test_what_ci_runs_is_make_test() -> None:
    text = (ROOT / ".ci/run").read_text()
    assert text.splitlines()[-1] == "exec make test"
    assert os.access(ROOT / ".ci/run", os.X_OK)
