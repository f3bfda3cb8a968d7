"""df.pause and df.resume through a real worker process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.postgres import Database
from tests.fixtures.workers import QUICK, worker_process
from tests.fixtures.workflows import Workflows, eventually

SEEN = "select array_agg(i order by i) from seen"


@pytest.fixture(autouse=True)
def seen(workflows: Workflows) -> None:
    workflows.run("create table seen (i int)")
    workflows.run("create table gates (i int primary key)")


def begin_and_hold(workflows: Workflows, expression: str) -> str:
    """Start a workflow whose step `wait_at(1)` can't end yet, and wait until that runs."""
    workflows.run("insert into gates values (1)")
    workflows.run(
        "create function wait_at(p int) returns int language plpgsql as $$ begin"
        " while exists (select from gates where i = p) loop perform pg_sleep(0.01); end loop;"
        " insert into seen values (p); return p; end $$"
    )
    instance = workflows.start(expression)
    running = "select count(*) from pg_stat_activity where query like '%%wait_at(1)%%' and state = 'active' and pid <> pg_backend_pid()"
    eventually(lambda: workflows.one(running) == 1, what="the step runs")
    return instance


def is_told(workflows: Workflows, instance: str) -> None:
    """Wait until the worker has taken every message to the instance."""
    left = (
        "select count(*) from duroxide.orchestrator_queue where instance_id like %s and kind <> 4"
    )
    eventually(lambda: workflows.one(left, f"{instance}%") == 0, what="the worker knows")


def is_held(workflows: Workflows, instance: str) -> None:
    """Nothing of the instance is under way, not even a message or an activity, until a deadline."""
    busy = (
        "select (select count(*) from duroxide.orchestrator_queue where instance_id like %s and visible_at <= now())"
        " + (select count(*) from duroxide.worker_queue where instance_id like %s)"
    )
    eventually(
        lambda: workflows.one(busy, f"{instance}%", f"{instance}%") == 0, what="it came to rest"
    )
    assert workflows.status(instance) == "running"


@pytest.mark.usefixtures("worker")
def test_a_running_step_finishes_and_the_next_one_waits_for_resume(workflows: Workflows) -> None:
    instance = begin_and_hold(workflows, "'select wait_at(1)' ~> 'insert into seen values (2)'")
    workflows.one("select df.pause(%s)", instance)
    is_told(workflows, instance)
    workflows.run("delete from gates")
    eventually(lambda: workflows.one(SEEN) == [1], what="the step finished")
    is_held(workflows, instance)
    assert workflows.nodes(instance)["SQL insert into seen values (2)"] == "pending"
    workflows.one("select df.resume(%s)", instance)
    assert workflows.wait(instance) == "completed"
    assert workflows.one(SEEN) == [1, 2]


@pytest.mark.usefixtures("worker")
def test_pause_and_resume_before_the_next_node_leave_no_trace(workflows: Workflows) -> None:
    instance = begin_and_hold(workflows, "'select wait_at(1)' ~> 'insert into seen values (2)'")
    for _ in range(2):
        workflows.one("select df.pause(%s)", instance)
        workflows.one("select df.resume(%s)", instance)
    is_told(workflows, instance)
    workflows.run("delete from gates")
    assert workflows.wait(instance) == "completed"
    assert workflows.one(SEEN) == [1, 2]


@pytest.mark.usefixtures("worker")
def test_timers_that_come_due_in_a_pause_count_when_it_is_over(workflows: Workflows) -> None:
    """So a race between a step and its time-out is not lost to the pause."""
    instance = begin_and_hold(
        workflows, "('select wait_at(1) as winner' | df.sleep(1)) ~> 'insert into seen values (2)'"
    )
    workflows.one("select df.pause(%s)", instance)
    timers = "select count(*) from duroxide.orchestrator_queue where instance_id = %s"
    eventually(lambda: workflows.one(timers, instance) == 0, what="the timer came due")
    workflows.run("delete from gates")
    eventually(lambda: workflows.one(SEEN) == [1], what="the step finished")
    is_held(workflows, instance)
    workflows.one("select df.resume(%s)", instance)
    assert workflows.wait(instance) == "completed"
    assert workflows.one(SEEN) == [1, 2]


@pytest.mark.usefixtures("worker")
def test_a_signal_in_a_pause_is_taken_and_what_follows_waits(workflows: Workflows) -> None:
    instance = workflows.start("df.wait_for_signal('go') ~> 'insert into seen values (2)'")
    eventually(lambda: workflows.one("select count(*) from df._signal_waiters") == 1, what="waits")
    workflows.one("select df.pause(%s)", instance)
    workflows.one("select df.signal(%s, 'go')", instance)
    is_told(workflows, instance)
    is_held(workflows, instance)
    assert workflows.one(SEEN) is None
    workflows.one("select df.resume(%s)", instance)
    assert workflows.wait(instance) == "completed"


@pytest.mark.usefixtures("worker")
def test_all_branches_and_loops_inside_are_held(workflows: Workflows) -> None:
    loop = "df.loop('insert into seen values (3)' ~> df.wait_for_signal('again'), 'select count(*) < 2 from seen where i = 3')"
    instance = begin_and_hold(
        workflows,
        f"('select wait_at(1)' ~> 'insert into seen values (2)') & ({loop} ~> 'select 4')",
    )
    eventually(lambda: workflows.one("select count(*) from df._signal_waiters") == 1, what="waits")
    workflows.one("select df.pause(%s)", instance)
    told = "select count(*) from duroxide.history_log where instance_id like %s and events like '%%pg_durable::pause%%paused%%'"
    eventually(lambda: workflows.one(told, f"{instance}::%") >= 1, what="the loop was told")
    workflows.one("select df.signal(%s, 'again')", instance)
    workflows.run("delete from gates")
    eventually(lambda: workflows.one("select count(*) from seen where i = 1") == 1, what="step")
    is_told(workflows, instance)
    is_held(workflows, instance)
    assert workflows.one(SEEN) == [1, 3]
    workflows.one("select df.resume(%s)", instance)
    workflows.one("select df.signal(%s, 'again')", instance)
    assert workflows.wait(instance) == "completed"
    assert workflows.one(SEEN) == [1, 2, 3, 3]


@pytest.mark.usefixtures("worker")
def test_a_loop_at_the_root_begins_no_iteration(workflows: Workflows) -> None:
    instance = workflows.start(
        "df.loop(df.wait_for_signal('go') ~> 'insert into seen values (1)',"
        " 'select count(*) < 2 from seen')"
    )
    workflows.one("select df.signal(%s, 'go')", instance)
    eventually(lambda: workflows.one(SEEN) == [1], what="the first iteration")
    workflows.one("select df.pause(%s)", instance)
    is_told(workflows, instance)
    workflows.one("select df.signal(%s, 'go')", instance)
    is_told(workflows, instance)
    is_held(workflows, instance)
    assert workflows.one(SEEN) == [1]
    workflows.one("select df.resume(%s)", instance)
    assert workflows.wait(instance) == "completed"
    assert workflows.one(SEEN) == [1, 1]


@pytest.mark.usefixtures("worker")
def test_a_paused_workflow_can_be_cancelled(workflows: Workflows) -> None:
    instance = workflows.start("df.wait_for_signal('go') ~> 'insert into seen values (2)'")
    eventually(lambda: workflows.one("select count(*) from df._signal_waiters") == 1, what="waits")
    workflows.one("select df.pause(%s)", instance)
    workflows.one("select df.signal(%s, 'go')", instance)
    is_told(workflows, instance)
    workflows.one("select df.cancel(%s)", instance)
    assert workflows.wait(instance) == "cancelled"
    ended = (
        "select count(*) from duroxide.instances where instance_id = %s and completed_at is null"
    )
    eventually(lambda: workflows.one(ended, instance) == 0, what="the engine knows")
    assert workflows.one(SEEN) is None


def test_a_pause_survives_a_worker_that_is_killed(
    workflows: Workflows, installed: Database, tmp_path: Path
) -> None:
    quick = {name.removeprefix("PG_DURABLE_").lower(): text for name, text in QUICK.items()}
    with worker_process(installed.dsn, tmp_path / "first.log", **quick) as first:
        instance = workflows.start("df.wait_for_signal('go') ~> 'insert into seen values (2)'")
        eventually(
            lambda: workflows.one("select count(*) from df._signal_waiters") == 1, what="waits"
        )
        workflows.one("select df.pause(%s)", instance)
        workflows.one("select df.signal(%s, 'go')", instance)
        is_told(workflows, instance)
        is_held(workflows, instance)
        first.kill()
    with worker_process(installed.dsn, tmp_path / "second.log", **quick):
        workflows.one("select df.signal(%s, 'other')", instance)
        is_told(workflows, instance)
        is_held(workflows, instance)
        workflows.one("select df.resume(%s)", instance)
        assert workflows.wait(instance) == "completed"
        assert workflows.one(SEEN) == [2]


@pytest.mark.usefixtures("worker")
def test_signals_that_were_taken_are_forgotten(workflows: Workflows) -> None:
    instance = workflows.start(
        "df.loop(df.wait_for_signal('go') ~> 'insert into seen values (1)',"
        " 'select count(*) < 3 from seen')"
    )
    for number in range(3):
        workflows.one(
            "select df.signal(%s, 'go', '{}', %s)", instance, "x" if number == 0 else None
        )
    eventually(lambda: workflows.one(SEEN) == [1, 1, 1], what="three")
    assert workflows.wait(instance) == "completed"
    rows = workflows.all("select dedup_id, data from df._signals where instance_id = %s", instance)
    assert rows == [("x", ""), (None, "{}")]
    kept = "select kept from df._mailboxes where instance_id = %s"
    assert workflows.one(kept, instance) == 1
