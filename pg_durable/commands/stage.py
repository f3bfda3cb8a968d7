"""What the demo stands on: a session in which SQL is typed, a worker, and a terminal to show both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg.rows import class_row
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.syntax import Syntax

from pg_durable.commands.graphview import MARKS, Node, mark, tree_of
from pg_durable.commands.problems import CommandFailed
from pg_durable.commands.worker_process import WorkerProcess, ended

PATIENCE_S = 30.0  # for each wait; none should take more than a few
POLL_S = 0.04
INDENT = (0, 0, 0, 3)  # top, right, bottom, left
TERMINAL = ("completed", "failed", "cancelled")

NODES = """
select n.node_id, n.node_type, n.query, n.result_name, n.left_node, n.right_node,
       coalesce(n.inferred_status, n.status) as status, n.result
from df.instance_nodes(%s) as n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """An instance at one moment."""

    status: str
    nodes: Sequence[Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A place to type SQL and to watch what becomes of it."""

    console: Console
    session: psycopg.Connection[tuple[object, ...]]
    worker: WorkerProcess

    def heading(self, words: str) -> None:
        self.console.print(f"\n[bold]{escape(words)}[/]\n")

    def say(self, words: str) -> None:
        self.console.print(_indented(escape(words)))

    def done(self, words: str, status: str = "completed") -> None:
        self.console.print(mark(status, self.console), escape(words), soft_wrap=True)

    def start(self, statement: LiteralString) -> str:
        """Show a statement that starts a workflow, run it as it stands, return the instance's id."""
        syntax = Syntax(statement, "postgresql", theme="ansi_dark", background_color="default")
        self.console.print(_indented(syntax))
        instance = str(self.value(statement))
        self.console.print(_indented(f"[dim]returns[/] [bold]{escape(instance)}[/]\n"))
        return instance

    def value(self, statement: LiteralString) -> object:
        """Return the only value of the only row."""
        row = self.session.execute(statement).fetchone()
        assert row is not None
        return row[0]

    def watch(self, instance: str, words: str, until: Callable[[Workflow], bool]) -> Workflow:
        """Show the graph, live in a terminal, until it is as wanted.

        Args:
            words: what this waits for, for the message if it does not happen.

        Raises:
            CommandFailed: it did not become so in time, or the worker ended by itself.
        """
        deadline = time.monotonic() + PATIENCE_S
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            while not until(workflow := self._look(instance)):
                if self.console.is_terminal:
                    live.update(self._tree(instance, workflow), refresh=True)
                if not self.worker.is_running:
                    raise self._gave_up(f"the worker {ended(self.worker.exit_status)}")
                if time.monotonic() > deadline:
                    raise self._gave_up(f"{words}: not so after {PATIENCE_S:g} s")
                time.sleep(POLL_S)
        self.console.print(self._tree(instance, workflow))
        self.console.print()
        return workflow

    def _look(self, instance: str) -> Workflow:
        status = self.session.execute("select df.status(%s)", [instance]).fetchone()
        assert status is not None
        with self.session.cursor(row_factory=class_row(Node)) as cursor:
            nodes = cursor.execute(NODES, [instance]).fetchall()
        return Workflow(status=str(status[0]), nodes=nodes)

    def _tree(self, instance: str, workflow: Workflow) -> Padding:
        _, _, style = MARKS.get(workflow.status, MARKS["pending"])
        title = f"[bold]{escape(instance)}[/] [{style}]{escape(workflow.status)}[/]"
        return _indented(tree_of(title, workflow.nodes, self.console))

    def _gave_up(self, what: str) -> CommandFailed:
        log = self.worker.log_tail()
        said = "".join(f"\n    {line}" for line in log.splitlines())
        return CommandFailed(what + (f"; the worker's last words:{said}" if said else ""))


def _indented(what: RenderableType) -> Padding:
    return Padding(what, INDENT, expand=False)


def is_over(workflow: Workflow) -> bool:
    """Say whether an instance has ended, in whichever way."""
    return workflow.status in TERMINAL


def statuses(workflow: Workflow, node_type: str) -> list[str]:
    """Return the statuses of the nodes of one kind, in no particular order."""
    return [node.status for node in workflow.nodes if node.node_type == node_type]
