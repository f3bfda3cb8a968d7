"""The catalogue of errors that a SQL session meets: when, with which SQLSTATE, and how the text begins.

Scripts look for these words. Errors of steps are in tests/e2e/test_error_catalogue.py.
"""

from __future__ import annotations

import pytest

from tests.fixtures.postgres import Database
from tests.fixtures.promises import keeps
from tests.sql.sessions import Connection, message, refusal, rows, start, value

BUILDERS = [
    ("df.setvar('a', 'b') ~> 'c'", "XX000", "df.setvar cannot be used as a workflow step. Call df.setvar before df.start()."),
    ("""df.seq('{"node_type":"SQL","left_node":1}', 'B')""", "XX000", "Invalid Durofut JSON: failed to deserialize workflow step: "),
    ("'a' |=> ''", "XX000", "df.as: result name cannot be empty"),
    ("'a' |=> '1'", "XX000", "df.as: result name '1' is not a valid identifier"),
    ("df.sleep(-1)", "XX000", "Sleep duration must be non-negative"),
    ("df.wait_for_schedule('x')", "XX000", "Invalid cron expression 'x': "),
    ("df.http('ftp://x')", "XX000", "Blocked: unsupported URL scheme 'ftp'. Only http and https are allowed."),
    ("df.http('http://x', 'HEAD')", "XX000", "Invalid HTTP method: HEAD. Must be GET, POST, PUT, DELETE, or PATCH"),
    ("df.http('http://x', timeout_seconds => 0)", "XX000", "Timeout must be positive"),
    ("df.wait_for_signal('x', 0)", "XX000", "Timeout must be positive"),
    ("df.await_instance('00000000', 0)", "XX000", "Timeout must be positive"),
    ("df.http_multipart('http://x', 'GET')", "XX000", "Invalid HTTP method for multipart: GET. Must be POST, PUT, or PATCH"),
    ("df.http_multipart('http://x')", "XX000", "parts is required and cannot be NULL"),
    ("df.http_multipart('http://x', parts => '{}')", "XX000", "parts must be a JSON array of part objects"),
    ("df.http_multipart('http://x', parts => '[]')", "XX000", "parts must contain at least one part"),
    ("df.wait_for_signal('')", "XX000", "Signal name cannot be empty"),
    ("'{}' !> 'e'", "P0001", "Invalid if-then-else: left side of !> must be a ?> expression"),
    ("'x' !> 'e'", "22P02", "invalid input syntax for type json"),
]  # fmt: skip


@keeps("E1")
@keeps("B5")
@pytest.mark.parametrize(("call", "sqlstate", "words"), BUILDERS)
def test_the_errors_of_builders(owner: Connection, call: str, sqlstate: str, words: str) -> None:
    error = refusal(owner, f"select {call}")
    assert (error.sqlstate, message(error)[: len(words)]) == (sqlstate, words)


DEEP = '{"node_type":"LOOP","left_node":' * 257 + '{"node_type":"SQL","query":"A"}' + "}" * 257
WIDE = (
    '{"node_type":"JOIN","left_node":{"node_type":"SQL","query":"A"},"right_node":{"node_type":"SQL","query":"A"},'
    '"extra_nodes":[' + ",".join(['{"node_type":"SQL","query":"A"}'] * 9_998) + "]}"
)
STARTS = [
    ("'A', transaction_mode => 'x'", "XX000", "invalid transaction_mode \"x\" for df.start(): expected 'caller' or 'new'"),
    ("""'{"node_type":"X"}'""", "XX000", "Invalid durable function: Unknown node_type 'X'. Valid types: SQL, THEN, IF, JOIN, LOOP, BREAK, RACE, SLEEP, WAIT_SCHEDULE, HTTP, HTTP_MULTIPART, SIGNAL"),
    ("""'{"node_type":"SQL","query":1}'""", "XX000", "Invalid durable function: Malformed Durofut JSON with node_type 'SQL': "),
    ("df.setvar('a', 'b')", "XX000", "Invalid durable function: df.setvar cannot be used as a workflow step. "),
    ("'A', database => 'no such'", "XX000", 'database "no such" does not exist'),
    (f"'{DEEP}'", "XX000", "Invalid durable function graph: root" + ".left" * 257 + ": Graph exceeds maximum nesting depth of 256. "),
    (f"'{WIDE}'", "XX000", "Invalid durable function graph: root.extra_nodes[9997]: Workflow exceeds maximum node count of 10000. "),
    ("""'{"node_type":"THEN","condition_node":{"node_type":"SQL","query":"A"}}'""", "XX000", "Invalid durable function graph: root: condition_node is not valid for THEN nodes"),
    ("""'{"node_type":"SQL"}'""", "23514", 'new row for relation "nodes" violates check constraint "nodes_structure_chk"'),
    ("""'{"node_type":"SQL","query":"A","result_name":"1"}'""", "23514", 'new row for relation "nodes" violates check constraint "nodes_result_name_chk"'),
    ("'A', transaction_mode => 'new'", "0A000", "df.start() with transaction_mode => 'new' needs a second connection"),
]  # fmt: skip


@keeps("E2")
@keeps("B5")
@pytest.mark.parametrize(
    ("arguments", "sqlstate", "words"), STARTS, ids=[words[:60] for _, _, words in STARTS]
)
def test_the_errors_of_start(alice: Connection, arguments: str, sqlstate: str, words: str) -> None:
    error = refusal(alice, f"select df.start({arguments})")
    assert (error.sqlstate, message(error)[: len(words)]) == (sqlstate, words)


@keeps("E2")
@keeps("B5")
def test_the_errors_of_start_that_are_about_the_role(
    superuser: Connection, owner: Connection, installed: Database
) -> None:
    error = refusal(superuser, "select df.start('A')")
    assert message(error).startswith("pg_durable: superuser instances are disabled. ")
    group = installed.role("no_login")
    superuser.execute(f"create role {group} nologin".encode())
    try:
        owner.execute("select df.grant_usage(%s)", [group])
        with superuser.transaction(force_rollback=True):
            superuser.execute(f"set local role {group}".encode())
            error = refusal(superuser, "select df.start('A')")
        assert message(error).startswith(f'current_user "{group}" does not have LOGIN privilege. ')
    finally:
        owner.execute("select df.revoke_usage(%s)", [group])
        superuser.execute(f"drop role {group}".encode())


IN_A_STEP = "set local df.in_workflow = 'true'; "
CONTROL = [
    ("select df.cancel('00000000')", "XX000", "Instance not found or access denied: 00000000"),
    ("select df.signal('00000000', 'x')", "XX000", "Instance not found or access denied: 00000000"),
    ("select df.signal('', 'x')", "XX000", "Instance ID cannot be empty"),
    ("select df.signal('00000000', '')", "XX000", "Signal name cannot be empty"),
    (IN_A_STEP + "select df.await_instance('00000000')", "XX000", "df.await_instance() cannot be called inside a workflow"),
    ("select df.await_instance('00000000')", "22000", "Instance not found: 00000000"),
    (IN_A_STEP + "select df.setvar('a', 'b')", "XX000", "df.setvar() cannot be called inside a workflow - set variables before starting the workflow"),
    (IN_A_STEP + "select df.unsetvar('a')", "XX000", "df.unsetvar() cannot be called inside a workflow - "),
    (IN_A_STEP + "select df.clearvars()", "XX000", "df.clearvars() cannot be called inside a workflow - "),
    (IN_A_STEP + "select df.start('A', transaction_mode => 'new')", "XX000", "df.start() with transaction_mode => 'new' cannot be called inside a workflow"),
    ("select * from df.list_instances(NULL, 0)", "XX000", "limit_count must be at least 1"),
    ("select * from df.list_instances(NULL, 0, NULL)", "XX000", "limit_count must be at least 1"),
    ("select * from df.instance_executions('00000000', 0)", "XX000", "limit_count must be at least 1"),
    ("select * from df.list_instances(NULL, 1001)", "XX000", "df.list_instances: limit_count (1001) exceeds pg_durable.list_instances_max_limit (1000)"),
    ("select * from df.list_instances(NULL, 1, NULL, 'x')", "XX000", "df.list_instances: invalid after_cursor"),
    ("select df.metrics()", "42501", "permission denied for function metrics"),
    ("select df.grant_usage('public')", "42501", "permission denied for function grant_usage"),
    ("select df.revoke_usage('public')", "42501", "permission denied for function revoke_usage"),
    ("select df.http('http://x')", "42501", "permission denied for function http"),
]  # fmt: skip


@keeps("E3")
@keeps("B5")
@pytest.mark.parametrize(("script", "sqlstate", "words"), CONTROL)
def test_the_errors_of_control_variables_and_monitoring(
    alice: Connection, script: str, sqlstate: str, words: str
) -> None:
    *before, last = script.split("; ")
    with alice.transaction(force_rollback=True):
        for each in before:
            alice.execute(each.encode())
        error = refusal(alice, last)
    assert (error.sqlstate, message(error)[: len(words)]) == (sqlstate, words)


@keeps("E3")
def test_waiting_in_vain_says_for_how_long_and_for_what(alice: Connection) -> None:
    i = start(alice, "'A'")
    error = refusal(alice, "select df.await_instance(%s, 1)", i)
    words = f"Timeout after 1s waiting for instance {i} (status: pending). "
    assert (error.sqlstate, message(error)[: len(words)]) == ("22000", words)


@keeps("E3")
def test_looking_at_an_unknown_or_foreign_instance_is_no_error(
    alice: Connection, bob: Connection
) -> None:
    for i in ("00000000", start(alice, "'A'")):
        assert rows(bob, "select df.status(%s), df.result(%s)", i, i) == [(None, None)]
        for function in ("instance_info", "instance_nodes", "instance_executions"):
            assert rows(bob, f"select * from df.{function}(%s)", i) == []
        assert value(bob, "select df.explain(%s)", i).rstrip() == f"Instance '{i}' not found"
