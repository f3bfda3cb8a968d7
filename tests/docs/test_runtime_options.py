"""The page of the runtime says of every option its unit, its default, and when to change it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from duroxide.runtime.options import RuntimeOptions

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "runtime.md"
HEAD = ["option", "unit", "default", "what it is", "change it when"]

DEFAULTS = RuntimeOptions()
# What an option that is None by default comes to, in the words of the page.
RESOLVED = {
    "orchestration_concurrency": DEFAULTS.turn_slots,
    "worker_concurrency": DEFAULTS.activity_slots,
    "dispatcher_poll_interval_ms": round(DEFAULTS.poll_interval_s * 1000),
    "worker_lock_timeout_ms": DEFAULTS.activity_lease_ms,
    "max_sessions_per_runtime": DEFAULTS.session_limit,
    "session_idle_timeout_ms": DEFAULTS.session_idle_ms,
    "orchestrator_lock_timeout_ms": DEFAULTS.turn_lease_ms,
    "max_attempts": DEFAULTS.attempts,
    "session_lock_timeout_ms": DEFAULTS.session_lease_ms,
}


def rows() -> list[list[str]]:
    """The cells of the table, row by row."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begin = lines.index("| " + " | ".join(HEAD) + " |")
    found: list[list[str]] = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            return found
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_table_has_every_option_once_and_those_by_position_in_order() -> None:
    told = [row[0].strip("`") for row in rows()]
    options = fields(DEFAULTS)
    assert sorted(told) == sorted(option.name for option in options)
    by_position = [option.name for option in options if not option.kw_only]
    assert told[: len(by_position)] == by_position
    assert len(by_position) == 18


def test_no_cell_is_empty() -> None:
    assert [row for row in rows() if len(row) != len(HEAD) or not all(row)] == []


def test_the_defaults_are_those_of_the_code() -> None:
    told = {row[0].strip("`"): row[2] for row in rows()}
    for name in told:
        value = RESOLVED.get(name, getattr(DEFAULTS, name))
        if isinstance(value, int):
            assert told[name] == f"{value:,}", name
        elif isinstance(value, tuple):
            assert told[name] == "(" + ", ".join(f"{part:,}" for part in value) + ")", name
        elif isinstance(value, str):
            assert told[name] == f'`"{value}"`', name


def test_what_is_in_milliseconds_says_so() -> None:
    for name, unit, *_ in rows():
        assert (unit == "ms") == name.strip("`").endswith("_ms"), name


@pytest.mark.parametrize("lease", ["turn", "activity", "session"])
def test_a_lease_is_renewed_when_a_third_of_it_has_passed(lease: str) -> None:
    whole = getattr(DEFAULTS, f"{lease}_lease_ms")
    assert getattr(DEFAULTS, f"{lease}_buffer_ms") == whole * 2 // 3
