"""What scripts written for the extension of this surface depend on, one line of the checklist per test.

The rest of this folder tests the same things in depth; here the list can be read from top to bottom.
Errors are in test_errors.py beside this, those of steps in tests/e2e/test_error_catalogue.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fixtures.promises import PROMISES, keeps
from tests.sql.sessions import Connection, message, notices, refusal, rows, start, value

SIGNATURES = {
    "sql(query text)",
    "seq(a text, b text)",
    '"as"(fut text, name text)',
    "sleep(seconds bigint)",
    "wait_for_schedule(cron_expr text)",
    "loop(body text, condition text DEFAULT NULL::text)",
    "break(value text DEFAULT NULL::text)",
    "if(condition text, then_branch text, else_branch text)",
    "if_rows(result_name text, then_branch text, else_branch text)",
    '"join"(a text, b text)',
    "join3(a text, b text, c text)",
    "race(a text, b text)",
    "http(url text, method text DEFAULT 'POST'::text, body text DEFAULT NULL::text,"
    " headers jsonb DEFAULT NULL::jsonb, timeout_seconds integer DEFAULT 30)",
    "http_multipart(url text, method text DEFAULT 'POST'::text, parts jsonb DEFAULT NULL::jsonb,"
    " headers jsonb DEFAULT NULL::jsonb, timeout_seconds integer DEFAULT 30)",
    "wait_for_signal(name text, timeout_seconds integer DEFAULT NULL::integer)",
    "as_op(fut text, name text)",
    "loop_prefix_op(body text)",
    "if_then_op(condition text, then_branch text)",
    "if_else_op(partial_if text, else_branch text)",
    "start(fut text, label text DEFAULT NULL::text, database text DEFAULT NULL::text,"
    " transaction_mode text DEFAULT 'caller'::text)",
    "cancel(instance_id text, reason text DEFAULT 'Cancelled by user'::text)",
    "signal(instance_id text, signal_name text, signal_data text DEFAULT '{}'::text)",
    "status(instance_id text)",
    "result(instance_id text)",
    "await_instance(instance_id text, timeout_seconds integer DEFAULT 30)",
    "wait_for_completion(instance_id text, timeout_seconds integer DEFAULT 30)",
    "run(instance_id text DEFAULT NULL::text)",
    "explain(input text)",
    "setvar(name text, value text)",
    "getvar(name text)",
    "unsetvar(name text)",
    "clearvars()",
    "list_instances(status_filter text DEFAULT NULL::text, limit_count integer DEFAULT 100)",
    "list_instances(status_filter text, limit_count integer, label_filter text, after_cursor text DEFAULT NULL::text)",
    "instance_info(instance_id text)",
    "instance_executions(instance_id text, limit_count integer DEFAULT 5)",
    "instance_nodes(instance_id_param text)",
    "instance_nodes(instance_id_param text, _last_n_executions integer)",
    "metrics()",
    "grant_usage(p_role text, include_http boolean DEFAULT false, with_grant boolean DEFAULT false)",
    "revoke_usage(p_role text)",
    "version()",
    "target_database()",
    "duroxide_schema()",
}


@keeps("B1")
def test_function_names_argument_names_and_defaults(owner: Connection) -> None:
    found = {
        f"{name}({arguments})".replace('"', "")
        for name, arguments in rows(
            owner,
            "select proname, pg_get_function_arguments(oid) from pg_proc"
            " where pronamespace = 'df'::regnamespace",
        )
    }
    # RETURNS TABLE columns are listed as further arguments.
    shown = {re.sub(r"(, |\()TABLE\(.*", r")", each) for each in found}
    assert {each.replace('"', "") for each in SIGNATURES} - shown == set()


@keeps("B1")
def test_the_removed_functions_are_not_there(owner: Connection) -> None:
    for name in ("debug_connection", "ensure_durofut"):
        assert value(owner, "select to_regproc(%s)", f"df.{name}") is None


@keeps("B2")
def test_the_answers_of_setters_signals_and_cancel(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        for call in ("setvar('a', 'b')", "unsetvar('a')", "clearvars()"):
            assert value(alice, f"select df.{call}") == "OK"
        i = start(alice, "'SELECT 1'")
        assert value(alice, "select df.signal(%s, 'x')", i) == "OK"
        assert value(alice, "select df.cancel(%s, 'why')", i) == f"Instance {i} cancelled: why"
        assert value(alice, "select df.await_instance(%s)", i) == "cancelled"


@keeps("B3")
def test_ids_are_eight_hexadecimal_digits(alice: Connection) -> None:
    assert re.fullmatch("[0-9a-f]{8}", start(alice, "'SELECT 1'"))


@keeps("B6")
def test_the_notices_of_grant_and_revoke(owner: Connection) -> None:
    assert notices(owner, "select df.grant_usage('public')") == [
        'pg_durable: granted df usage privileges to "public"'
    ]
    assert notices(owner, "select df.revoke_usage('public')") == [
        f'pg_durable: revoked df usage privileges granted by "{owner.info.user}" from "public"'
    ]


@keeps("B7")
def test_the_parts_of_drawings(alice: Connection) -> None:
    drawn = value(alice, "select df.explain((@> ('a' | 'b')) & df.if('c', 't', 'e'))")
    for part in ("branch 1:", "RACE", "LOOP (infinite)", "? condition:"):
        assert part in drawn
    i = start(alice, "'SELECT 1'")
    alice.execute("select df.cancel(%s)", [i])
    assert "⊘" in value(alice, "select df.explain(%s)", i)


CONSTRAINTS = {
    "instances": {
        "instances_pkey", "instances_identity_key", "instances_id_format_chk",
        "instances_root_node_format_chk", "instances_status_chk", "instances_root_node_same_instance_fkey",
    },
    "nodes": {
        "nodes_pkey", "nodes_instance_id_present_chk", "nodes_submitted_by_present_chk", "nodes_id_format_chk",
        "nodes_instance_id_format_chk", "nodes_left_node_format_chk", "nodes_right_node_format_chk",
        "nodes_node_type_chk", "nodes_result_name_chk", "nodes_status_chk", "nodes_result_status_chk",
        "nodes_structure_chk", "nodes_instance_identity_fkey", "nodes_left_node_same_instance_fkey",
        "nodes_right_node_same_instance_fkey",
    },
    "vars": {"vars_pkey"},
}  # fmt: skip


@keeps("B8")
@pytest.mark.parametrize("table", CONSTRAINTS)
def test_the_names_of_constraints_policies_and_indexes(owner: Connection, table: str) -> None:
    found = {
        row[0]
        for row in rows(
            owner, "select conname from pg_constraint where conrelid = %s::regclass", f"df.{table}"
        )
    }
    assert CONSTRAINTS[table] <= found
    assert rows(
        owner, "select polname from pg_policy where polrelid = %s::regclass", f"df.{table}"
    ) == [(f"{table}_user_isolation",)]
    indexes = {
        "instances": {"idx_instances_status", "idx_instances_created_at", "idx_instances_label"},
        "nodes": {"idx_nodes_instance"},
        "vars": set(),
    }
    assert indexes[table] <= {
        row[0]
        for row in rows(
            owner,
            "select indexname from pg_indexes where schemaname = 'df' and tablename = %s",
            table,
        )
    }


@keeps("B8")
def test_the_order_of_the_key_of_nodes(owner: Connection) -> None:
    assert value(
        owner, "select pg_get_constraintdef(oid) from pg_constraint where conname = 'nodes_pkey'"
    ) == "PRIMARY KEY (instance_id, id)"  # fmt: skip


@keeps("B9")
def test_the_columns_that_users_select(alice: Connection) -> None:
    alice.execute(
        "select id, label, root_node, status, submitted_by, database, created_at, updated_at, completed_at"
        " from df.instances limit 0"
    )
    alice.execute(
        "select id, instance_id, node_type, query, result_name, left_node, right_node, status, result, error,"
        " submitted_by, database, created_at, updated_at, status_details from df.nodes limit 0"
    )
    alice.execute("select name, value, owner from df.vars limit 0")


@keeps("B10")
def test_readiness_is_polled_through_the_name_of_the_engines_schema(alice: Connection) -> None:
    schema = value(alice, "select df.duroxide_schema()")
    assert value(alice, f"select schema_version >= 1 from {schema}._worker_ready") is True


@keeps("B11")
def test_a_role_without_grants_gets_42501(stranger: Connection) -> None:
    error = refusal(stranger, "select df.start('SELECT 1')")
    assert (error.sqlstate, message(error)) == ("42501", "permission denied for schema df")


def test_every_line_is_kept_by_a_test() -> None:
    tests = Path(__file__).parents[1].rglob("test_*.py")
    named = re.compile(r'^ *@keeps\("(\w+)"\)', re.MULTILINE)
    assert {line for test in tests for line in named.findall(test.read_text())} == {*PROMISES}
