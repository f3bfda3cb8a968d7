"""A step's text runs while the turn is committed that adds the step, and nobody can tell by its effect."""

from __future__ import annotations

import psycopg

from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually

NUMBER = "$$select nextval('tries')$$"
OPEN = (
    "select count(*) from pg_stat_activity where application_name = 'pg_durable:worker:workflow-sql'"
    " and state = 'idle in transaction'"
)


def warm(workflows: Workflows) -> None:
    workflows.run("create sequence tries; create table effects (what text)")
    workflows.finish("'select 1'")


def test_what_runs_ahead_runs_once(worker: Database, workflows: Workflows) -> None:
    """A sequence is never rolled back, so that it counts the runs."""
    warm(workflows)
    for _ in range(10):
        workflows.finish(f"{NUMBER} ~> {NUMBER} ~> {NUMBER}")
    assert workflows.one("select last_value from tries") == 30


def test_what_can_be_noticed_does_not_run_ahead(worker: Database, workflows: Workflows) -> None:
    """A snapshot from before the commit, a text that commits by itself, one without a transaction."""
    warm(workflows)
    for second in (
        """df.sql('insert into effects values (''x'')', '{"isolation": "serializable"}')""",
        "$$insert into effects values ('x'); commit$$",
        """df.sql('insert into effects values (''x'')', '{"tx": "none"}')""",
        "$$vacuum effects$$",
    ):
        workflows.finish(f"'select 1' ~> {second} ~> 'select 2'")
    assert workflows.one("select count(*) from effects") == 3


def test_a_turn_that_has_to_wait_takes_nothing_with_it(
    installed: Database, worker: Database, workflows: Workflows
) -> None:
    """Somebody holds the row that the turn has to write: the text is undone, and runs again later."""
    warm(workflows)
    insert = "$$insert into effects select 'x' || nextval('tries')$$"
    instance = workflows.start(f"df.wait_for_signal('go') ~> {insert}")
    waits = "select count(*) from df._signal_waiters where instance_id = %s"
    eventually(lambda: workflows.one(waits, instance) == 1)
    with psycopg.connect(installed.dsn) as other:
        other.execute(
            "select from df.nodes where instance_id = %s and node_type = 'SQL' for update",
            [instance],
        )
        workflows.one("select df.signal(%s, 'go')", instance)
        eventually(
            lambda: workflows.one("select is_called from tries"), what="the text has run ahead"
        )
        eventually(lambda: workflows.one(OPEN) == 0, what="it was undone")
        assert workflows.status(instance) == "running"
    assert workflows.wait(instance) == "completed"
    assert workflows.all("select what from effects") == [("x2",)]


def test_a_text_that_fails_ahead_of_its_turn_fails_as_ever(
    worker: Database, workflows: Workflows
) -> None:
    warm(workflows)
    error = workflows.fail("'select 1' ~> $$select 1 / (nextval('tries') - nextval('tries') + 1)$$")
    assert "division by zero" in error
    assert workflows.one("select last_value from tries") == 4  # ahead, and for sure


def test_a_step_that_cancels_its_own_workflow_runs_ahead_of_nothing(
    worker: Database, workflows: Workflows
) -> None:
    """It locks what the commit of its turn may need; neither waits for the other for long."""
    warm(workflows)
    cancel = "$$insert into effects values ('x'); select df.cancel('{sys_instance_id}', 'enough')$$"
    for _ in range(3):
        instance = workflows.start(f"'select 1' ~> {cancel} ~> 'select pg_sleep(60)'")
        assert workflows.wait(instance, timeout_s=10) == "cancelled"
    assert workflows.one("select count(*) from effects") == 3
    assert workflows.finish("'select 1'")["row_count"] == 1


def test_steps_that_cancel_each_other_come_to_an_end(
    worker: Database, workflows: Workflows
) -> None:
    warm(workflows)
    workflows.run("create table pairs (mine text, other text)")
    other = "(select other from pairs where mine = '{sys_instance_id}')"
    cancel = f"$$select df.cancel({other}, 'enough'), pg_sleep(0.05)$$"
    for _ in range(2):
        pair = [
            workflows.start(f"df.wait_for_signal('go') ~> {cancel} ~> 'select 1'") for _ in range(2)
        ]
        for mine, theirs in (pair, reversed(pair)):
            workflows.one("insert into pairs values (%s, %s) returning 1", mine, theirs)
        for instance in pair:
            workflows.one("select df.signal(%s, 'go')", instance)
        ends = sorted(workflows.wait(instance) for instance in pair)
        assert ends in (["cancelled", "completed"], ["cancelled", "cancelled"]), ends
