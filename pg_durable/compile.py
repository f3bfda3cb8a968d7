"""From a stored graph to the orchestrations that execute it."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from duroxide.context import OrchestrationContext
from duroxide.errors import OrchestrationError
from duroxide.registry import OrchestrationDef, define_orchestration
from pg_durable.graph import Graph, NodeId
from pg_durable.outcomes import BreakLoop, NodeFailed, Result
from pg_durable.pausing import Pause
from pg_durable.scope import Scope, WorkflowInput, canonical
from pg_durable.walk import Execution, Walk

EXECUTE_GRAPH = "pg_durable::orchestration::execute-function-graph"
EXECUTE_SUBTREE = "pg_durable::orchestration::execute-subtree"
VERSION = "1.0.0"

# A JOIN or RACE inside another begins, and is given up, some ten calls deeper, and they may be 256 deep.
_CALLS_AT_ONCE = 5000

BREAK_OUTSIDE_LOOP = (
    "df.break() was called outside of a loop. df.break() may only be used inside df.loop()."
)


@dataclass(frozen=True, slots=True)
class BrokenGraph:
    """The snapshot of an instance is not a workflow, and why; as unchangeable as a good one."""

    message: str


Prepared: TypeAlias = Graph | BrokenGraph


def orchestrations(
    prepare: Callable[[str], Awaitable[object]],
) -> tuple[OrchestrationDef[..., Any], OrchestrationDef[..., Any]]:
    """Both orchestrations, of the whole graph and of a loop inside it.

    Args:
        prepare: from an execution's input to its `Prepared` graph.
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _CALLS_AT_ONCE))

    async def execute_function_graph(ctx: OrchestrationContext, input_text: str) -> str:
        """Its output is the root node's result document."""
        result, _ = await _run(ctx, input_text, subtree)
        return result.text

    async def execute_subtree(ctx: OrchestrationContext, input_text: str) -> str:
        """Its output is the loop's result, the names that it has bound and the signals it has taken."""
        result, walk = await _run(ctx, input_text, subtree)
        names = {name: walk.results[name] for name in walk.bound}
        envelope = {"result": result.text, "results": names, "cursors": walk.cursors}
        return canonical({"control": "Normal", **envelope})

    whole, subtree = (
        define_orchestration(code, name=name, version=VERSION, raw=True, prepare=prepare)
        for code, name in (
            (execute_function_graph, EXECUTE_GRAPH),
            (execute_subtree, EXECUTE_SUBTREE),
        )
    )
    return whole, subtree


async def _run(
    ctx: OrchestrationContext, input_text: str, subtree: OrchestrationDef[..., Any]
) -> tuple[Result, Walk]:
    try:
        told = WorkflowInput.parse(input_text)
    except ValueError as error:
        raise OrchestrationError(f"Invalid orchestration input: {error}") from error
    graph = ctx.prepared
    if isinstance(graph, BrokenGraph):
        raise OrchestrationError(graph.message)
    assert isinstance(graph, Graph)
    root = graph.root if told.node_id is None else NodeId(told.node_id)
    scope = Scope(engine_id=ctx.instance_id, generation=ctx.execution_id, root=root)
    pause = Pause(ctx, told.instance_id)
    execution = Execution(ctx=ctx, graph=graph, told=told, subtree=subtree, pause=pause)
    walk = Walk(
        execution, scope, told.results, told.cursors, bound=told.bound, is_alone=told.is_alone
    )
    try:
        return await walk.run(root), walk
    except BreakLoop:
        raise OrchestrationError(BREAK_OUTSIDE_LOOP) from None
    except NodeFailed as failure:
        data = json.dumps(failure.record(), ensure_ascii=False)
        raise OrchestrationError(failure.message, data=data) from None
