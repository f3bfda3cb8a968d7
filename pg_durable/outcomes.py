"""How the walk of a node ends: with a result, by a break, or by a failure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from duroxide.errors import TaskError
from pg_durable.graph import NodeId
from pg_durable.references import SubstitutionError


@dataclass(frozen=True, slots=True)
class Result:
    """A result document, and the node that stores it where that is another one."""

    text: str
    source: NodeId | None = None


class BreakLoop(Exception):
    """On its way to the nearest LOOP; `value` becomes that node's result."""

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self.value = value


class NodeFailed(Exception):
    """A node failed, and with it every node on the way up.

    Args:
        message: the text that people see; composites put their own words before it.
        details: the structured error: sqlstate, hint, node_id ... of where it began.
    """

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, details)
        self.message = message
        self.details: Mapping[str, Any] = details or {}

    def __str__(self) -> str:
        return self.message

    def prefixed(self, words: str) -> NodeFailed:
        return NodeFailed(words + self.message, self.details)

    def at(self, node_id: NodeId) -> NodeFailed:
        """The same failure, with the node where it began."""
        if "node_id" in self.details:
            return self
        return NodeFailed(self.message, {**self.details, "node_id": node_id})

    def record(self) -> dict[str, Any]:
        """The structured error as it is stored."""
        return {**self.details, "message": self.message}

    @classmethod
    def of(cls, error: Exception) -> NodeFailed:
        """What made a node fail: an activity or a child, a placeholder, a limit."""
        match error:
            case NodeFailed():
                return error
            case TaskError(message=message, data=data):
                details = json.loads(data) if data else {}
                return cls(message, details if isinstance(details, dict) else {})
            case SubstitutionError(message=message, reference=reference, bound=bound):
                facts: dict[str, Any] = {} if reference is None else {"reference": reference}
                if bound:
                    facts["hint"] = "bound names: " + ", ".join(bound)
                return cls(message, facts)
            case _:
                return cls(str(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchEnd:
    """How a branch ended: exactly one of result, break and failure."""

    results: Mapping[str, str]  # all names at its end
    bound: AbstractSet[str]  # those that it has bound itself, be it to what they were before
    cursors: Mapping[str, int]  # of the signals taken by then
    result: Result | None = None
    broken: BreakLoop | None = None
    failure: NodeFailed | None = None

    def value(self) -> Result:
        """The result, or the break on its way up."""
        if self.broken is not None:
            raise self.broken
        assert self.result is not None
        return self.result
