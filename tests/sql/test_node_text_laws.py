"""Graphs built at random as SQL text give, on the server, what an independent rendering in Python gives."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pg_durable.graph import (
    Break,
    Graph,
    Http,
    If,
    Join,
    Loop,
    NodeId,
    Race,
    Signal,
    Sleep,
    Sql,
    Then,
    WaitSchedule,
    WhenTrue,
)
from pg_durable.nodetext import parse_graph
from tests.fixtures.postgres import Database
from tests.sql.random_workflows import (
    HOSTILE,
    WORKFLOWS,
    Built,
    binary,
    compact,
    plain,
)
from tests.sql.sessions import Connection, rows, value

shared_session = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@shared_session
@given(built=WORKFLOWS)
def test_the_server_builds_what_python_renders(owner: Connection, built: Built) -> None:
    assert value(owner, f"select {built.sql}") == compact(_canonical(built.node))


ORDER = (
    "node_type",
    "left_node",
    "right_node",
    "condition_node",
    "extra_nodes",
    "query",
    "result_name",
)


def _canonical(node: Mapping[str, object]) -> dict[str, object]:
    """The same node with its keys, and its children's, in canonical order."""
    return {key: _inner(node[key]) for key in ORDER if key in node}


def _inner(part: object) -> object:
    match part:
        case dict():
            return _canonical(part)
        case list():
            return [_inner(each) for each in part]
        case _:
            return part


@shared_session
@given(built=WORKFLOWS)
def test_what_was_built_is_a_fixed_point(owner: Connection, built: Built) -> None:
    text = value(owner, f"select {built.sql}")
    again = value(owner, "select df.seq(%s, 'x')", text)
    assert (
        again
        == f'{{"node_type":"THEN","left_node":{text},"right_node":{{"node_type":"SQL","query":"x"}}}}'
    )


@shared_session
@given(built=WORKFLOWS)
def test_a_worker_reads_the_tree_that_was_built(owner: Connection, built: Built) -> None:
    with owner.transaction(force_rollback=True):
        instance_id = value(owner, f"select df.start({built.sql})")
        frozen = value(owner, "select graph from df._snapshots where instance_id = %s", instance_id)
        assert value(owner, "select df.explain(%s)", instance_id).startswith("Instance: ")
    graph = parse_graph(frozen)
    assert _printed(graph, graph.root) == _canonical(built.node)


def _printed(graph: Graph, node_id: NodeId) -> dict[str, object]:
    """Write what a worker read as the node that it came from."""
    node = graph[node_id]
    tree: dict[str, object] = {"node_type": node.node_type}
    match node.kind:
        case Then(first=left, second=right) | Race(left=left, right=right):
            tree |= {"left_node": _printed(graph, left), "right_node": _printed(graph, right)}
        case If(condition=condition, then=left, otherwise=right):
            tree |= {"left_node": _printed(graph, left), "right_node": _printed(graph, right)}
            if isinstance(condition, WhenTrue):
                tree["condition_node"] = _printed(graph, condition.node)
            else:
                name = condition.result_name
                tree["query"] = compact({"condition_type": "result_has_rows", "result_name": name})
        case Join(branches=(left, right, *extra)):
            tree |= {"left_node": _printed(graph, left), "right_node": _printed(graph, right)}
            if extra:
                tree["extra_nodes"] = [_printed(graph, each) for each in extra]
        case Loop(body=body, condition=condition):
            tree["left_node"] = _printed(graph, body)
            if condition is not None:
                tree["condition_node"] = _printed(graph, condition)
        case Break(value=said):
            tree["query"] = compact({"break_value": said})
        case Signal(signal_name=signal, timeout_seconds=timeout):
            seconds = None if timeout is None else int(timeout)
            tree["query"] = compact({"signal_name": signal, "timeout_seconds": seconds})
        case WaitSchedule(expression=expression):
            tree["query"] = compact({"cron_expr": expression})
        case Http(config=config):
            tree["query"] = compact(dict(config))
        case Sql(query=query) | Sleep(seconds=query):
            tree["query"] = query
        case other:
            raise AssertionError(other)
    if node.result_name is not None:
        tree["result_name"] = node.result_name
    return tree


@shared_session
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | HOSTILE)
def test_any_text_is_a_workflow_or_a_classified_error(alice: Connection, text: str) -> None:
    (row,) = rows(alice, "select n.node, n.node_type, n.problem from df._parse_node(%s) as n", text)
    assert (row[0] is None) or row[2] is None
    assert value(alice, "select df.explain(df.sql(%s))", text).startswith("SQL: ")


def test_literals_are_the_same_whatever_the_servers_string_rules(
    alice: Connection, installed: Database
) -> None:
    with alice.transaction(force_rollback=True):
        alice.execute("set local standard_conforming_strings = off")
        alice.execute("set local escape_string_warning = off")
        assert value(alice, "select df.seq(%s, %s)", "a\\'b", "c") == compact(
            binary(("THEN", "seq", "~>"), plain("a\\'b"), plain("c"), False).node
        )
