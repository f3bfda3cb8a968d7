"""The walk over a graph: one case per node kind, with a stack of its own instead of recursion.

A node's visit is a generator. It yields the id of a child to have it visited, or something to wait for,
and gets the result sent back; a break or a failure is thrown into it. So a visit reads like a recursive
function, yet a chain of 256 nodes takes one frame of the interpreter.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, assert_never

from duroxide.context import OrchestrationContext, Queue
from duroxide.engine.futures import DurableFuture
from duroxide.errors import LimitExceeded, TaskError
from duroxide.registry import OrchestrationDef
from pg_durable import leaves
from pg_durable.graph import (
    Break,
    Graph,
    Http,
    HttpMultipart,
    If,
    Join,
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
from pg_durable.leaves import Visit
from pg_durable.outcomes import BranchEnd, BreakLoop, NodeFailed, Result
from pg_durable.pausing import Pause
from pg_durable.references import SubstitutionError
from pg_durable.results import is_true
from pg_durable.schedule import ScheduleError
from pg_durable.scope import Scope, WorkflowInput
from pg_durable.substitute import Bindings

LOST_RACE = "Loop branch cancelled after losing RACE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What all walks of one execution share."""

    ctx: OrchestrationContext
    graph: Graph
    told: WorkflowInput
    subtree: OrchestrationDef[..., Any]  # what runs a loop that is not the root
    pause: Pause
    open_waits: set[str] = field(default_factory=set)  # keys of signals that are waited for


class Walk:
    """One scope, walked by one coroutine.

    Args:
        results: the names bound so far; this walk binds more.
        bound: those of them that are bound by this walk, of which this is not the first iteration.
        cursors: the number of the last signal taken, by name; this walk takes more.
        is_alone: nothing else of the workflow is under way, so nobody needs earlier signals any more.
    """

    def __init__(
        self,
        execution: Execution,
        scope: Scope,
        results: Mapping[str, str],
        cursors: Mapping[str, int],
        *,
        bound: Iterable[str] = (),
        is_alone: bool,
    ) -> None:
        self.execution = execution
        self.is_alone = is_alone
        self.ctx = execution.ctx
        self.graph = execution.graph
        self.told = execution.told
        self.scope = scope
        self.results = dict(results)
        self.bound = set(bound)
        self.cursors = dict(cursors)

    async def run(self, root: NodeId) -> Result:
        """Visit a node with all below it.

        Raises:
            NodeFailed: a node failed.
            BreakLoop: a break found no loop in this walk.
        """
        stack: list[Visit] = [self._visit(root, is_branch=True)]
        resume: Callable[[], Any] = functools.partial(stack[-1].send, None)
        while True:
            try:
                wanted = resume()
            except StopIteration as end:
                stack.pop()
                if not stack:
                    return _result(end.value)
                resume = functools.partial(stack[-1].send, end.value)
            except (NodeFailed, BreakLoop) as error:
                stack.pop()
                if not stack:
                    raise
                resume = functools.partial(stack[-1].throw, error)
            else:
                if isinstance(wanted, str):
                    stack.append(self._visit(NodeId(wanted)))
                    resume = functools.partial(stack[-1].send, None)
                else:
                    resume = await _settled(stack[-1], wanted)

    def _visit(self, node_id: NodeId, *, is_branch: bool = False) -> Visit:
        node = self.graph[node_id]
        yield from self.execution.pause.passed()
        if isinstance(node.kind, Loop) and node_id != self.scope.root:
            return (yield from self._nested_loop(node_id, is_branch=is_branch))
        self.report(node_id, "running")
        try:
            result = yield from self._dispatch(node)
        except BreakLoop as broken:
            self.report(node_id, "completed", result=broken.value)
            raise
        except (NodeFailed, TaskError, SubstitutionError, ScheduleError, LimitExceeded) as error:
            failure = NodeFailed.of(error).at(node_id)
            self.report(node_id, "failed", error=failure.record())
            raise failure from None
        if node.result_name is not None:
            self._bind(node.result_name, result.text)
        if result.source is None:
            self.report(node_id, "completed", result=result.text)
            return Result(result.text, node_id)
        if result.source != node_id:
            self.report(node_id, "completed", result_from=result.source)
        return result

    def _dispatch(self, node: Node) -> Visit:
        match node.kind:
            case Sql() as sql:
                return leaves.sql(self, node, sql)
            case Then(first=first, second=second):
                return self._then(first, second)
            case If() as choice:
                return self._if(choice)
            case Join(branches=branches):
                return self._join(branches)
            case Race(left=left, right=right):
                return self._race(left, right)
            case Loop() as loop:
                return self._loop(loop)
            case Break(value=value):
                return leaves.break_loop(self, node, value)
            case Sleep(seconds=seconds):
                return leaves.sleep(self, node, seconds)
            case WaitSchedule() as schedule:
                return leaves.wait_schedule(self, node, schedule)
            case Signal() as wait:
                return leaves.signal(self, node, wait)
            case Http(config=config) | HttpMultipart(config=config):
                return leaves.http(self, node, config)
            case unknown:
                assert_never(unknown)

    # Node kinds that have children.

    def _then(self, first: NodeId, second: NodeId) -> Visit:
        yield first
        return _result((yield second))

    def _if(self, choice: If) -> Visit:
        match choice.condition:
            case WhenTrue(node=condition):
                holds = is_true((yield condition).text)
            case WhenRows(result_name=name):
                holds = leaves.has_rows(self.results, name)
        return _result((yield choice.then if holds else choice.otherwise))

    def _join(self, branches: tuple[NodeId, ...]) -> Visit:
        ends: list[BranchEnd] = yield self.ctx.gather(*map(self._branch, branches))
        texts = []
        for position, end in enumerate(ends, start=1):
            if end.failure is not None:
                raise end.failure.prefixed(f"JOIN branch {position} failed: ")
            self._merge(end)
            texts.append(end.value().text)
        return Result(f"[{','.join(texts)}]")

    def _race(self, left: NodeId, right: NodeId) -> Visit:
        winner = yield self.ctx.select(self._branch(left), self._branch(right))
        end: BranchEnd = winner.value
        side, loser = ("left", right) if winner.index == 0 else ("right", left)
        yield from self._give_up_waits(self.scope.child_id(loser))
        if isinstance(self.graph[loser].kind, Loop):
            stamp = f"{self.scope.child_id(loser)}::1"
            self.report(loser, "failed", stamp=stamp, error={"message": LOST_RACE})
        if end.failure is not None:
            raise end.failure.prefixed(f"RACE {side} branch failed: ")
        self._merge(end)
        return end.value()

    async def _branch(self, root: NodeId) -> BranchEnd:
        """Walk a branch beside others; it has its own copy of the names."""
        is_loop = isinstance(self.graph[root].kind, Loop)
        scope = self.scope if is_loop else self.scope.branch(root)
        walk = Walk(self.execution, scope, self.results, self.cursors, is_alone=False)
        end = functools.partial(
            BranchEnd, results=walk.results, bound=walk.bound, cursors=walk.cursors
        )
        try:
            return end(result=await walk.run(root))
        except BreakLoop as broken:
            return end(broken=broken)
        except NodeFailed as failure:
            return end(failure=failure)

    def _merge(self, end: BranchEnd) -> None:
        """Take over the names that the branch has bound, not those that it was given."""
        for name in sorted(end.bound):
            self._bind(name, end.results[name])
        self._advance(end.cursors)

    def _bind(self, name: str, text: str) -> None:
        self.results[name] = text
        self.bound.add(name)

    def _advance(self, cursors: Mapping[str, int]) -> None:
        for name, seq in cursors.items():
            self.cursors[name] = max(seq, self.cursors.get(name, 0))

    def _give_up_waits(self, scope_id: str) -> Generator[Any, Any, None]:
        """Remove the waiters of a scope that has lost its race, and what they were sent."""
        for key in sorted(self.execution.open_waits):
            if key.startswith(f"{scope_id}::"):
                yield from leaves.give_up_wait(self, key)

    # Loops.

    def _loop(self, loop: Loop) -> Visit:
        """One iteration; the next one is another execution, so that history stays short."""
        started = self.ctx.now()
        try:
            result: Result = yield loop.body
            if loop.condition is not None and not is_true((yield loop.condition).text):
                return result
        except BreakLoop as broken:
            return Result(broken.value)
        limits = self.told.limits
        coming = self.told.iteration + 1
        if limits.max_loop_iterations and coming >= limits.max_loop_iterations:
            raise NodeFailed(
                f"Loop exceeded maximum iteration count of {limits.max_loop_iterations}. "
                "Use df.break() to exit the loop or restructure the workflow."
            )
        limits.check_carried(self.results)
        rest = limits.min_loop_interval - (self.ctx.now() - started)
        if rest.total_seconds() > 0:
            yield self.ctx.sleep(rest)
        yield from self.execution.pause.passed()
        self._continue(coming)

    def _continue(self, iteration: int) -> NoReturn:
        told = replace(
            self.told,
            iteration=iteration,
            results=self.results,
            bound=sorted(self.bound),
            cursors=self.cursors,
        )
        self.ctx.continue_as_new(told.encode())

    def _nested_loop(self, node_id: NodeId, *, is_branch: bool) -> Visit:
        """A loop that is not the root runs as a child, so that what precedes it is not repeated."""
        told = replace(
            self.told,
            node_id=node_id,
            iteration=0,
            results=self.results,
            bound=(),
            cursors=self.cursors,
            is_alone=self.is_alone,
        )
        child_id = self.scope.child_id(node_id)
        child = self.ctx.call_child(
            self.execution.subtree,
            told.encode(),
            id=child_id,
            version=self.execution.subtree.version,
        )
        self.execution.pause.child_began(child_id)
        try:
            envelope = json.loads((yield child))
        except TaskError as error:
            prefix = "" if is_branch else "Loop sub-orchestration failed: "
            raise NodeFailed.of(error).prefixed(prefix) from None
        finally:
            self.execution.pause.child_ended(child_id)
        for name, text in envelope["results"].items():
            self._bind(name, text)
        self._advance(envelope["cursors"])
        return Result(envelope["result"], node_id)

    # What leaves need.

    def bindings(self, node: Node) -> Bindings:
        """What placeholders in this node's texts refer to."""
        return self.told.bindings(
            self.results,
            sys_node_id=node.id,
            sys_submitted_by=node.submitted_by,
            sys_database=node.database or "",
            sys_iteration=str(self.told.iteration),
            sys_execution=self.scope.stamp,
            sys_now=self.ctx.now().isoformat(),
        )

    def mailbox(self, key: str) -> DurableFuture[str]:
        """The next message of a queue of this execution, as its exact text."""
        return Queue(self.ctx.journal, key, str).get()

    def report(
        self, node_id: NodeId, status: str, *, stamp: str | None = None, **facts: Any
    ) -> None:
        """A status of a node, written in the commit of this turn; nothing in replay."""
        if self.ctx.is_replaying:
            return
        record = {"node": node_id, "status": status, "stamp": stamp or self.scope.stamp, **facts}
        self.ctx.project(json.dumps(record, ensure_ascii=False, separators=(",", ":")))


async def _settled(visit: Visit, awaitable: Awaitable[Any]) -> Callable[[], Any]:
    """Wait, and return how the visit goes on."""
    try:
        value = await awaitable
    except (TaskError, LimitExceeded) as error:
        return functools.partial(visit.throw, error)
    return functools.partial(visit.send, value)


def _result(value: Any) -> Result:
    assert isinstance(value, Result)
    return value
