"""Options of SQL steps as the worker reads them, which trusts no row."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_durable.check import GraphError
from pg_durable.graph import NodeId, Sql
from pg_durable.nodetext import parse_graph
from pg_durable.sqloptions import SqlOptions

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "tx": st.sampled_from(["auto", "required"]),
        "isolation": st.sampled_from(["read committed", "repeatable read", "serializable"]),
        "read_only": st.booleans(),
        "deferrable": st.booleans(),
        "timeout_seconds": st.floats(0.001, 86_400),
        "retries": st.integers(0, 20),
        "on_ambiguous": st.sampled_from(["retry", "fail"]),
    },
)


@given(OPTIONS)
def test_options_survive_the_way_through_an_activitys_input(values: dict[str, object]) -> None:
    options = SqlOptions.parse(values)
    assert SqlOptions.parse(json.loads(json.dumps(options.document()))) == options


def graph(options: object) -> str:
    node = {"node_type": "SQL", "query": "select 1", "submitted_by": "me", "options": options}
    return json.dumps({"instance_id": "0", "root_node_id": "a", "nodes": {"a": node}})


def test_a_stored_graph_brings_its_options() -> None:
    kind = parse_graph(graph({"tx": "none"}))[NodeId("a")].kind
    assert kind == Sql(query="select 1", options=SqlOptions(tx="none"))


@pytest.mark.parametrize(
    "options",
    [
        {"tx": "sometimes"},
        {"tx": None},
        {"retries": True},
        {"retries": -1},
        {"timeout_seconds": "5"},
        {"timeout_seconds": 0},
        {"read_only": 1},
        {"color": "red"},
        {"tx": "none", "isolation": "serializable"},
        [],
    ],
)
def test_options_that_no_builder_makes_are_refused_with_the_way_to_them(options: object) -> None:
    with pytest.raises(GraphError, match=r"node a \(SQL\)\.options"):
        parse_graph(graph(options))
