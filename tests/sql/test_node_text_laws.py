"""Graphs built at random as SQL text give, on the server, what an independent rendering in Python gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.sql import Literal

from tests.fixtures.postgres import Database
from tests.sql.sessions import Connection, rows, value

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
HOSTILE = st.sampled_from(
    ["'", "''", '"', "\\", "\\'", "$$", "$x$;--", "/*", "{", "{}", '{"node_type":"Z"}', "[1]", "\u2028", "\x7f",
     "😀", "a\nb\r\tc", "\x01", "%s", "{name}", "$name", "null", "OK", "", "  ", '{"node_type":7}', "12345678"]
)  # fmt: skip
STEP = TEXT | HOSTILE
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)


@dataclass(frozen=True, slots=True)
class Built:
    """A workflow twice: as SQL to evaluate, and as the node that it must give."""

    sql: str
    node: Mapping[str, object]


def compact(document: object) -> str:
    """JSON as the builders write it: no blanks, only what must be escaped is."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def quoted(text: str) -> str:
    return Literal(text).as_string(None)


def _plain(text: str) -> Built:
    return Built(quoted(text), {"node_type": "SQL", "query": text})


def _sql(text: str) -> Built:
    return Built(f"df.sql({quoted(text)})", {"node_type": "SQL", "query": text})


def _sleep(seconds: int) -> Built:
    return Built(f"df.sleep({seconds})", {"node_type": "SLEEP", "query": str(seconds)})


def _break(text: str | None) -> Built:
    argument = "" if text is None else quoted(text)
    return Built(
        f"df.break({argument})", {"node_type": "BREAK", "query": compact({"break_value": text})}
    )


def _signal(name: str, timeout: int | None) -> Built:
    query = compact({"signal_name": name, "timeout_seconds": timeout})
    argument = "NULL" if timeout is None else str(timeout)
    return Built(
        f"df.wait_for_signal({quoted(name)}, {argument})", {"node_type": "SIGNAL", "query": query}
    )


def _binary(kind: tuple[str, str, str], a: Built, b: Built, as_operator: bool) -> Built:
    node_type, function, operator = kind
    sql = f"({a.sql} {operator} {b.sql})" if as_operator else f"df.{function}({a.sql}, {b.sql})"
    return Built(sql, {"node_type": node_type, "left_node": a.node, "right_node": b.node})


def _join3(a: Built, b: Built, c: Built) -> Built:
    node = {"node_type": "JOIN", "left_node": a.node, "right_node": b.node, "extra_nodes": [c.node]}
    return Built(f"df.join3({a.sql}, {b.sql}, {c.sql})", node)


def _if(c: Built, t: Built, e: Built, as_operator: bool) -> Built:
    node = {"node_type": "IF", "left_node": t.node, "right_node": e.node, "condition_node": c.node}
    if as_operator:
        return Built(f"({c.sql} ?> {t.sql} !> {e.sql})", node)
    return Built(f"df.if({c.sql}, {t.sql}, {e.sql})", node)


def _if_rows(name: str, t: Built, e: Built) -> Built:
    query = compact({"condition_type": "result_has_rows", "result_name": name})
    return Built(
        f"df.if_rows({quoted(name)}, {t.sql}, {e.sql})",
        {"node_type": "IF", "left_node": t.node, "right_node": e.node, "query": query},
    )


def _loop(body: Built, condition: Built | None, as_operator: bool) -> Built:
    node: dict[str, object] = {"node_type": "LOOP", "left_node": body.node}
    if condition is not None:
        return Built(
            f"df.loop({body.sql}, {condition.sql})", {**node, "condition_node": condition.node}
        )
    return Built(f"(@> {body.sql})" if as_operator else f"df.loop({body.sql})", node)


def _named(step: Built, name: str, as_operator: bool) -> Built:
    node = {key: item for key, item in step.node.items() if key != "result_name"}
    sql = (
        f"({step.sql} |=> {quoted(name)})" if as_operator else f"df.as({step.sql}, {quoted(name)})"
    )
    return Built(sql, {**node, "result_name": name})


LEAVES = st.one_of(
    STEP.filter(lambda text: not text.startswith("{")).map(_plain),
    STEP.map(_sql),
    st.integers(0, 2**63 - 1).map(_sleep),
    st.none().map(_break) | STEP.map(_break),
    st.builds(_signal, STEP.filter(bool), st.none() | st.integers(1, 2**31 - 1)),
)
KINDS = st.sampled_from([("THEN", "seq", "~>"), ("JOIN", "join", "&"), ("RACE", "race", "|")])


def _composed(steps: st.SearchStrategy[Built]) -> st.SearchStrategy[Built]:
    return st.one_of(
        st.builds(_binary, KINDS, steps, steps, st.booleans()),
        st.builds(_join3, steps, steps, steps),
        st.builds(_if, steps, steps, steps, st.booleans()),
        st.builds(_if_rows, STEP, steps, steps),
        st.builds(_loop, steps, st.none() | steps, st.booleans()),
        st.builds(_named, steps, NAME, st.booleans()),
    )


STEPS = st.recursive(LEAVES, _composed, max_leaves=12)
WORKFLOWS = _composed(STEPS)  # a lone literal is not yet node text
shared_session = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@shared_session
@given(built=WORKFLOWS)
def test_the_server_builds_what_python_renders(alice: Connection, built: Built) -> None:
    assert value(alice, f"select {built.sql}") == compact(_canonical(built.node))


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
def test_what_was_built_is_a_fixed_point(alice: Connection, built: Built) -> None:
    text = value(alice, f"select {built.sql}")
    again = value(alice, "select df.seq(%s, 'x')", text)
    assert (
        again
        == f'{{"node_type":"THEN","left_node":{text},"right_node":{{"node_type":"SQL","query":"x"}}}}'
    )


@shared_session
@given(built=WORKFLOWS)
def test_a_started_graph_is_the_tree_that_was_built(
    alice: Connection, owner: Connection, built: Built
) -> None:
    with owner.transaction(force_rollback=True):
        instance_id = value(owner, f"select df.start({built.sql})")
        graph = json.loads(
            value(owner, "select graph from df._snapshots where instance_id = %s", instance_id)
        )
        assert value(owner, "select df.explain(%s)", instance_id).startswith("Instance: ")
    assert _tree(graph["nodes"], graph["root_node_id"]) == _canonical(built.node)


def _tree(nodes: dict[str, dict[str, str | None]], node_id: str | None) -> dict[str, object]:
    """Put a flat graph together again."""
    assert node_id is not None
    row = nodes[node_id]
    tree: dict[str, object] = {"node_type": row["node_type"]}
    if row["left_node"]:
        tree["left_node"] = _tree(nodes, row["left_node"])
    if row["right_node"]:
        tree["right_node"] = _tree(nodes, row["right_node"])
    query = row["query"]
    if row["node_type"] in ("IF", "LOOP", "JOIN") and query is not None:
        configuration = json.loads(query)
        if "condition_node" in configuration:
            tree["condition_node"] = _tree(nodes, configuration["condition_node"])
            query = None
        elif "extra_nodes" in configuration:
            tree["extra_nodes"] = [_tree(nodes, each) for each in configuration["extra_nodes"]]
            query = None
    if query is not None:
        tree["query"] = query
    if row["result_name"]:
        tree["result_name"] = row["result_name"]
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
            _binary(("THEN", "seq", "~>"), _plain("a\\'b"), _plain("c"), False).node
        )
