"""Every clause of the checklist is named by a test, and every test names clauses that exist."""

from __future__ import annotations

from pathlib import Path

from tests.checklist import CLAUSES, named

TESTS = Path(__file__).parents[1]


def test_every_clause_of_the_checklist_is_named_by_a_test() -> None:
    wanted = {(line, clause) for line, clauses in CLAUSES.items() for clause in clauses}
    assert sorted(wanted - set(named(TESTS))) == []


def test_a_clause_that_a_test_names_exists() -> None:
    known = {(line, clause) for line, clauses in CLAUSES.items() for clause in clauses}
    unknown = {key: tests for key, tests in named(TESTS).items() if key not in known}
    assert unknown == {}
