"""What workflows say that failed: the words that scripts look for, in the error and in the result of the node."""

from __future__ import annotations

import pytest

from tests.fixtures.postgres import Database
from tests.fixtures.promises import keeps
from tests.fixtures.workers import worker_thread
from tests.fixtures.workflows import Workflows

ONE = "'select 1 as n, null as nothing' |=> 'x'"
NONE = "'select 1 as n where false' |=> 'x'"

FAILING = {
    "'select 1/0'": "SQL execution failed: error returned from database: division by zero",
    "'selec 1'": "SQL execution failed: error returned from database: syntax error",
    f"({NONE}) ~> 'select $x'": "$x has no rows",
    "'select null as n' |=> 'x' ~> 'select $x'": "$x is NULL",
    f"{ONE} ~> 'select $x.nothing'": "$x.nothing is NULL",
    "'select 1' ~> df.break()": "df.break() was called outside of a loop. ",
    "df.if_rows('y', 'select 1', 'select 2')": "df.if_rows: result 'y' not found",
    "df.sleep(0) & 'select 1' |=> 'y' ~> df.if_rows('y', 'select 1', 'select 2')": (
        "df.if_rows: result 'y' is not a SQL result (missing row_count)"
    ),
    "df.join('select 1', 'select 1/0', 'select 2')": "JOIN branch 2 failed: SQL execution failed: ",
    "df.race('select 1/0', df.sleep(60))": "RACE left branch failed: SQL execution failed: ",
    "df.race(df.sleep(60), 'select 1/0')": "RACE right branch failed: SQL execution failed: ",
    "df.loop('select 1', 'select true')": "Loop exceeded maximum iteration count of 2. ",
    "df.http('https://api.example.com')": "Blocked: ",
    "df.http('https://[2001:db8::1]/')": "Blocked: ",
}


@keeps("E5")
@keeps("B5")
def test_a_workflow_that_fails_says_so_in_these_words(
    installed: Database, workflows: Workflows
) -> None:
    workflows.run("select df.setvar('who', 'me')")
    workflows.run(
        "insert into df._settings values ('max_loop_iterations', '2'), ('min_loop_interval_ms', '1')"
    )
    with worker_thread(installed.dsn):
        started = {workflow: workflows.start(workflow) for workflow in FAILING}
        told = {
            workflow: (workflows.wait(instance), str(workflows.error(instance)))
            for workflow, instance in started.items()
        }
    expected = {workflow: ("failed", words) for workflow, words in FAILING.items()}
    assert {
        workflow: (status, error[: len(FAILING[workflow])])
        for workflow, (status, error) in told.items()
    } == expected
    for instance in started.values():
        assert workflows.one("select df.result(%s)", instance) is None


@keeps("E5")
def test_the_result_of_a_node_that_failed_is_its_error(
    installed: Database, workflows: Workflows
) -> None:
    with worker_thread(installed.dsn):
        instance = workflows.start("'select 1' ~> 'select 1/0'")
        assert workflows.wait(instance) == "failed"
    failed = workflows.all(
        "select result #>> '{}' from df.nodes where instance_id = %s and status = 'failed'"
        " and node_type = 'SQL'",
        instance,
    )
    words = "SQL execution failed: error returned from database: division by zero"
    assert failed == [(words,)]
    assert workflows.one("select output from df.instance_info(%s)", instance) == words


@keeps("E5")
def test_a_role_that_lost_df_http_meanwhile_sends_nothing(
    installed: Database, workflows: Workflows
) -> None:
    """The right is looked at when the request is due, not when the workflow starts.

    df-execution 12.30: revoked meanwhile.
    """
    session = Workflows.connect(installed.create_role("sender"))
    role = installed.role("sender")
    workflows.one("select df.grant_usage(%s, include_http => true)", role)
    waiting = session.start("df.wait_for_signal('go') ~> df.http('https://api.example.com/')")
    workflows.run(f"revoke execute on function df.http(text,text,text,jsonb,integer) from {role}")
    session.one("select df.signal(%s, 'go')", waiting)
    with worker_thread(installed.dsn, http_mode="public"):
        assert session.wait(waiting) == "failed"
    assert session.error(waiting) == (
        f"Blocked: role '{role}' does not have EXECUTE privilege on df.http(). Grant EXECUTE ON FUNCTION"
        f" df.http(text,text,text,jsonb,integer) TO {role} to allow HTTP requests."
    )
    session.connection.close()


@keeps("B3")
@keeps("B4")
@pytest.mark.usefixtures("worker_here")
def test_waiting_and_results_have_the_shape_that_scripts_take_apart(workflows: Workflows) -> None:
    done = workflows.start("'select n from generate_series(1, 3) as n'")
    assert workflows.one("select df.await_instance(%s)", done) == "completed"
    assert workflows.all(
        "select df.result(%s)::jsonb -> 'rows', (df.result(%s)::jsonb ->> 'row_count')::int",
        done,
        done,
    ) == [([{"n": 1}, {"n": 2}, {"n": 3}], 3)]
    broken = workflows.start("'select 1/0'")
    assert workflows.one("select df.await_instance(%s)", broken) == "failed"
    waiting = workflows.start("df.wait_for_signal('never')")
    workflows.one("select df.cancel(%s)", waiting)
    assert workflows.one("select df.await_instance(%s)", waiting) == "cancelled"
