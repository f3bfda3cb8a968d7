"""df._settings: a listed set, checked, and out of an ordinary session's reach."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pg_durable.scope import ExecutionLimits
from tests.sql.sessions import Connection, message, refusal, start, value


def test_a_setting_is_its_row_or_its_default(owner: Connection) -> None:
    assert value(owner, "select df._setting('retention_days')") == "30"
    with owner.transaction(force_rollback=True):
        owner.execute("insert into df._settings values ('retention_days', '7')")
        assert value(owner, "select df._setting('retention_days')") == "7"


def test_a_database_level_entry_counts_but_a_session_placeholder_does_not(
    owner: Connection, superuser: Connection, alice: Connection
) -> None:
    alice.execute("set pg_durable.list_instances_max_limit = 77")
    assert value(alice, "select df._setting('list_instances_max_limit')") == "1000"
    database = owner.info.dbname
    superuser.execute(
        f"alter database {database} set pg_durable.list_instances_max_limit = 55".encode()
    )
    try:
        assert value(alice, "select df._setting('list_instances_max_limit')") == "55"
    finally:
        superuser.execute(
            f"alter database {database} reset pg_durable.list_instances_max_limit".encode()
        )


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("no_such", "1", 'pg-durable has no setting "no_such"'),
        ("retention_days", "-1", 'setting "retention_days" must be a whole number between 0 and 36500, not "-1"'),
        ("retention_days", "36501", 'setting "retention_days" must be a whole number between 0 and 36500, not "36501"'),
        ("retention_days", "soon", 'setting "retention_days" must be a whole number between 0 and 36500, not "soon"'),
        ("cron_dialect", "x", 'setting "cron_dialect" must be one of classic, quartz, not "x"'),
        ("workflow_timezone", "Mars/Base", 'setting "workflow_timezone" must be the name of a time zone, not "Mars/Base"'),
    ],
)  # fmt: skip
def test_a_bad_setting_is_refused(owner: Connection, name: str, given: str, words: str) -> None:
    error = refusal(owner, "insert into df._settings values (%s, %s)", name, given)
    assert (error.sqlstate, message(error)) == ("22023", words)


def test_every_default_would_be_accepted(owner: Connection) -> None:
    with owner.transaction(force_rollback=True):
        owner.execute("insert into df._settings select name, fallback from df._setting_specs()")


def test_settings_that_decide_what_a_workflow_does_are_pinned_at_its_start(
    owner: Connection, alice: Connection
) -> None:
    """Only those that are not the default; the worker's defaults are the same."""

    def pinned() -> Any:
        i = start(alice, "'SELECT 1'")
        body = value(
            owner,
            "select work_item from duroxide.orchestrator_queue where instance_id = %s and kind = 1",
            i,
        )
        return json.loads(json.loads(body)["StartOrchestration"]["input"]).get("settings")

    assert pinned() is None
    names = set(ExecutionLimits.__dataclass_fields__)
    try:
        owner.execute(
            "insert into df._settings values ('min_loop_interval_ms', '0'), ('cron_dialect', 'quartz'),"
            " ('retention_days', '7'), ('max_loop_iterations', '0')"
        )
        assert pinned() == {"cron_dialect": "quartz", "min_loop_interval_ms": "0"}
        limits = ExecutionLimits.parse(pinned())
        assert (limits.min_loop_interval_ms, limits.cron_dialect) == (0, "quartz")
    finally:
        owner.execute("delete from df._settings")
    defaults = {name: value(owner, "select df._setting(%s)", name) for name in names}
    assert ExecutionLimits.parse(defaults) == ExecutionLimits()
