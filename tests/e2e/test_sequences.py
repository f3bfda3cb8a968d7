"""SQL, THEN and SLEEP through a real worker process."""

from __future__ import annotations

from typing import Any

import pytest

from pg_durable.commands.worker_process import WorkerProcess
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually

pytestmark = pytest.mark.usefixtures("worker")


def test_the_example_of_the_readme(workflows: Workflows) -> None:
    workflows.run(
        "create table documents (id int primary key, processed boolean not null default false);"
        "insert into documents select i from generate_series(1, 250) i"
    )
    result = workflows.finish(
        "'SELECT id FROM documents WHERE processed = false LIMIT 100' |=> 'batch'"
        " ~> 'UPDATE documents SET processed = true WHERE id = ANY($batch)'"
    )
    assert result["affected"] == 100
    assert workflows.one("select count(*) from documents where processed") == 100


def test_steps_run_in_order_and_the_last_result_is_the_workflows(workflows: Workflows) -> None:
    """df-execution 12.1: runs in order."""
    workflows.run("create table ledger (n int generated always as identity, step text)")
    result = workflows.finish(
        "'insert into ledger (step) values (''a'')' ~> 'insert into ledger (step) values (''b'')'"
        " ~> df.sleep(1) ~> 'select string_agg(step, '','' order by n) as steps from ledger'"
    )
    assert result["rows"] == [{"steps": "a,b"}]


def test_a_failure_ends_the_workflow_and_says_why(workflows: Workflows) -> None:
    """df-execution 12.1: failure skips the rest. df-execution 12.19: after failure."""
    workflows.run("create table t (i int unique)")
    instance = workflows.start(
        "'insert into t values (1)' ~> 'insert into t values (1)' ~> 'insert into t values (2)'"
    )
    assert workflows.wait(instance) == "failed"
    message = (
        "SQL execution failed: error returned from database: "
        'duplicate key value violates unique constraint "t_i_key"'
    )
    assert workflows.error(instance) == message
    assert workflows.all("select i from t") == [(1,)]
    details = workflows.one("select error_details from df.instances where id = %s", instance)
    assert details["sqlstate"] == "23505"
    assert details["constraint"] == "t_i_key"
    assert details["query_excerpt"] == "insert into t values (1)"
    statuses = workflows.all(
        "select query, inferred_status from df.instance_nodes(%s) where node_type = 'SQL'",
        instance,
    )
    assert ("insert into t values (2)", "skipped") in statuses
    assert workflows.nodes(instance)["SQL insert into t values (1)"] in ("completed", "failed")


def test_names_and_variables_reach_later_steps(workflows: Workflows) -> None:
    workflows.run("insert into df.vars (name, value) values ('who', 'world')")
    result = workflows.finish(
        "'select 41 as n, ''it''''s'' as t' |=> 'first'"
        " ~> 'select $first + 1 as n, $first.t || '' {who}'' as t, ''{sys_instance_id}'' as id'"
    )
    row = result["rows"][0]
    assert (row["n"], row["t"]) == (42, "it's world")
    assert len(row["id"]) == 8


def test_a_reference_without_rows_fails_with_the_documented_text(workflows: Workflows) -> None:
    error = workflows.fail("'select 1 as x where false' |=> 'none' ~> 'select $none'")
    assert error == "$none has no rows — query returned zero results"


def test_a_sleep_takes_its_time_and_says_so(workflows: Workflows) -> None:
    assert workflows.finish("df.sleep(1)") == {"slept": True, "seconds": 1}
    assert workflows.one("select max(completed_at - created_at) from df.instances") >= _seconds(1)


def _seconds(number: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=number)


def test_statuses_follow_in_the_commit_of_the_fact(workflows: Workflows) -> None:
    workflows.run("create table gate (i int)")
    instance = workflows.start(
        "'insert into gate values (1)' ~> 'select pg_advisory_xact_lock(42)' ~> 'select 1 as x'"
    )
    with workflows.connection.transaction():
        workflows.run("select pg_advisory_xact_lock(42)")
        eventually(lambda: workflows.all("select 1 from gate"), what="the first step")
        eventually(
            lambda: workflows.nodes(instance)["SQL select pg_advisory_xact_lock(42)"] == "running",
            what="the second step is running",
        )
        assert workflows.status(instance) == "running"
        assert workflows.nodes(instance)["SQL insert into gate values (1)"] == "completed"
    assert workflows.wait(instance) == "completed"
    assert set(workflows.nodes(instance).values()) == {"completed"}


def test_a_workflow_whose_start_was_rolled_back_leaves_nothing(workflows: Workflows) -> None:
    workflows.run("begin")
    workflows.start("'select 1'")
    workflows.run("rollback")
    assert workflows.finish("'select 2 as n'")["rows"] == [{"n": 2}]
    assert workflows.one("select count(*) from df.instances") == 1


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("select 1 as a; select 2 as b; create table made (i int)", [{"b": 2}]),
        ("-- nothing", []),
        ("vacuum df.vars", []),
        ("set transaction read only; select 5 as five", [{"five": 5}]),
        ("commit; select 1 as after", [{"after": 1}]),
        ("do $$ begin create table in_do (i int); commit; end $$", []),
        ("savepoint s; select 3 as n", [{"n": 3}]),
        ("select current_setting(''df.in_workflow'') as w", [{"w": "true"}]),
    ],
)
def test_a_step_may_be_any_text(workflows: Workflows, text: str, rows: list[Any]) -> None:
    """df-execution 12.25: several statements, only a comment, SET, COMMIT of the user."""
    assert workflows.finish(f"'{text}'")["rows"] == rows


def test_an_error_that_was_deferred_to_the_commit_fails_the_step(workflows: Workflows) -> None:
    workflows.run("create table d (i int unique deferrable initially deferred)")
    error = workflows.fail("'insert into d values (1), (1)'")
    assert "duplicate key value" in error
    assert workflows.one("select count(*) from d") == 0


def test_a_result_that_is_too_large_takes_its_effect_with_it(
    workflows: Workflows, installed: Database
) -> None:
    workflows.run("create table big (i int)")
    error = workflows.fail(
        "'insert into big select i from generate_series(1, 100001) i returning i'"
    )
    assert "max_result_rows" in error
    assert workflows.one("select count(*) from big") == 0


def test_nothing_of_a_step_remains_in_the_session_of_the_next(workflows: Workflows) -> None:
    workflows.finish(
        "'create temp table left_over (i int); set search_path = pg_temp;"
        " set statement_timeout = ''1h''; select pg_advisory_lock(7)'"
    )
    result = workflows.finish(
        "'select to_regclass(''pg_temp.left_over'') is null as gone,"
        " current_setting(''statement_timeout'') as timeout'"
    )
    assert result["rows"] == [{"gone": True, "timeout": "0"}]
    assert workflows.one("select pg_try_advisory_lock(7)") is True


def test_a_long_chain_runs_without_recursion_trouble(workflows: Workflows) -> None:
    workflows.run("create table chain (i int)")
    expression = " ~> ".join(f"'insert into chain values ({i})'" for i in range(257))
    workflows.finish(expression, timeout_s=60)
    assert workflows.one("select count(distinct i) from chain") == 257


def test_a_worker_that_is_asked_to_stop_gives_back_what_it_holds(
    workflows: Workflows, worker: WorkerProcess
) -> None:
    """df-execution 12.33: graceful stop."""
    instance = workflows.start("'select pg_sleep(60)' ~> 'select 1 as done'")
    running = "select count(*) from pg_stat_activity where query like '%%pg_sleep(60)' and state = 'active'"
    eventually(lambda: workflows.one(running) == 1, what="the step runs")
    assert workflows.all("select 1 from df._workers")
    worker.stop()
    assert worker.exit_status == 0
    assert workflows.one(running) == 0
    assert workflows.all("select 1 from df._workers") == []
    assert workflows.status(instance) == "running"
    worker.start()
    eventually(lambda: workflows.one(running) == 1, timeout_s=10, what="the step runs again")
