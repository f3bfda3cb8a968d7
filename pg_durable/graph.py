"""What a workflow is made of: a closed set of node kinds, and the graph that holds them.

A graph is flat: nodes refer to each other by id, so a chain of any allowed depth is walked without
recursion. Texts that may hold placeholders (`{name}`, `$name`) are kept as templates; what they must
be after substitution is checked where they are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NewType, TypeAlias

from pg_durable.sqloptions import SqlOptions

NodeId = NewType("NodeId", str)
"""Eight lower-case hexadecimal digits, unique within one instance."""

MAX_DEPTH = 256
MAX_NODES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sql:
    """Runs one statement, or several in one transaction, as the submitter."""

    query: str  # template
    options: SqlOptions = field(default_factory=SqlOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Then:
    first: NodeId
    second: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class WhenTrue:
    """The condition of an IF that runs a node and looks at its result."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class WhenRows:
    """The condition of an IF that asks whether a named result has rows; it runs nothing."""

    result_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class If:
    condition: WhenTrue | WhenRows
    then: NodeId
    otherwise: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    branches: tuple[NodeId, ...]  # two or more, in the order of the result


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    left: NodeId
    right: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Do-while: the body runs, then the condition decides; without one, only BREAK ends it."""

    body: NodeId
    condition: NodeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    value: str | None  # template


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    seconds: str  # template; a whole number after substitution


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitSchedule:
    expression: str  # template; a cron expression
    timezone: str | None = None  # IANA name; None: what the instance was started with
    dialect: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    signal_name: str  # template
    timeout_seconds: str | None = None  # template; None: for ever
    mode: str = "next"  # next, latest, future


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """One request; `config` is the whole configuration object, whose strings are templates."""

    config: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpMultipart:
    config: Mapping[str, Any] = field(hash=False)


Kind: TypeAlias = (
    Sql
    | Then
    | If
    | Join
    | Race
    | Loop
    | Break
    | Sleep
    | WaitSchedule
    | Signal
    | Http
    | HttpMultipart
)

NODE_TYPES: Mapping[type[Kind], str] = {
    Sql: "SQL",
    Then: "THEN",
    If: "IF",
    Join: "JOIN",
    Race: "RACE",
    Loop: "LOOP",
    Break: "BREAK",
    Sleep: "SLEEP",
    WaitSchedule: "WAIT_SCHEDULE",
    Signal: "SIGNAL",
    Http: "HTTP",
    HttpMultipart: "HTTP_MULTIPART",
}
"""How df.nodes spells each kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    id: NodeId
    kind: Kind
    result_name: str | None = None  # what `|=>` binds the result to
    submitted_by: str  # role name as of the start
    database: str | None = None  # None: the home database

    @property
    def node_type(self) -> str:
        return NODE_TYPES[type(self.kind)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A whole workflow, as frozen by df.start."""

    instance_id: str
    root: NodeId
    nodes: Mapping[NodeId, Node]

    def __getitem__(self, node_id: NodeId) -> Node:
        return self.nodes[node_id]


def children(kind: Kind) -> tuple[NodeId, ...]:
    """Direct children, in the order in which people read them."""
    match kind:
        case Then(first=first, second=second):
            return (first, second)
        case If(condition=WhenTrue(node=condition), then=then, otherwise=otherwise):
            return (condition, then, otherwise)
        case If(then=then, otherwise=otherwise):
            return (then, otherwise)
        case Join(branches=branches):
            return branches
        case Race(left=left, right=right):
            return (left, right)
        case Loop(body=body, condition=condition_node):
            return (body,) if condition_node is None else (body, condition_node)
        case _:
            return ()


def walk(graph: Graph) -> Iterator[tuple[Node, int]]:
    """Every node reachable from the root with its depth (the root is at 0), parents first."""
    stack = [(graph.root, 0)]
    while stack:
        node_id, depth = stack.pop()
        node = graph[node_id]
        yield node, depth
        stack.extend((child, depth + 1) for child in reversed(children(node.kind)))
