"""The examples, by name."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"


def path_of(name: str) -> Path:
    return EXAMPLES / name / f"{name}.py"


def load(name: str) -> dict[str, Any]:
    """What the file of an example defines."""
    return runpy.run_path(str(path_of(name)), run_name=name)
