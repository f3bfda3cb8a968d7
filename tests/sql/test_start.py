"""df.start: what it writes, that it is all or nothing, and what it refuses before it writes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import psycopg
import pytest

from tests.fixtures.postgres import Database
from tests.fixtures.promises import keeps
from tests.sql.sessions import Connection, message, refusal, rows, start, value

TWO_STEPS = "'SELECT 1' |=> 'one' ~> 'SELECT $one'"


def started_with(owner: Connection, instance_id: str) -> dict[str, Any]:
    """The start message in the engine's queue."""
    body = value(
        owner,
        "select work_item from duroxide.orchestrator_queue where instance_id = %s and kind = 1",
        instance_id,
    )
    message: dict[str, Any] = json.loads(body)["StartOrchestration"]
    return message


def test_it_writes_an_instance_and_a_row_per_step(alice: Connection, installed: Database) -> None:
    instance_id = start(alice, TWO_STEPS, label="nightly")
    assert rows(
        alice,
        "select label, status, submitted_by::text, database, completed_at, created_at = updated_at"
        " from df.instances where id = %s",
        instance_id,
    ) == [("nightly", "pending", installed.role("alice"), None, None, True)]
    (root,) = rows(
        alice,
        "select n.node_type, n.query, n.left_node, n.right_node from df.nodes as n"
        " join df.instances as i on i.id = n.instance_id and i.root_node = n.id where i.id = %s",
        instance_id,
    )
    assert root[:2] == ("THEN", None)
    assert rows(
        alice,
        "select node_type, query, result_name, status, result from df.nodes"
        " where instance_id = %s and id = any(%s) order by query",
        instance_id,
        [root[2], root[3]],
    ) == [
        ("SQL", "SELECT $one", None, "pending", None),
        ("SQL", "SELECT 1", "one", "pending", None),
    ]


def test_the_message_names_a_frozen_graph_and_carries_the_variables(
    alice: Connection, owner: Connection, installed: Database
) -> None:
    with alice.transaction():
        alice.execute(
            "insert into df.vars (name, value) values ('b', '2'), ('a', '{\"x\"}'), ('n', null)"
        )
        instance_id = start(alice, TWO_STEPS, label="nightly")
        alice.execute("delete from df.vars")
    sent = started_with(owner, instance_id)
    hash_, graph = rows(
        owner, "select hash, graph from df._snapshots where instance_id = %s", instance_id
    )[0]
    assert hash_ == "sha256:" + hashlib.sha256(graph.encode()).hexdigest()
    assert sent["orchestration"] == "pg_durable::orchestration::execute-function-graph"
    assert (sent["instance"], sent["execution_id"]) == (instance_id, 1)
    assert (sent["version"], sent["parent_instance"], sent["parent_id"]) == (None, None, None)
    assert sent["input"] == json.dumps(
        {
            "instance_id": instance_id,
            "label": "nightly",
            "vars": {"a": '{"x"}', "b": "2"},
            "loop_iteration": 0,
            "graph_ref": hash_,
        },
        separators=(",", ":"),
    )
    frozen = json.loads(graph)
    nodes = {
        node[0]: dict(
            zip(
                ("id", "node_type", "query", "result_name", "left_node", "right_node"),
                node,
                strict=True,
            ),
            submitted_by=installed.role("alice"),
            database=None,
        )
        for node in rows(
            alice,
            "select id, node_type, query, result_name, left_node, right_node from df.nodes"
            " where instance_id = %s",
            instance_id,
        )
    }
    assert frozen["nodes"] == nodes
    assert list(frozen["nodes"]) == sorted(nodes)
    assert json.dumps(frozen, separators=(",", ":")) == graph


def test_conditions_and_further_branches_are_named_in_the_configuration(alice: Connection) -> None:
    instance_id = start(
        alice, "df.join3(df.if('C', 'T', 'E'), df.loop('B', 'W'), df.if_rows('r', 'Y', 'N'))"
    )
    configurations = dict(
        rows(
            alice,
            "select n.node_type, n.query from df.nodes as n where n.instance_id = %s"
            " and n.node_type <> 'SQL' and (n.query is null or n.query !~ 'result_has_rows')",
            instance_id,
        )
    )
    by_query = dict(
        rows(alice, "select query, id from df.nodes where instance_id = %s", instance_id)
    )
    assert configurations["IF"] == f'{{"condition_node":"{by_query["C"]}"}}'
    assert configurations["LOOP"] == f'{{"condition_node":"{by_query["W"]}"}}'
    third = by_query['{"condition_type":"result_has_rows","result_name":"r"}']
    assert configurations["JOIN"] == f'{{"extra_nodes":["{third}"]}}'


def test_plain_sql_is_a_workflow(alice: Connection) -> None:
    instance_id = start(alice, "'SELECT 1'")
    assert rows(
        alice, "select node_type, query from df.nodes where instance_id = %s", instance_id
    ) == [("SQL", "SELECT 1")]


def everything(owner: Connection) -> list[tuple[Any, ...]]:
    return rows(
        owner,
        "select (select count(*) from df.instances), (select count(*) from df.nodes),"
        " (select count(*) from df._snapshots), (select count(*) from df._inbox),"
        " (select count(*) from duroxide.orchestrator_queue)",
    )


def test_a_rollback_leaves_nothing(alice: Connection, owner: Connection) -> None:
    before = everything(owner)
    with alice.transaction(force_rollback=True):
        start(alice, TWO_STEPS)
        assert value(alice, "select count(*) from df.instances where created_at = now()") == 1
    with alice.transaction(), alice.transaction(force_rollback=True):  # a savepoint
        start(alice, TWO_STEPS)
    assert everything(owner) == before


def test_a_savepoint_rolls_back_only_what_came_after_it(
    alice: Connection, owner: Connection
) -> None:
    with alice.transaction():
        kept = start(alice, TWO_STEPS)
        with alice.transaction(force_rollback=True):
            dropped = start(alice, TWO_STEPS)
    assert value(alice, "select df.status(%s)", kept) == "pending"
    assert value(alice, "select df.status(%s)", dropped) is None
    assert started_with(owner, kept)["instance"] == kept


def test_nothing_is_seen_before_the_commit_however_late(
    alice: Connection, alice_again: Connection, owner: Connection
) -> None:
    with alice.transaction():
        instance_id = start(alice, TWO_STEPS)
        alice.execute("set local idle_in_transaction_session_timeout = 0")
        assert value(alice_again, "select df.status(%s)", instance_id) is None
        assert (
            rows(
                owner, "select from duroxide.orchestrator_queue where instance_id = %s", instance_id
            )
            == []
        )
    assert value(alice_again, "select df.status(%s)", instance_id) == "pending"


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_it_works_at_every_isolation_level(
    alice: Connection, owner: Connection, level: str
) -> None:
    with alice.transaction():
        alice.execute(f"set transaction isolation level {level}".encode())
        instance_id = start(alice, TWO_STEPS)
    assert started_with(owner, instance_id)["instance"] == instance_id


def test_a_trigger_may_start_workflows(alice: Connection, owner: Connection) -> None:
    with alice.transaction(force_rollback=True):
        alice.execute("create temporary table orders (id integer, workflow text)")
        alice.execute(
            "create function pg_temp.begin_order() returns trigger language plpgsql as $$"
            " begin new.workflow := df.start('SELECT 1', label => 'order ' || new.id); return new; end $$"
        )
        alice.execute(
            "create trigger begin_order before insert on orders"
            " for each row execute function pg_temp.begin_order()"
        )
        alice.execute("insert into orders select n from generate_series(1, 3) as n")
        assert rows(
            alice,
            "select i.label, i.status from orders as o join df.instances as i on i.id = o.workflow"
            " order by o.id",
        ) == [(f"order {n}", "pending") for n in (1, 2, 3)]


def test_inside_a_definer_function_the_instance_is_its_owners(
    alice: Connection, bob: Connection, installed: Database, superuser: Connection
) -> None:
    superuser.execute("create schema if not exists wrappers")
    superuser.execute(
        "create or replace function wrappers.begin() returns text language sql security definer"
        " set search_path = pg_catalog as $$ select df.start('SELECT 1') $$"
    )
    superuser.execute(
        f"alter function wrappers.begin() owner to {installed.role('alice')}".encode()
    )
    superuser.execute("grant usage on schema wrappers to public")
    instance_id = value(bob, "select wrappers.begin()")
    assert value(bob, "select df.status(%s)", instance_id) is None
    assert value(alice, "select df.status(%s)", instance_id) == "pending"
    superuser.execute("drop schema wrappers cascade")


def test_a_read_only_transaction_is_refused_by_the_server(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        alice.execute("set transaction read only")
        error = refusal(alice, "select df.start('SELECT 1')")
    assert error.sqlstate == "25006"


REFUSED = {
    "'SELECT 1', transaction_mode => 'later'": (
        "XX000", "invalid transaction_mode \"later\" for df.start(): expected 'caller' or 'new'"
    ),
    "'SELECT 1', database => 'no such'": ("XX000", 'database "no such" does not exist'),
    """'{"node_type":"FOR_EACH"}'""": (
        "XX000",
        "Invalid durable function: Unknown node_type 'FOR_EACH'. Valid types: SQL, THEN, IF, JOIN, LOOP,"
        " BREAK, RACE, SLEEP, WAIT_SCHEDULE, HTTP, HTTP_MULTIPART, SIGNAL",
    ),
    """'{"node_type":"SQL","query":7}'""": (
        "XX000",
        "Invalid durable function: Malformed Durofut JSON with node_type 'SQL': query must be a string",
    ),
    "NULL": ("XX000", "argument 0 must not be null"),
    """'{"node_type":"SQL"}'""": (
        "23514", 'new row for relation "nodes" violates check constraint "nodes_structure_chk"'
    ),
    """'{"node_type":"SQL","query":"x","result_name":"1"}'""": (
        "23514", 'new row for relation "nodes" violates check constraint "nodes_result_name_chk"'
    ),
    """'{"node_type":"THEN","left_node":{"node_type":"SQL","query":"x"}}'""": (
        "23514", 'new row for relation "nodes" violates check constraint "nodes_structure_chk"'
    ),
}  # fmt: skip


@pytest.mark.parametrize("arguments", REFUSED)
def test_it_refuses_with_these_words_and_writes_nothing(
    alice: Connection, owner: Connection, arguments: str
) -> None:
    before = everything(owner)
    error = refusal(alice, f"select df.start({arguments})")
    assert (error.sqlstate, message(error)) == REFUSED[arguments]
    assert everything(owner) == before


S = '{"node_type":"SQL","query":"x"}'
FAULTY_GRAPHS = {
    f'{{"node_type":"THEN","left_node":{S},"right_node":{{"node_type":"Q"}}}}': (
        "root.right: Unknown node_type 'Q'. Valid types: SQL, THEN, IF, JOIN, LOOP, BREAK, RACE, SLEEP,"
        " WAIT_SCHEDULE, HTTP, HTTP_MULTIPART, SIGNAL"
    ),
    f'{{"node_type":"LOOP","left_node":{{"node_type":"SQL","query":"x","condition_node":{S}}}}}': (
        "root.left: condition_node is not valid for SQL nodes"
    ),
    f'{{"node_type":"LOOP","left_node":{S},"condition_node":{{"node_type":"RACE","extra_nodes":[]}}}}': (
        "root.condition_node: extra_nodes is not valid for RACE nodes"
    ),
    f'{{"node_type":"JOIN","left_node":{S},"right_node":{S},"extra_nodes":[{S},{{"node_type":"Q"}}]}}': (
        "root.extra_nodes[1]: Unknown node_type 'Q'. Valid types: SQL, THEN, IF, JOIN, LOOP, BREAK, RACE,"
        " SLEEP, WAIT_SCHEDULE, HTTP, HTTP_MULTIPART, SIGNAL"
    ),
    f'{{"node_type":"LOOP","left_node":{S},"query":"{{\\"condition_node\\":\\"00000000\\"}}"}}': (
        "root: condition_node in LOOP must be a first-class Durofut field, not embedded in query"
    ),
    f'{{"node_type":"JOIN","left_node":{S},"right_node":{S},"query":"{{\\"extra_nodes\\":[]}}"}}': (
        "root: extra_nodes in JOIN must be a first-class Durofut field, not embedded in query"
    ),
    f'{{"node_type":"LOOP","left_node":{S},"query":"[]"}}': "root: query in LOOP must be a JSON config object",
    f'{{"node_type":"LOOP","left_node":{S},"query":"nope"}}': (
        "root: query in LOOP must be valid JSON config: invalid input syntax for type json"
    ),
    '{"node_type":"LOOP","left_node":{"node_type":"LOOP","left_node":{"node_type":"SQL","query":[]}}}': (
        "root.left.left: Malformed Durofut JSON with node_type 'SQL': query must be a string"
    ),
    '{"node_type":"LOOP","left_node":{"query":"x"}}': "root.left: node_type is missing",
}


@pytest.mark.parametrize("graph", FAULTY_GRAPHS)
def test_a_faulty_graph_is_refused_with_the_path_to_the_fault(
    alice: Connection, owner: Connection, graph: str
) -> None:
    before = everything(owner)
    error = refusal(alice, "select df.start(%s)", graph)
    assert error.sqlstate == "XX000"
    assert message(error) == f"Invalid durable function graph: {FAULTY_GRAPHS[graph]}"
    assert everything(owner) == before


def test_the_first_fault_in_reading_order_is_reported(alice: Connection) -> None:
    left = '{"node_type":"LOOP","left_node":{"node_type":"A"}}'
    graph = f'{{"node_type":"THEN","left_node":{left},"right_node":{{"node_type":"B"}}}}'
    assert ": root.left.left: Unknown node_type 'A'" in message(
        refusal(alice, "select df.start(%s)", graph)
    )


def chain(steps: int) -> str:
    text = S
    for _ in range(steps - 1):
        text = f'{{"node_type":"THEN","left_node":{text},"right_node":{S}}}'
    return text


def test_a_chain_may_have_257_steps(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        instance_id = start(alice, f"'{chain(257)}'")
        assert (
            value(alice, "select count(*) from df.nodes where instance_id = %s", instance_id) == 513
        )
    error = refusal(alice, "select df.start(%s)", chain(258))
    assert message(error).startswith("Invalid durable function graph: root.left.left.")
    assert "left: Graph exceeds maximum nesting depth of 256. " in message(error)


def wide(nodes: int) -> str:
    extra = ",".join([S] * (nodes - 3))
    return f'{{"node_type":"JOIN","left_node":{S},"right_node":{S},"extra_nodes":[{extra}]}}'


def test_a_graph_may_have_10_000_nodes(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        instance_id = start(alice, f"'{wide(10_000)}'")
        assert (
            value(
                alice, "select count(distinct id) from df.nodes where instance_id = %s", instance_id
            )
            == 10_000
        )
    error = refusal(alice, "select df.start(%s)", wide(10_001))
    assert message(error).startswith(
        "Invalid durable function graph: root.extra_nodes[9997]: "
        "Workflow exceeds maximum node count of 10000. "
    )


def test_a_megabyte_of_sql_is_kept_as_it_is(alice: Connection) -> None:
    text = "SELECT '" + 'ä\\"$$\t' * 150_000 + "'"
    with alice.transaction(force_rollback=True):
        instance_id = value(alice, "select df.start(df.seq(%s, 'B'))", text)
        assert rows(
            alice,
            "select query = %s from df.nodes where instance_id = %s and query <> 'B'",
            text,
            instance_id,
        ) == [(True,)]


def test_a_role_that_cannot_log_in_is_refused(
    owner: Connection, superuser: Connection, installed: Database
) -> None:
    group = installed.role("group")
    superuser.execute(f"create role {group} nologin".encode())
    try:
        owner.execute("select df.grant_usage(%s)", [group])
        with superuser.transaction(force_rollback=True):
            superuser.execute(f"set local role {group}".encode())
            error = refusal(superuser, "select df.start('SELECT 1')")
        assert message(error).startswith(f'current_user "{group}" does not have LOGIN privilege. ')
        owner.execute("select df.revoke_usage(%s)", [group])
    finally:
        superuser.execute(f"drop role {group}".encode())


def test_superusers_are_refused_until_the_owner_allows_them(
    superuser: Connection, owner: Connection
) -> None:
    error = refusal(superuser, "select df.start('SELECT 1')")
    assert message(error).startswith("pg_durable: superuser instances are disabled. ")
    superuser.execute("set pg_durable.enable_superuser_instances = 'on'")  # anybody can SET that
    assert "superuser instances are disabled" in message(
        refusal(superuser, "select df.start('SELECT 1')")
    )
    owner.execute("insert into df._settings values ('enable_superuser_instances', 'on')")
    try:
        assert len(start(superuser, "'SELECT 1'")) == 8
    finally:
        owner.execute("delete from df._settings")


def test_ids_are_eight_hexadecimal_digits_and_distinct(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        ids = [row[0] for row in rows(alice, "select df.start('S') from generate_series(1, 200)")]
    assert len(set(ids)) == 200
    assert all(len(each) == 8 and set(each) <= set("0123456789abcdef") for each in ids)


def test_immediate_constraints_break_it_with_the_servers_own_error(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        alice.execute("set constraints all immediate")
        error = refusal(alice, "select df.start('SELECT 1')")
    assert isinstance(error, psycopg.errors.ForeignKeyViolation)


@keeps("E2")
def test_ten_ids_that_are_taken_are_enough(alice: Connection, owner: Connection) -> None:
    """A trigger that drops every row stands for ids that all exist already."""
    owner.execute(
        "create function public.taken() returns trigger language plpgsql as 'begin return null; end';"
        "create trigger taken before insert on df.instances for each row execute function public.taken()"
    )
    try:
        error = refusal(alice, "select df.start('SELECT 1')")
    finally:
        owner.execute("drop function public.taken() cascade")
    assert message(error).startswith("Failed to create instance: exhausted 10 attempts")
    assert "retention_days" in (error.diag.message_hint or "")


@keeps("E2")
def test_functions_without_tables_are_the_servers_own_refusal(
    stranger: Connection, owner: Connection
) -> None:
    """USAGE by hand instead of df.grant_usage."""
    role = stranger.info.user
    owner.execute(f"grant usage on schema df to {role}; grant select on df.vars to {role}".encode())
    try:
        error = refusal(stranger, "select df.start('SELECT 1')")
    finally:
        owner.execute(
            f"revoke all on schema df from {role}; revoke all on df.vars from {role}".encode()
        )
    assert (error.sqlstate, message(error)) == ("42501", "permission denied for table instances")
