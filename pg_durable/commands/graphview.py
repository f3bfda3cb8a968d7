"""A workflow's graph as a tree of steps with a status each, from the rows of df.instance_nodes.

What comes after one another stands below one another, as in df.explain; only branches go deeper.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

MARKS = {  # a mark, its form in ASCII, and a style
    "completed": ("✓", "+", "green"),
    "running": ("▸", ">", "yellow"),
    "pending": ("·", ".", "dim"),
    "failed": ("✗", "x", "red"),
    "cancelled": ("⊘", "-", "magenta"),
    "skipped": ("⊘", "-", "dim"),
}
UNKNOWN = ("?", "?", "red")
SHOWN_ROWS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A row of df.instance_nodes, as far as it is shown."""

    node_id: str
    node_type: str
    query: str | None
    result_name: str | None
    left_node: str | None
    right_node: str | None
    status: str  # the inferred one where there is one
    result: str | None

    @property
    def children(self) -> tuple[str, ...]:
        """Ids of all children, in the order in which they are read."""
        config = _config(self)
        condition = config.get("condition_node")
        extras = config.get("extra_nodes")
        every = [
            condition if self.node_type == "IF" else None,
            self.left_node,
            self.right_node,
            condition if self.node_type == "LOOP" else None,
            *(extras if isinstance(extras, list) else []),
        ]
        return tuple(str(child) for child in every if child)


def root_of(nodes: Sequence[Node]) -> Node | None:
    """Return the node that is no other's child; None while there are no nodes."""
    children = {child for node in nodes for child in node.children}
    return next((node for node in nodes if node.node_id not in children), None)


def tree_of(title: str, nodes: Sequence[Node], console: Console) -> Tree:
    """Return the graph for `console`, cut to its width, in ASCII where it can show no more."""
    tree = Tree(title, guide_style="dim")
    root = root_of(nodes)
    if root is not None:
        _add(tree, root, {node.node_id: node for node in nodes}, console)
    return tree


def mark(status: str, console: Console) -> Text:
    """Return the sign for a status, coloured."""
    sign, ascii_sign, style = MARKS.get(status, UNKNOWN)
    return Text(ascii_sign if console.options.ascii_only else sign, style=style)


def _add(branch: Tree, node: Node, by_id: Mapping[str, Node], console: Console) -> None:
    for step in _sequence(node, by_id):
        below = branch.add(_label(step, console))
        for child in step.children:
            if child in by_id:
                _add(below, by_id[child], by_id, console)


def _sequence(node: Node, by_id: Mapping[str, Node]) -> Iterator[Node]:
    """Yield the steps of a chain of THEN in order; a node of another kind is a chain of one."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current.node_type == "THEN":
            waiting += [by_id[child] for child in reversed(current.children) if child in by_id]
        else:
            yield current


def _label(node: Node, console: Console) -> Text:
    _, _, style = MARKS.get(node.status, UNKNOWN)
    label = Text.assemble(mark(node.status, console), " ", (f"{node.status:<9}", style), "  ")
    label.append(_words(node))
    if node.result_name:
        label.append(f"  |=> '{node.result_name}'", style="cyan")
    outcome = _outcome(node)
    if outcome:
        label.append(f"  {outcome}", style="dim")
    label.no_wrap = True
    label.overflow = "ellipsis"
    return label


def _words(node: Node) -> str:
    query = " ".join((node.query or "").split())
    match node.node_type:
        case "SQL":
            return query
        case "SLEEP":
            return f"wait {query or '?'} s"
        case other:
            return other


def _outcome(node: Node) -> str:
    """Say in a few words what a finished step gave: how many rows, or why it failed."""
    if node.result is None or node.status not in ("completed", "failed"):
        return ""
    try:
        result = json.loads(node.result)
    except ValueError:
        return ""
    if node.status == "failed":
        return str(result.get("error", "") if isinstance(result, dict) else result)
    count = result.get("affected") if isinstance(result, dict) else None
    return "" if count is None else f"({count} row{'' if count == 1 else 's'})"


def _config(node: Node) -> dict[str, object]:
    """Return the configuration that composite nodes keep where SQL keeps its text."""
    if node.node_type in ("SQL", "THEN", "SLEEP") or not node.query:
        return {}
    try:
        config = json.loads(node.query)
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}
