"""A workflow that waits for weeks costs no statement, no memory in the worker and a few rows."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.crash.test_kill_points import running
from tests.crash.trap import Moment, Trap
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually

WAITS = (
    "df.sleep(1209600) ~> 'select 1'",
    "df.wait_for_signal('approved') ~> 'select 1'",
    "df.wait_for_schedule('0 0 1 1 *') ~> 'select 1'",
    "df.loop(df.sleep(1209600) ~> 'select 1')",
)


def start_waiting(workflows: Workflows, count: int) -> int:
    """Start so many of each and wait until nothing is left to do for them; returns how many there are."""
    before = int(str(workflows.one("select count(*) from df._signal_waiters")))
    for wait in WAITS:
        workflows.one(f"select count(df.start({wait})) from generate_series(1, {count})")
    waits = "select count(*) from df._signal_waiters"
    eventually(lambda: workflows.one(waits) == before + count, timeout_s=60, what="all wait")
    busy = (
        "select (select count(*) from df.instances where status = 'pending')"
        " + (select count(*) from duroxide.worker_queue)"
        " + (select count(*) from duroxide.orchestrator_queue where visible_at <= now())"
    )
    eventually(lambda: workflows.one(busy) == 0, timeout_s=60, what="all came to rest")
    return count * len(WAITS)


def rows_of_all_instances(workflows: Workflows) -> int:
    tables = workflows.all(
        "select quote_ident(table_schema) || '.' || quote_ident(table_name) from information_schema.columns"
        " join information_schema.tables using (table_schema, table_name)"
        " where table_schema in ('df', 'duroxide') and table_type = 'BASE TABLE'"
        " and (column_name = 'instance_id' or (table_name, column_name) = ('instances', 'id'))"
    )
    return sum(int(str(workflows.one(f"select count(*) from {table}"))) for (table,) in tables)


def test_a_workflow_that_waits_costs_no_statement_and_a_few_rows(
    installed: Database, workflows: Workflows, tmp_path: Path
) -> None:
    way = Trap(b"\0never\0", Moment.BEFORE, lambda: None)
    with (
        way.to(installed.dsn),
        running(way.dsn, tmp_path / "worker.log", heartbeat_interval=1.0),
    ):
        count = start_waiting(workflows, 25)
        before = way.requests
        time.sleep(2)  # in which nothing should happen
        idle = way.requests - before
    assert idle < 25, "the worker asks for instances that wait"
    assert idle > 0  # the heartbeat: so they were counted
    assert rows_of_all_instances(workflows) / count < 12


@pytest.mark.long
def test_however_many_wait_the_worker_does_not_grow(
    installed: Database, workflows: Workflows, tmp_path: Path
) -> None:
    with running(installed.dsn, tmp_path / "worker.log") as worker:

        def memory_mib() -> float:
            command = ["ps", "-o", "rss=", "-p", str(worker.pid)]
            return int(subprocess.run(command, capture_output=True, check=True).stdout) / 1024

        start_waiting(workflows, 400)  # more than the worker keeps at hand
        before = memory_mib()
        for _ in range(3):
            start_waiting(workflows, 400)
        assert memory_mib() < before + 12
