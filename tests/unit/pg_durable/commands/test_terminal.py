"""Colour where somebody looks, and only there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fixtures.commands import clean_environment

PRINT = "from pg_durable.commands.terminal import terminal; terminal().print('[green]✓[/] ' + '-' * 100)"
GREEN = b"\x1b[32m"


def printed(*, to_a_terminal: bool, **variables: str) -> bytes:
    """Return the bytes that a program writes to a terminal, or to a pipe."""
    env = clean_environment(**{"TERM": "xterm-256color"} | variables)
    ours, theirs = os.openpty() if to_a_terminal else os.pipe()
    try:
        done = subprocess.run([sys.executable, "-c", PRINT], stdout=theirs, env=env, check=False)
        assert done.returncode == 0
        return os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("to_a_terminal", "variables", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, True),
    ],
)
def test_colour_is_for_terminals_unless_the_environment_says_otherwise(
    to_a_terminal: bool, variables: dict[str, str], coloured: bool
) -> None:
    assert (GREEN in printed(to_a_terminal=to_a_terminal, **variables)) is coloured


def test_a_line_in_a_pipe_is_not_broken_at_eighty_columns() -> None:
    assert printed(to_a_terminal=False).decode() == "✓ " + "-" * 100 + "\n"


def test_what_an_encoding_lacks_does_not_end_the_program() -> None:
    assert (
        printed(to_a_terminal=False, PYTHONIOENCODING="ascii").decode() == "? " + "-" * 100 + "\n"
    )
