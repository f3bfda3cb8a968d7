"""Each kind of error has its words, its remedy and its exit status."""

from __future__ import annotations

import psycopg
import pytest

from duroxide.errors import InstanceNotFound
from duroxide_pg.errors import (
    CannotConnect,
    ExtraMissing,
    MigrationBusy,
    NotPermitted,
    SchemaForeign,
    SchemaMissing,
    SchemaTooNew,
    ServerTooOld,
    SetupError,
)
from pg_durable.commands.problems import CommandFailed, ExitStatus, describe
from pg_durable.embedded import NoServerFound
from tests.docs.blocks import ROOT


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (CannotConnect, 3),
        (ServerTooOld, 4),
        (SchemaMissing, 5),
        (SchemaTooNew, 6),
        (NotPermitted, 7),
        (SchemaForeign, 8),
        (MigrationBusy, 1),
        (ExtraMissing, 1),
    ],
)
def test_a_setup_error_has_a_status_of_its_own(kind: type[SetupError], status: int) -> None:
    problem = describe(kind("the sky is low", "mind your head"))
    assert problem.status == status
    assert str(problem) == "pg-durable: the sky is low\n  To fix it: mind your head"


def test_every_kind_of_setup_error_was_thought_of() -> None:
    thought_of = {CannotConnect, ServerTooOld, SchemaMissing, SchemaTooNew, NotPermitted}
    thought_of |= {SchemaForeign, MigrationBusy, ExtraMissing}
    assert set(SetupError.__subclasses__()) == thought_of


def test_without_any_server_the_status_says_so() -> None:
    problem = describe(NoServerFound(["PATH: nothing"]))
    assert problem.status == ExitStatus.NO_PRIVATE_SERVER
    assert "pip install 'pg-durable[embedded]'" in str(problem)


def test_an_error_of_the_server_is_told_in_its_words() -> None:
    assert describe(psycopg.errors.InsufficientPrivilege("no\n  way")).what == "no way"
    assert describe(psycopg.OperationalError("gone")).status == ExitStatus.CANNOT_CONNECT


def test_an_error_of_the_library_needs_no_report() -> None:
    assert describe(InstanceNotFound("a1")).status == ExitStatus.FAILED
    assert describe(CommandFailed("not so", "try", ExitStatus.SCHEMA_MISSING)).status == 5


def test_an_error_that_nobody_foresaw_asks_for_a_report() -> None:
    problem = describe(KeyError("x"))
    assert problem.status == ExitStatus.UNEXPECTED
    assert "PG_DURABLE_DEBUG=1" in str(problem)


def test_every_status_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/errors.md").read_text()
    for status in ExitStatus:
        assert f"| {status.value} |" in text, status
