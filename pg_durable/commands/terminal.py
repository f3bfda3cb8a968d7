"""Where output goes: a terminal with colour, or a pipe without."""

from __future__ import annotations

import sys

from rich.console import Console

PIPE_WIDTH = 110  # a pipe has no width; wide enough for the statements that we show


def terminal() -> Console:
    """Return standard output: colour where it is a terminal and NO_COLOR is not set."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a query may hold what this terminal can't show
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
