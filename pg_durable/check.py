"""Rules on a whole graph, checked again by the worker because rows can be written by hand."""

from __future__ import annotations

from pg_durable.graph import MAX_DEPTH, MAX_NODES, Graph, NodeId, children


class GraphError(ValueError):
    """A stored graph is not a workflow; the message names the node."""


def check(graph: Graph) -> None:
    """Make sure that walking the graph ends and finds every child.

    Raises:
        GraphError: a missing node, a node with two parents (a cycle is one), or a limit exceeded.
    """
    if len(graph.nodes) > MAX_NODES:
        raise GraphError(f"the graph has {len(graph.nodes)} nodes, at most {MAX_NODES} are allowed")
    if graph.root not in graph.nodes:
        raise GraphError(f"Node not found: {graph.root} (the root node)")
    parents: dict[NodeId, NodeId | None] = {graph.root: None}
    pending = [(graph.root, 0)]
    while pending:
        node_id, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise GraphError(
                f"node {node_id} is at depth {depth}, "
                f"which exceeds the maximum nesting depth of {MAX_DEPTH}"
            )
        for child in children(graph[node_id].kind):
            if child not in graph.nodes:
                raise GraphError(
                    f"Node not found: {child} (child of {graph[node_id].node_type} node {node_id})"
                )
            if child in parents:
                raise GraphError(
                    f"node {child} is a child of {node_id} and of {parents[child] or 'nothing'}"
                    if parents[child]
                    else f"node {child} is the root and a child of {node_id}: the graph is a cycle"
                )
            parents[child] = node_id
            pending.append((child, depth + 1))
