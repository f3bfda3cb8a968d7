"""Where a walk stands: the scope that names its nodes' stamps, and what its names are bound to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, Self

from pg_durable.graph import NodeId
from pg_durable.outcomes import NodeFailed
from pg_durable.substitute import Bindings


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """An orchestration, or a branch of JOIN or RACE inside one."""

    engine_id: str
    generation: int  # of a looping orchestration: its execution; of a branch: always 1
    root: NodeId

    @property
    def stamp(self) -> str:
        """Who wrote a node's status, for status_details."""
        return f"{self.engine_id}::{self.generation}"

    def child_id(self, node_id: NodeId) -> str:
        """The id of the scope that begins at this node."""
        return f"{self.stamp}::{node_id}"

    def branch(self, node_id: NodeId) -> Scope:
        return Scope(engine_id=self.child_id(node_id), generation=1, root=node_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionLimits:
    """Settings that decide what an execution does, pinned when its instance starts so that it replays."""

    max_loop_iterations: int = 0  # 0: no limit
    min_loop_interval_ms: int = 1000  # between the starts of two iterations
    max_carried_bytes: int = 1024 * 1024  # of named results, into the next iteration
    cron_dialect: str = "classic"
    workflow_timezone: str = "UTC"

    @property
    def min_loop_interval(self) -> timedelta:
        return timedelta(milliseconds=self.min_loop_interval_ms)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Read what the input says; a setting that it does not name has its default."""
        known = {setting.name: setting.type for setting in fields(cls)}
        kinds = {"int": int, "str": str}
        return cls(
            **{
                name: kinds[str(known[name])](value)
                for name, value in values.items()
                if name in known
            }
        )

    def check_carried(self, results: Mapping[str, str]) -> None:
        """Refuse to carry too much.

        Raises:
            NodeFailed: it names the largest results.
        """
        sizes = {name: len(text.encode()) for name, text in results.items()}
        total = sum(sizes.values())
        if total > self.max_carried_bytes:
            largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
            named = ", ".join(f"${name} ({sizes[name]} bytes)" for name in largest)
            raise NodeFailed(
                f"the named results of the loop have grown to {total} bytes, more than the limit of "
                f"{self.max_carried_bytes} (max_carried_bytes); largest: {named}. "
                "Keep large data in a table"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowInput:
    """What one execution of a workflow is told: by df.start, by the iteration before, or by the parent."""

    instance_id: str
    graph_ref: str  # names the snapshot by its content
    label: str | None = None
    vars: Mapping[str, str] = field(default_factory=dict)
    iteration: int = 0
    node_id: str | None = None  # the root of a child's walk; None: the root of the graph
    results: Mapping[str, str] = field(default_factory=dict)  # names that are bound already
    bound: Sequence[str] = ()  # those of them that iterations before this one have bound
    cursors: Mapping[str, int] = field(default_factory=dict)  # of the signals taken so far
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_alone: bool = True  # false: beside this execution, branches of the workflow are walked

    @classmethod
    def parse(cls, text: str) -> WorkflowInput:
        """Read it.

        Raises:
            ValueError: the text is not such an object.
        """
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("expected a JSON object")
        try:
            return cls(
                instance_id=_text(document["instance_id"]),
                graph_ref=_text(document["graph_ref"]),
                label=None if document.get("label") is None else _text(document["label"]),
                vars=_texts(document.get("vars")),
                iteration=int(document.get("loop_iteration") or 0),
                node_id=document.get("node_id"),
                results=_texts(document.get("results")),
                bound=tuple(map(_text, document.get("bound") or ())),
                cursors={name: int(seq) for name, seq in (document.get("cursors") or {}).items()},
                settings=document.get("settings") or {},
                is_alone=bool(document.get("is_alone", True)),
            )
        except KeyError as error:
            raise ValueError(f"{error.args[0]} is missing") from error

    def encode(self) -> str:
        document: dict[str, Any] = {
            "instance_id": self.instance_id,
            "label": self.label,
            "vars": dict(self.vars),
            "loop_iteration": self.iteration,
            "graph_ref": self.graph_ref,
        }
        if self.node_id is not None:
            document["node_id"] = self.node_id
        if self.results:
            document["results"] = dict(self.results)
        if self.bound:
            document["bound"] = list(self.bound)
        if self.cursors:
            document["cursors"] = dict(self.cursors)
        if self.settings:
            document["settings"] = dict(self.settings)
        if not self.is_alone:
            document["is_alone"] = False
        return canonical(document)

    @property
    def limits(self) -> ExecutionLimits:
        return ExecutionLimits.parse(self.settings)

    def bindings(self, results: Mapping[str, str], **more: str) -> Bindings:
        """What placeholders refer to; system variables win over the submitter's."""
        system = {"sys_instance_id": self.instance_id, "sys_label": self.label or "", **more}
        return Bindings(variables={**self.vars, **system}, results=results)


def canonical(document: Mapping[str, Any]) -> str:
    """The one text of a document that is recorded and compared in replay."""
    return json.dumps(
        document, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, found {value!r}")
    return value


def _texts(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"expected an object of strings, found {value!r}")
    return {_text(key): _text(item) for key, item in value.items()}
