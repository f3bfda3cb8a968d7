from __future__ import annotations

import json
from typing import Any

import pytest

from pg_durable.check import GraphError
from pg_durable.graph import If, Join, Loop, NodeId, Sql, Then, WhenRows, WhenTrue, walk
from pg_durable.nodetext import parse_graph


def row(
    node_type: str, query: Any = None, left: str | None = None, right: str | None = None
) -> Any:
    text = query if query is None or isinstance(query, str) else json.dumps(query)
    return {
        "node_type": node_type,
        "query": text,
        "result_name": None,
        "left_node": left,
        "right_node": right,
        "submitted_by": "ann",
        "database": None,
    }


def graph_text(root: str, **nodes: Any) -> str:
    return json.dumps({"instance_id": "0000000f", "root_node_id": root, "nodes": nodes})


def test_a_sequence_is_read() -> None:
    graph = parse_graph(
        graph_text(
            "c", a=row("SQL", "SELECT 1"), b=row("sql", "SELECT 2"), c=row("THEN", None, "a", "b")
        )
    )
    assert graph[NodeId("a")].kind == Sql(query="SELECT 1")
    assert graph[graph.root].kind == Then(first=NodeId("a"), second=NodeId("b"))
    assert [(node.id, depth) for node, depth in walk(graph)] == [("c", 0), ("a", 1), ("b", 1)]


def test_children_inside_configurations_are_read() -> None:
    leaves = {name: row("SQL", "SELECT 1") for name in "abcd"}
    join = parse_graph(
        graph_text("j", j=row("JOIN", {"extra_nodes": ["c", "d"]}, "a", "b"), **leaves)
    )
    assert join[join.root].kind == Join(branches=tuple(NodeId(name) for name in "abcd"))
    loop = parse_graph(graph_text("l", l=row("LOOP", {"condition_node": "b"}, "a"), **leaves))
    assert loop[loop.root].kind == Loop(body=NodeId("a"), condition=NodeId("b"))
    chosen = parse_graph(graph_text("i", i=row("IF", {"condition_node": "c"}, "a", "b"), **leaves))
    assert chosen[chosen.root].kind == If(
        condition=WhenTrue(node=NodeId("c")), then=NodeId("a"), otherwise=NodeId("b")
    )
    rows = {"condition_type": "result_has_rows", "result_name": "batch"}
    named = parse_graph(graph_text("i", i=row("IF", rows, "a", "b"), **leaves))
    assert named[named.root].kind == If(
        condition=WhenRows(result_name="batch"), then=NodeId("a"), otherwise=NodeId("b")
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[", "Failed to parse function graph"),
        ("[]", "graph: expected a JSON object, found an array"),
        (graph_text("a"), "Node not found: a (the root node)"),
        (
            graph_text("a", a=row("SQL", None)),
            "node a (SQL).query: expected a string, found nothing",
        ),
        (graph_text("a", a=row("DANCE", "{}")), "Unknown node type: DANCE (node a (DANCE))"),
        (
            graph_text("t", t=row("THEN", None, "a", "zz"), a=row("SQL", "SELECT 1")),
            "Node not found: zz (child of THEN node t)",
        ),
        (
            graph_text("t", t=row("THEN", None, "a", "a"), a=row("SQL", "SELECT 1")),
            "node a is a child of t and of t",
        ),
        (graph_text("t", t=row("LOOP", None, "t")), "the graph is a cycle"),
        (graph_text("l", l=row("LOOP")), "node l (LOOP) has no body"),
        (
            graph_text("i", i=row("IF", None, "a", "b"), a=row("SQL", "x"), b=row("SQL", "y")),
            "IF node missing condition_node",
        ),
        (graph_text("b", b=row("BREAK", "oops")), "node b (BREAK).query: not JSON"),
    ],
)
def test_a_complaint_names_the_path(text: str, complaint: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse_graph(text)
    assert complaint in str(caught.value)


def chain(length: int) -> str:
    nodes = {f"s{i}": row("SQL", "SELECT 1") for i in range(length + 1)}
    nodes |= {
        f"t{i}": row("THEN", None, f"t{i - 1}" if i > 1 else "s0", f"s{i}")
        for i in range(1, length + 1)
    }
    return graph_text(f"t{length}", **nodes)


def test_the_deepest_allowed_graph_is_read_and_one_level_more_is_refused() -> None:
    assert max(depth for _, depth in walk(parse_graph(chain(256)))) == 256
    with pytest.raises(GraphError, match="maximum nesting depth of 256"):
        parse_graph(chain(257))
