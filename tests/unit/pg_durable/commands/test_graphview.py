"""Rows of df.instance_nodes as a tree for people."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from pg_durable.commands.graphview import Node, root_of, tree_of


def node(
    node_id: str,
    node_type: str = "SQL",
    query: str | None = None,
    *,
    left: str | None = None,
    right: str | None = None,
    status: str = "pending",
    name: str | None = None,
    result: object = None,
) -> Node:
    return Node(
        node_id=node_id,
        node_type=node_type,
        query=query,
        result_name=name,
        left_node=left,
        right_node=right,
        status=status,
        result=None if result is None else json.dumps(result),
    )


def shown(*nodes: Node, width: int = 60, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, color_system=None, legacy_windows=False)
    console.print(tree_of("title", nodes, console))
    file.seek(0)
    return [line.rstrip() for line in file.read().splitlines()]


CHAIN = (
    node("c", query="SELECT 3", status="pending"),
    node("t2", "THEN", left="t1", right="c", status="running"),
    node("a", query="SELECT 1", status="completed", name="one", result={"affected": 1}),
    node("t1", "THEN", left="a", right="b", status="completed"),
    node("b", "SLEEP", "60", status="running"),
)


def test_a_chain_is_a_list_of_steps_in_order() -> None:
    assert shown(*CHAIN) == [
        "title",
        "├── ✓ completed  SELECT 1  |=> 'one'  (1 row)",
        "├── ▸ running    wait 60 s",
        "└── · pending    SELECT 3",
    ]


def test_the_order_of_the_rows_does_not_matter() -> None:
    assert shown(*reversed(CHAIN)) == shown(*CHAIN)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    lines = shown(*CHAIN, encoding="ascii")
    assert lines[1] == "+-- + completed  SELECT 1  |=> 'one'  (1 row)"
    assert all(line.isascii() for line in lines)


def test_branches_go_deeper_and_each_may_be_a_chain() -> None:
    lines = shown(
        node("j", "JOIN", json.dumps({"extra_nodes": ["z"]}), left="t", right="y"),
        node("t", "THEN", left="w", right="x"),
        *(node(each, query=f"SELECT '{each}'") for each in "wxyz"),
    )
    assert lines == [
        "title",
        "└── · pending    JOIN",
        "    ├── · pending    SELECT 'w'",
        "    ├── · pending    SELECT 'x'",
        "    ├── · pending    SELECT 'y'",
        "    └── · pending    SELECT 'z'",
    ]


def test_a_condition_is_the_first_child_of_an_if() -> None:
    lines = shown(
        node("i", "IF", json.dumps({"condition_node": "c"}), left="y", right="n"),
        node("n", query="SELECT 'no'", status="skipped"),
        node("c", query="SELECT true"),
        node("y", query="SELECT 'yes'"),
    )
    assert [line[-12:].strip() for line in lines[2:]] == [
        "SELECT true",
        "SELECT 'yes'",
        "SELECT 'no'",
    ]


def test_a_failed_step_says_why() -> None:
    lines = shown(node("a", query="SELECT 1/0", status="failed", result="division by zero"))
    assert lines[1] == "└── ✗ failed     SELECT 1/0  division by zero"


def test_a_long_statement_is_one_line_cut_to_the_width() -> None:
    lines = shown(node("a", query="SELECT 1,\n       " + "2, " * 100 + "3"), width=40)
    assert lines[1].startswith("└── · pending    SELECT 1, 2, 2,")
    assert lines[1].endswith("…")
    assert len(lines) == 2
    assert len(lines[1]) == 40


@pytest.mark.parametrize("status", ["completed", "odd"])
def test_square_brackets_in_a_statement_are_no_markup(status: str) -> None:
    assert "[red]'a'[/red]" in shown(node("a", query="SELECT [red]'a'[/red]", status=status))[1]


def test_without_nodes_there_is_no_root() -> None:
    assert root_of([]) is None
    assert shown() == ["title"]
