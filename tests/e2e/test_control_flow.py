"""IF, JOIN, RACE, LOOP, BREAK, schedules and signals through a real worker process."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.workflows import Workflows, eventually

pytestmark = pytest.mark.usefixtures("worker")


@pytest.mark.parametrize(
    ("condition", "arm"),
    [
        ("select true", "yes"),
        ("select 0", "no"),
        ("select ''f''", "no"),
        ("select ''0.00''", "no"),
        ("select null::text", "no"),
        ("select 1 where false", "no"),
        ("select false, true", "no"),
        ("update pg_temp_nothing set i = 1", "no"),
    ],
)
def test_if_takes_the_arm_of_its_condition(workflows: Workflows, condition: str, arm: str) -> None:
    """df-execution 12.2: documented arm, other arm skipped. df-execution 12.19: untaken arm."""
    workflows.run("create table pg_temp_nothing (i int)")
    instance = workflows.start(
        f"df.if('{condition}', 'select ''yes'' as arm', 'select ''no'' as arm')"
    )
    assert workflows.wait(instance) == "completed"
    result = workflows.one("select df.result(%s)::jsonb", instance)
    assert result["rows"] == [{"arm": arm}]
    other = "no" if arm == "yes" else "yes"
    statuses = dict(
        workflows.all("select query, inferred_status from df.instance_nodes(%s)", instance)
    )
    assert statuses[f"select '{other}' as arm"] == "skipped"


def test_if_rows_looks_at_a_named_result(workflows: Workflows) -> None:
    """df-execution 12.3: rows and no rows, unknown name, no SQL result."""
    expression = "'select {} as n where {}' |=> 'found' ~> df.if_rows('found', {}, {})"
    arms = ("'select $found as arm'", "'select ''none'' as arm'")
    assert workflows.finish(expression.format(7, True, *arms))["rows"] == [{"arm": 7}]
    assert workflows.finish(expression.format(7, False, *arms))["rows"] == [{"arm": "none"}]
    unknown = "df.if_rows('lost', 'select 1', 'select 2')"
    assert workflows.fail(unknown) == "df.if_rows: result 'lost' not found"
    no_rows = "df.sleep(0) |=> 'nap' ~> df.if_rows('nap', 'select 1', 'select 2')"
    assert workflows.fail(no_rows).endswith("is not a SQL result (missing row_count)")


def test_join_gives_the_results_in_the_order_of_its_branches(workflows: Workflows) -> None:
    """df-execution 12.4: 2 branches, 3 branches, nested arrays."""
    result = workflows.finish(
        "df.join3('select 1 as n from pg_sleep(0.2)', 'select 2 as n', 'select 3 as n')"
    )
    assert [branch["rows"][0]["n"] for branch in result] == [1, 2, 3]
    nested = workflows.finish("'select 1 as n' & 'select 2 as n' & 'select 3 as n'")
    assert [branch["rows"][0]["n"] for branch in nested[0]] == [1, 2]
    assert nested[1]["rows"][0]["n"] == 3


def test_join_waits_for_all_and_reports_the_first_failure_by_position(
    workflows: Workflows,
) -> None:
    """df-execution 12.4: others complete, lowest position."""
    workflows.run("create table seen (i int)")
    error = workflows.fail(
        "df.join3('insert into seen select 1 from pg_sleep(0.3)', 'select 1/0',"
        " 'select no_such_thing')"
    )
    assert error == (
        "JOIN branch 2 failed: SQL execution failed: error returned from database: division by zero"
    )
    assert workflows.all("select i from seen") == [(1,)]


@pytest.mark.parametrize(
    "last",
    [
        "('select ''old'' as v' |=> 'v')",
        "df.loop('select ''old'' as v' |=> 'v', 'select false')",
        "df.loop('select ''old'' as v' |=> 'v', 'select {sys_iteration} < 1')",
    ],
    ids=["step", "loop", "loop of two iterations"],
)
def test_the_later_branch_wins_also_with_the_value_from_before(
    workflows: Workflows, last: str
) -> None:
    """df-execution 3.6: a branch that binds a name to what it was has bound it."""
    workflows.run("insert into df._settings (name, value) values ('min_loop_interval_ms', '0')")
    result = workflows.finish(
        f"'select ''old'' as v' |=> 'v' ~> df.join('select ''new'' as v' |=> 'v', {last})"
        " ~> 'select $v.v as v'"
    )
    assert result["rows"] == [{"v": "old"}]


def test_names_of_join_branches_are_merged_and_stale_copies_are_not(workflows: Workflows) -> None:
    result = workflows.finish(
        "'select 1 as n' |=> 'x' ~> (('select 2 as n' |=> 'x') & ('select 3 as n' |=> 'y'))"
        " ~> 'select $x as x, $y as y'"
    )
    assert result["rows"] == [{"x": 2, "y": 3}]


def test_race_is_won_by_the_first_and_the_loser_is_cancelled_at_the_server(
    workflows: Workflows,
) -> None:
    """df-execution 12.5: faster wins, loser cancelled."""
    workflows.run("create table seen (i int)")
    result = workflows.finish(
        "(('insert into seen select 1 from pg_sleep(60)' |=> 'slow')"
        " | ('select 2 as n from pg_sleep(0.2)' |=> 'fast')) ~> 'select $fast as n'"
    )
    assert result["rows"] == [{"n": 2}]
    running = "select count(*) from pg_stat_activity where query like '%%pg_sleep(60)' and state = 'active'"
    eventually(lambda: workflows.one(running) == 0, timeout_s=2, what="the loser was cancelled")
    assert workflows.all("select i from seen") == []


def test_a_failing_branch_can_win_a_race(workflows: Workflows) -> None:
    """df-execution 12.5: failing branch wins."""
    error = workflows.fail("df.race(df.sleep(30), 'select 1/0')")
    assert error.startswith("RACE right branch failed: SQL execution failed")


def test_a_sleep_in_a_race_is_a_time_limit(workflows: Workflows) -> None:
    assert workflows.finish("'select pg_sleep(60)' | df.sleep(1)") == {"slept": True, "seconds": 1}


COUNT = "'insert into ticks default values returning i'"


@pytest.fixture
def ticks(workflows: Workflows) -> None:
    workflows.run("create table ticks (i int generated always as identity)")


@pytest.mark.usefixtures("ticks")
def test_a_root_loop_runs_until_its_condition_is_false(workflows: Workflows) -> None:
    """df-execution 12.6: at root, condition false, iteration count."""
    result = workflows.finish(f"df.loop({COUNT}, 'select count(*) < 3 from ticks')", timeout_s=30)
    assert result["rows"] == [{"i": 3}]


@pytest.mark.usefixtures("ticks")
def test_a_break_ends_the_nearest_loop_with_its_value(workflows: Workflows) -> None:
    """df-execution 12.6: break values. df-execution 12.7: through THEN."""
    body = f"({COUNT} |=> 'tick' ~> df.if('select $tick >= 2', df.break('$tick'), 'select 1'))"
    assert workflows.finish(f"df.loop({body})", timeout_s=30) == 2
    assert workflows.finish("df.loop(df.break())") is None
    assert workflows.finish("df.loop(df.break('done'))") == "done"
    assert workflows.finish("df.loop(df.break('{\"a\": [1]}'))") == {"a": [1]}


@pytest.mark.usefixtures("ticks")
def test_a_loop_after_something_does_not_repeat_it(workflows: Workflows) -> None:
    """df-execution 12.6: after a prefix, prefix once."""
    result = workflows.finish(
        f"{COUNT} ~> (df.loop({COUNT} |=> 't', 'select count(*) < 3 from ticks') |=> 'last')"
        " ~> 'select $t as t, $last as last, (select count(*) from ticks) as n'",
        timeout_s=30,
    )
    assert result["rows"] == [{"t": 3, "last": 3, "n": 3}]


@pytest.mark.usefixtures("ticks")
def test_a_failure_inside_a_nested_loop_says_where(workflows: Workflows) -> None:
    error = workflows.fail("'select 1' ~> df.loop('select 1/0')")
    assert error == (
        "Loop sub-orchestration failed: SQL execution failed: "
        "error returned from database: division by zero"
    )
    instance = workflows.one("select id from df.instances order by created_at desc limit 1")
    details = workflows.one("select error_details from df.instances where id = %s", instance)
    assert details["sqlstate"] == "22012"


def test_a_loop_in_a_branch_adds_no_prefix(workflows: Workflows) -> None:
    error = workflows.fail("df.join(df.loop('select 1/0'), 'select 1')")
    assert error.startswith("JOIN branch 1 failed: SQL execution failed")


@pytest.mark.usefixtures("ticks")
def test_a_break_leaves_if_join_and_race_on_its_way(workflows: Workflows) -> None:
    """df-execution 12.7: through IF, through JOIN, through RACE."""
    inside = (
        "df.race(df.join('select 1', df.if('select 1', df.break('out'), 'select 2')), df.sleep(20))"
    )
    assert workflows.finish(f"'select 0' ~> df.loop({inside})") == "out"


def test_a_break_outside_a_loop_fails(workflows: Workflows) -> None:
    """df-execution 12.7: outside."""
    node = '{"node_type":"BREAK","query":"{\\"break_value\\":null}"}'
    error = workflows.fail(f"'select 1' ~> $${node}$$")
    assert error.startswith("df.break() was called outside of a loop.")


def test_a_signal_that_was_sent_early_is_waiting(workflows: Workflows) -> None:
    """df-execution 12.32: before the wait."""
    instance = workflows.start(
        "df.sleep(1) ~> df.wait_for_signal('go') |=> 'sig' ~> 'select $sig.data as d'"
    )
    workflows.one("select df.signal(%s, 'go', '{\"n\": 1.10}')", instance)
    assert workflows.wait(instance) == "completed"
    result = workflows.one("select df.result(%s)::jsonb", instance)
    assert result["rows"] == [{"d": '{"n":1.10}'}]


def test_signals_of_one_name_are_taken_one_by_one(workflows: Workflows) -> None:
    """df-execution 12.32: during."""
    instance = workflows.start(
        "(df.wait_for_signal('go') |=> 'a') ~> (df.wait_for_signal('go') |=> 'b')"
        " ~> 'select $a.data as a, $b.data as b'"
    )
    eventually(
        lambda: workflows.one("select count(*) from df._signal_waiters") == 1, what="it waits"
    )
    for number in (1, 2):
        workflows.one("select df.signal(%s, 'go', %s)", instance, str(number))
    assert workflows.wait(instance) == "completed"
    assert workflows.one("select df.result(%s)::jsonb", instance)["rows"] == [{"a": 1, "b": 2}]
    assert workflows.one("select count(*) from df._signal_waiters") == 0


def test_parallel_waits_see_the_same_signal(workflows: Workflows) -> None:
    """df-execution 12.32: parallel waits."""
    instance = workflows.start("df.wait_for_signal('go') & df.wait_for_signal('go')")
    eventually(
        lambda: workflows.one("select count(*) from df._signal_waiters") == 2, what="both wait"
    )
    workflows.one("select df.signal(%s, 'go', '\"x\"')", instance)
    assert workflows.wait(instance) == "completed"
    result: list[Any] = workflows.one("select df.result(%s)::jsonb", instance)
    assert [branch["data"] for branch in result] == ["x", "x"]


def test_a_signal_that_does_not_come_in_time_is_a_result(workflows: Workflows) -> None:
    assert workflows.finish("df.wait_for_signal('never', 1)") == {
        "signal_name": "never",
        "timed_out": True,
        "data": None,
    }
    assert workflows.one("select count(*) from df._signal_waiters") == 0


@pytest.mark.usefixtures("ticks")
def test_a_wait_that_lost_its_race_leaves_no_waiter_behind(workflows: Workflows) -> None:
    """df-execution 12.32: race, between iterations."""
    instance = workflows.start(
        "df.loop((df.wait_for_signal('go') | df.sleep(0))"
        f" ~> {COUNT}, 'select count(*) < 2 from ticks') ~> df.wait_for_signal('go')"
    )
    eventually(
        lambda: (
            workflows.one("select count(*) from ticks") == 2
            and workflows.one("select count(*) from df._signal_waiters") == 1
        ),
        what="only the last one waits",
    )
    workflows.one("select df.signal(%s, 'go')", instance)
    assert workflows.wait(instance) == "completed"
    assert workflows.one("select df.result(%s)::jsonb", instance)["data"] == {}


def test_cancelling_an_instance_cancels_its_statement(workflows: Workflows) -> None:
    workflows.run("create table seen (i int)")
    instance = workflows.start("'insert into seen select 1 from pg_sleep(60)' ~> 'select 1'")
    running = "select count(*) from pg_stat_activity where query like '%%pg_sleep(60)' and state = 'active'"
    eventually(lambda: workflows.one(running) == 1, what="the step runs")
    workflows.one("select df.cancel(%s, 'enough')", instance)
    eventually(lambda: workflows.one(running) == 0, timeout_s=2, what="it was cancelled")
    assert workflows.status(instance) == "cancelled"
    assert workflows.all("select i from seen") == []


def test_a_loop_ends_at_the_limit_that_held_when_it_started(workflows: Workflows) -> None:
    workflows.run(
        "insert into df._settings values ('max_loop_iterations', '3'), ('min_loop_interval_ms', '0')"
    )
    workflows.run("create table seen (i int)")
    instance = workflows.start("df.loop('insert into seen values (1)')")
    workflows.run("delete from df._settings")
    assert workflows.wait(instance) == "failed"
    assert workflows.error(instance) == (
        "Loop exceeded maximum iteration count of 3. "
        "Use df.break() to exit the loop or restructure the workflow."
    )
    assert workflows.one("select count(*) from seen") == 3


def test_a_loop_that_lost_its_race_says_so(workflows: Workflows) -> None:
    instance = workflows.start("df.loop('select pg_sleep(60)') | 'select 1'")
    assert workflows.wait(instance) == "completed"
    lost = "select status, error from df.nodes where instance_id = %s and node_type = 'LOOP'"
    assert workflows.all(lost, instance) == [("failed", "Loop branch cancelled after losing RACE")]


@pytest.mark.parametrize("tx", ["auto", "none"])
def test_a_trigger_can_ask_which_step_of_which_iteration_it_is_in(
    workflows: Workflows, tx: str
) -> None:
    workflows.run(
        """
        create table seen (
            i int default 0,
            iteration text default current_setting('df.iteration'),
            node text default current_setting('df.node_id'),
            instance text default current_setting('df.instance_id'));
        insert into df._settings (name, value) values ('min_loop_interval_ms', '0');
        """
    )
    step = f"""df.sql('insert into seen default values', '{{"tx": "{tx}"}}')"""
    instance = workflows.start(f"df.loop({step}, 'select {{sys_iteration}} < 2')")
    assert workflows.wait(instance) == "completed"
    rows = workflows.all("select iteration, instance, node <> '' from seen order by iteration")
    assert rows == [(str(number), instance, True) for number in range(3)]
