"""The graphs that executions run, loaded once and known by the hash of their text.

A snapshot never changes, so reading it outside the history is deterministic: the same input always
gives the same graph, or the same complaint.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from pg_durable.check import GraphError
from pg_durable.compile import BrokenGraph, Prepared
from pg_durable.home import Home
from pg_durable.nodetext import digest, parse_graph
from pg_durable.scope import WorkflowInput

_LARGE_CHARACTERS = 200_000  # takes long enough to parse to be moved off the event loop


class Snapshots:
    """A cache of parsed graphs.

    Args:
        capacity: how many graphs are kept; the one used longest ago goes first.
    """

    def __init__(self, home: Home, *, capacity: int = 1000) -> None:
        self._home = home
        self._capacity = capacity
        self._graphs: OrderedDict[tuple[str, str], Prepared] = OrderedDict()

    async def prepare(self, input_text: str) -> Prepared | None:
        """The graph that an execution with this input runs.

        None for an input that can't be read; the orchestration says so itself.
        """
        try:
            told = WorkflowInput.parse(input_text)
        except ValueError:
            return None
        key = (told.instance_id, told.graph_ref)
        graph = self._graphs.get(key)
        if graph is None:
            graph = await self._load(told)
            self._graphs[key] = graph
            if len(self._graphs) > self._capacity:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return graph

    async def _load(self, told: WorkflowInput) -> Prepared:
        text = await self._home.load_snapshot(told.instance_id, told.graph_ref)
        if text is None:
            return BrokenGraph(f"Instance {told.instance_id} not found: its graph was deleted")
        if len(text) < _LARGE_CHARACTERS:
            return _read(text, told.graph_ref)
        return await asyncio.to_thread(_read, text, told.graph_ref)


def _read(text: str, graph_ref: str) -> Prepared:
    if digest(text) != graph_ref:
        return BrokenGraph(f"The stored graph is not the one that was started ({graph_ref})")
    try:
        return parse_graph(text)
    except GraphError as error:
        return BrokenGraph(str(error))
