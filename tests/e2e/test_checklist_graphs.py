"""Lines 1 to 10 and 16 to 21 of the checklist: how graphs are walked, what statuses and errors say."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.fixtures.postgres import Database
from tests.fixtures.standing import count_is_below, effect, effects, shown
from tests.fixtures.workers import worker_thread
from tests.fixtures.workflows import Workflows, eventually

NAME = "'select {value} as v' |=> '{name}'"


def test_fifty_branches_join_in_their_order(standing: Workflows) -> None:
    """df-execution 12.4: 50 branches."""
    result = standing.finish(
        "df.join(variadic array(select df.sql('select ' || n || ' as n') from generate_series(1, 50) n))"
    )
    assert [branch["rows"] for branch in result] == [[{"n": n}] for n in range(1, 51)]


def test_the_names_of_a_races_loser_are_not_bound(standing: Workflows) -> None:
    """df-execution 12.5: names of the winner only. df-execution 12.16: scopes."""
    loser = "('select 1 as v' |=> 'lost' ~> df.sleep(600))"
    winner = "(df.sleep(0) ~> ('select 2 as v from pg_sleep(0.1)' |=> 'won'))"
    result = standing.finish(f"({winner} | {loser}) ~> $$select '$won' as won, '$lost' as lost$$")
    assert result["rows"] == [{"won": "2", "lost": "$lost"}]


def test_a_loop_inside_an_if_repeats_only_itself(standing: Workflows) -> None:
    """df-execution 12.6: inside IF, prefix once, iteration count."""
    loop = f"df.loop({effect('turn')}, {count_is_below(3, 'turn')})"
    instance = standing.start(f"{effect('first')} ~> df.if('select true', {loop}, 'select 1')")
    assert standing.wait(instance) == "completed"
    assert effects(standing, instance) == ["first", "turn", "turn", "turn"]


def test_a_loop_inside_a_branch_hands_its_result_and_its_names_over(standing: Workflows) -> None:
    """df-execution 12.6: inside a branch. df-execution 12.16: copies into branches."""
    body = f"({effect('turn', 'what')} |=> 'turn')"
    loop = f"df.loop({body}, {count_is_below(2, 'turn')})"
    instance = standing.start(
        f"({NAME.format(value=7, name='before')}) ~> ({loop} & 'select $before as v')"
        " ~> $$select '$turn' as turn, '$before' as before$$"
    )
    assert standing.wait(instance) == "completed", standing.error(instance)
    result = standing.one("select df.result(%s)::jsonb", instance)
    assert result["rows"] == [{"turn": "turn", "before": "7"}]
    assert effects(standing, instance) == ["turn", "turn"]


def test_a_loop_in_a_loop_in_a_loop(standing: Workflows) -> None:
    """df-execution 12.6: nested twice, iteration count. df-execution 12.19: nested loops."""
    inner = f"df.loop({effect('c')}, $$select mod(count(*), 2) <> 0 from effects where instance = '{{sys_instance_id}}' and what = 'c'$$)"
    middle = f"df.loop({effect('b')} ~> {inner}, $$select mod(count(*), 2) <> 0 from effects where instance = '{{sys_instance_id}}' and what = 'b'$$)"
    instance = standing.start(f"df.loop({effect('a')} ~> {middle}, {count_is_below(2, 'a')})")
    assert standing.wait(instance) == "completed", standing.error(instance)
    once = ["a", "b", "c", "c", "b", "c", "c"]
    assert effects(standing, instance) == once + once
    assert set(shown(standing, instance).values()) == {"completed"}


def test_a_condition_may_break(standing: Workflows) -> None:
    """df-execution 12.6: condition breaks."""
    instance = standing.start(f"df.loop({effect('turn')}, df.break('enough'))")
    assert standing.wait(instance) == "completed"
    assert standing.one("select df.result(%s)", instance) == '"enough"'
    assert effects(standing, instance) == ["turn"]


def test_a_name_of_an_arm_that_did_not_run_is_unknown_afterwards(standing: Workflows) -> None:
    """df-execution 12.16: scopes, merge order."""
    yes, no = NAME.format(value=1, name="yes"), NAME.format(value=2, name="no")
    result = standing.finish(
        f"df.if('select true', {yes}, {no}) ~> $$select '$yes' as yes, '$no' as no$$"
    )
    assert result["rows"] == [{"yes": "1", "no": "$no"}]
    both = standing.finish(
        f"(({NAME.format(value=1, name='x')}) & ({NAME.format(value=2, name='x')})) ~> 'select $x as x'"
    )
    assert both["rows"] == [{"x": 2}]


def test_a_sleep_of_no_time_is_over_at_once(standing: Workflows) -> None:
    """df-execution 12.8: sleep 0."""
    assert standing.finish("df.sleep(0)") == {"slept": True, "seconds": 0}


def test_a_sleep_keeps_its_time_while_no_worker_runs(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.8: due time across a restart."""
    timer = (
        "select visible_at from duroxide.orchestrator_queue"
        " where instance_id = %s and timer_id is not null"
    )
    with worker_thread(installed.dsn):
        long, over = workflows.start("df.sleep(600)"), workflows.start("df.sleep(600)")
        for instance in (long, over):
            eventually(lambda: workflows.one(timer, instance), what="the timer is set")  # noqa: B023
    due = workflows.one(timer, long)
    workflows.run(  # as if ten minutes had gone by
        f"update duroxide.orchestrator_queue set visible_at = now() where instance_id = '{over}'"
    )
    with worker_thread(installed.dsn):
        assert workflows.wait(over) == "completed"
        assert workflows.one(timer, long) == due


def test_an_iteration_begins_a_second_after_the_last_one(
    installed: Database, workflows: Workflows, worker_here: None
) -> None:
    """df-execution 12.9: floor."""
    workflows.run("create table turns (at timestamptz default clock_timestamp())")
    loop = "df.loop('insert into turns default values', 'select count(*) < 2 from turns')"
    workflows.finish(loop)
    # The starts are a second apart; when in it a step commits is another matter.
    assert workflows.one("select max(at) - min(at) from turns") > timedelta(seconds=0.7)


def test_a_loop_goes_on_after_a_hundred_thousand_iterations(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.9: beyond 100000 iterations."""
    workflows.run("insert into df._settings values ('min_loop_interval_ms', '0')")
    instance = workflows.start(
        "df.loop('select 1', 'select {sys_iteration} < 100001') ~> 'select 7 as n'"
    )
    root = workflows.start(
        "df.loop('select {sys_iteration} as n', 'select {sys_iteration} < 100001')"
    )
    # As if it had turned that often already.
    changed = workflows.all(
        "update duroxide.orchestrator_queue set work_item = replace(work_item,"
        " 'loop_iteration\\\":0', 'loop_iteration\\\":99998') where instance_id = %s returning work_item",
        root,
    )
    assert "99998" in changed[0][0]
    workflows.one("select df.cancel(%s)", instance)
    with worker_thread(installed.dsn):
        assert workflows.wait(root) == "completed", workflows.error(root)
    assert workflows.one("select df.result(%s)::jsonb", root)["rows"] == [{"n": 100001}]


BY_HAND: dict[str, tuple[list[tuple[str | None, ...]], str]] = {
    "unknown type": ([("r", "SQUARE", "select 1", None, None)], "SQUARE"),
    "dangling child": (
        [("r", "THEN", None, "a", "b"), ("a", "SQL", "select 1", None, None)],
        "is not present in table",
    ),
    "cycle": (
        [
            ("r", "THEN", None, "a", "b"),
            ("a", "SQL", "select 1", None, None),
            ("b", "LOOP", None, "r", None),
        ],
        "cycle",
    ),
    "shared child": (
        [("r", "JOIN", None, "a", "a"), ("a", "SQL", "select 1", None, None)],
        "is a child of",
    ),
}


@pytest.mark.parametrize("fault", BY_HAND)
def test_a_graph_that_was_written_by_hand_fails_with_clear_words(
    standing: Workflows, fault: str
) -> None:
    """df-execution 12.10: unknown type, dangling child, cycle, shared child."""
    nodes, words = BY_HAND[fault]
    instance = str(standing.one("select substr(md5(random()::text), 1, 8)"))
    ids: dict[str | None, str] = {short: f"{instance[:7]}{n}" for n, short in enumerate("rab")}
    rows: list[list[str | None]] = [
        [ids[short], instance, kind, query]
        + [None if child is None else ids[child] for child in (left, right)]
        for short, kind, query, left, right in nodes
    ]
    assert words in outcome_of(standing, instance, ids["r"], rows)


def outcome_of(session: Workflows, instance: str, root: str, nodes: list[list[str | None]]) -> str:
    """What is said of these rows: by the server at once, or by the worker."""
    me = "quote_ident(current_user)::regrole"
    run = session.connection.execute
    try:
        with session.connection.transaction():
            run("set constraints all deferred")
            run(
                f"insert into df.instances (id, root_node, submitted_by) values (%s, %s, {me})".encode(),
                [instance, root],
            )
            for node in nodes:
                run(
                    "insert into df.nodes (id, instance_id, node_type, query, left_node, right_node, submitted_by)"
                    f" values (%s, %s, %s, %s, %s, %s, {me})".encode(),
                    node,
                )
            run("insert into df._inbox (kind, instance_id) values ('start', %s)", [instance])
    except psycopg.Error as refused:
        return str(refused)
    assert session.wait(instance) == "failed"
    return str(session.error(instance))


def test_a_workflow_is_pending_then_running_then_completed(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.18: pending running completed, timestamps, failed, cancelled."""
    instance = workflows.start("df.wait_for_signal('go')")
    times = "select status, completed_at is not null, updated_at >= created_at, completed_at >= created_at from df.instances where id = %s"
    assert workflows.all(times, instance)[0][:2] == ("pending", False)
    failed = workflows.start("'select 1/0'")
    cancelled = workflows.start("df.sleep(600)")
    with worker_thread(installed.dsn):
        eventually(lambda: workflows.status(instance) == "running", what="it runs")
        assert workflows.all(times, instance)[0][:2] == ("running", False)
        workflows.one("select df.signal(%s, 'go')", instance)
        workflows.one("select df.cancel(%s)", cancelled)
        for one, status in ((instance, "completed"), (failed, "failed"), (cancelled, "cancelled")):
            assert workflows.wait(one) == status
            assert workflows.all(times, one) == [(status, True, True, True)]


def test_an_iteration_in_progress_shows_what_runs_and_what_is_still_to_come(
    standing: Workflows,
) -> None:
    """df-execution 12.19: iteration in progress, superseded iteration."""
    second = f"df.if({count_is_below(2, 'turn')}, 'select 1', df.wait_for_signal('go'))"
    instance = standing.start(
        f"df.loop({effect('turn')} ~> {second} ~> 'select 2', {count_is_below(2, 'turn')})"
    )
    waits = "select count(*) from df._signal_waiters where instance_id = %s"
    eventually(lambda: standing.one(waits, instance) == 1, what="the second iteration waits")
    statuses = shown(standing, instance)
    by_kind = {name.split()[0]: status for name, status in statuses.items() if "SQL" not in name}
    assert by_kind["LOOP"] == by_kind["SIGNAL"] == "running"
    assert statuses["SQL select 2"] == "pending"  # completed in the iteration before
    assert statuses["SQL select 1"] == "skipped" or statuses["SQL select 1"] == "pending"
    standing.one("select df.signal(%s, 'go')", instance)
    assert standing.wait(instance) == "completed"


def test_an_error_tells_its_way_through_composites(standing: Workflows) -> None:
    """df-execution 12.20: JOIN, RACE, LOOP."""
    loop = "'select 1' ~> df.loop('select 1/0')"
    error = standing.fail(f"'select 2' & ((({loop}) | df.sleep(600)) ~> 'select 3')")
    assert error == (
        "JOIN branch 2 failed: RACE left branch failed: Loop sub-orchestration failed: "
        "SQL execution failed: error returned from database: division by zero"
    )
