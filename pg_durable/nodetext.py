"""The stored form of a graph: what df.start wrote, read back; an error names the path to the fault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pg_durable.check import GraphError, check
from pg_durable.graph import (
    Break,
    Graph,
    Http,
    HttpMultipart,
    If,
    Join,
    Kind,
    Loop,
    Node,
    NodeId,
    Race,
    Signal,
    Sleep,
    Sql,
    Then,
    WaitSchedule,
    WhenRows,
    WhenTrue,
)
from pg_durable.sqloptions import SqlOptions


def digest(text: str) -> str:
    """The name of a snapshot by its content."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def parse_graph(text: str) -> Graph:
    """Read a snapshot and check it as a whole.

    Args:
        text: `{"instance_id", "root_node_id", "nodes": {id: {"node_type", "query", ...}}}`.

    Raises:
        GraphError: the text is not such an object, or the graph breaks a rule of `check`.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GraphError(f"Failed to parse function graph: {error}") from error
    top = _Fields(document, "graph")
    rows = top.mapping("nodes")
    nodes = {NodeId(key): _node(NodeId(key), row) for key, row in sorted(rows.items())}
    graph = Graph(
        instance_id=top.text("instance_id"), root=NodeId(top.text("root_node_id")), nodes=nodes
    )
    check(graph)
    return graph


def _node(node_id: NodeId, row: Any) -> Node:
    fields = _Fields(row, f"node {node_id}")
    node_type = fields.text("node_type").upper()
    fields.path = f"node {node_id} ({node_type})"
    return Node(
        id=node_id,
        kind=_kind(node_type, fields),
        result_name=fields.optional_text("result_name"),
        submitted_by=fields.text("submitted_by"),
        database=fields.optional_text("database"),
    )


def _kind(node_type: str, fields: _Fields) -> Kind:
    match node_type:
        case "SQL":
            return Sql(query=fields.text("query"), options=fields.sql_options())
        case "THEN":
            return Then(first=fields.child("left_node"), second=fields.child("right_node"))
        case "IF":
            return If(
                condition=_condition(fields),
                then=fields.child("left_node"),
                otherwise=fields.child("right_node"),
            )
        case "JOIN":
            extra = fields.config().ids("extra_nodes")
            return Join(branches=(fields.child("left_node"), fields.child("right_node"), *extra))
        case "RACE":
            return Race(left=fields.child("left_node"), right=fields.child("right_node"))
        case "LOOP":
            if fields.optional_text("left_node") is None:
                raise GraphError(f"{fields.path} has no body")
            condition = fields.config().optional_text("condition_node")
            return Loop(
                body=fields.child("left_node"),
                condition=None if condition is None else NodeId(condition),
            )
        case "BREAK":
            return Break(value=fields.config().optional_text("break_value"))
        case "SLEEP":
            return Sleep(seconds=fields.text("query"))
        case _:
            return _waiting_or_http(node_type, fields)


def _waiting_or_http(node_type: str, fields: _Fields) -> Kind:
    config = fields.config()
    match node_type:
        case "WAIT_SCHEDULE":
            return WaitSchedule(
                expression=config.text("cron_expr"),
                timezone=config.optional_text("timezone"),
                dialect=config.optional_text("dialect"),
            )
        case "SIGNAL":
            return Signal(
                signal_name=config.text("signal_name"),
                timeout_seconds=config.number_or_template("timeout_seconds"),
                mode=config.optional_text("mode") or "next",
            )
        case "HTTP":
            return Http(config=config.values)
        case "HTTP_MULTIPART":
            return HttpMultipart(config=config.values)
        case _:
            raise GraphError(f"Unknown node type: {node_type} ({fields.path})")


def _condition(fields: _Fields) -> WhenTrue | WhenRows:
    config = fields.config()
    if config.optional_text("condition_type") == "result_has_rows":
        return WhenRows(result_name=config.optional_text("result_name"))
    condition = config.optional_text("condition_node")
    if condition is None:
        raise GraphError(f"{fields.path}: IF node missing condition_node")
    return WhenTrue(node=NodeId(condition))


class _Fields:
    """A JSON object with typed access; every complaint begins with the path to it."""

    def __init__(self, values: Any, path: str) -> None:
        if not isinstance(values, dict):
            raise GraphError(f"{path}: expected a JSON object, found {_json_type(values)}")
        self.values: Mapping[str, Any] = values
        self.path = path

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise GraphError(f"{self.path}.{key}: expected a string, found {_json_type(value)}")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.values.get(key) is None else self.text(key)

    def number_or_template(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise GraphError(
                f"{self.path}.{key}: expected a whole number, found {_json_type(value)}"
            )
        return str(value)

    def child(self, key: str) -> NodeId:
        return NodeId(self.text(key))

    def ids(self, key: str) -> tuple[NodeId, ...]:
        values = self.values.get(key)
        if values is None:
            return ()
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise GraphError(f"{self.path}.{key}: expected an array of node ids")
        return tuple(NodeId(item) for item in values)

    def mapping(self, key: str) -> Mapping[str, Any]:
        return _Fields(self.values.get(key), f"{self.path}.{key}").values

    def sql_options(self) -> SqlOptions:
        if self.values.get("options") is None:
            return SqlOptions()
        try:
            return SqlOptions.parse(self.mapping("options"))
        except GraphError:
            raise
        except ValueError as error:
            raise GraphError(f"{self.path}.options: {error}") from error

    def config(self) -> _Fields:
        """The object inside `query`; an absent one is empty."""
        query = self.optional_text("query")
        if query is None:
            return _Fields({}, f"{self.path}.query")
        try:
            return _Fields(json.loads(query), f"{self.path}.query")
        except (ValueError, RecursionError) as error:
            if isinstance(error, GraphError):
                raise
            raise GraphError(f"{self.path}.query: not JSON: {error}") from error


def _json_type(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
