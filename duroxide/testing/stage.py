"""Instances in memory, moved one turn at a time: what a runtime and a store do, without either.

Everything is explicit, so that a test decides what arrives when, in which batches, how often, and
which turns are lost before their commit. `World` is the comfortable way to use it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

from duroxide import work
from duroxide.engine.ending import fail_execution
from duroxide.engine.run import Guard, Run
from duroxide.engine.turn import Ignored, StartInfo, TurnResult
from duroxide.failures import Failure, orchestration_failure
from duroxide.history import Event
from duroxide.limits import Limits
from duroxide.registry import Registry
from duroxide.runtime.guard import Guard as AsyncioGuard
from duroxide.state import (
    ClearKeyValue,
    ClearKeyValues,
    ExecutionStatus,
    KeyValue,
    KeyValueChange,
    SetKeyValue,
)
from duroxide.testing.clocks import ManualClock

ActivityKey: TypeAlias = tuple[str, int, int]
"""Instance, execution and event id: what names an activity."""


@dataclass(slots=True)
class Instance:
    """One instance, as a store would have it."""

    instance_id: str
    executions: list[list[Event]] = field(default_factory=list)  # the last one is current
    inbox: list[work.OrchestratorItem] = field(default_factory=list)
    status: ExecutionStatus = ExecutionStatus.RUNNING
    output: str | None = None
    custom_status: str | None = None
    custom_status_version: int = 0
    key_values: dict[str, KeyValue] = field(default_factory=dict)
    base_key_values: dict[str, KeyValue] = field(default_factory=dict)  # as the execution began
    parent_instance: str | None = None
    ignored: list[Ignored] = field(default_factory=list)
    projections: list[str] = field(default_factory=list)

    @property
    def history(self) -> list[Event]:
        """Of the current execution; empty before the first turn."""
        return self.executions[-1] if self.executions else []

    @property
    def ended(self) -> bool:
        return self.status.is_terminal

    def change_key_values(self, changes: Sequence[KeyValueChange]) -> None:
        for change in changes:
            match change:
                case SetKeyValue(key=key, value=value, updated_at_ms=at):
                    self.key_values[key] = KeyValue(value=value, updated_at_ms=at)
                case ClearKeyValue(key=key):
                    self.key_values.pop(key, None)
                case ClearKeyValues():
                    self.key_values.clear()


class Stage:
    """All instances, the timers that are not due, and the activities that nobody has performed.

    Args:
        cache_size: how many executions stay in memory between their turns; 0: every turn replays.
        on_turn: told of each committed turn.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        clock: ManualClock | None = None,
        cache_size: int = 0,
        limits: Limits | None = None,
        guard: Guard | None = None,
        on_turn: Callable[[Instance, TurnResult], None] | None = None,
    ) -> None:
        self.registry = registry
        self.clock = clock or ManualClock()
        self.instances: dict[str, Instance] = {}
        self.activities: dict[ActivityKey, work.ActivityExecute] = {}
        self.prepared: Callable[[str, str], object] = lambda name, text: None
        self._timers: list[tuple[int, int, work.TimerDue]] = []
        self._gone_timers: set[ActivityKey] = set()
        self._cache: dict[str, Run] = {}
        self._cache_size = cache_size
        self._limits = limits or Limits()
        self._guard = guard or AsyncioGuard()
        self._on_turn = on_turn
        self._sent = 0

    # Messages.

    def send(self, item: work.OrchestratorItem) -> None:
        """Put a message at the end of its instance's inbox; a timer waits until it is due."""
        if isinstance(item, work.TimerDue) and item.fire_at_ms > self.clock.now_ms():
            self._sent += 1
            heapq.heappush(self._timers, (item.fire_at_ms, self._sent, item))
        else:
            self.instance(work.target(item)).inbox.append(item)

    def instance(self, instance_id: str) -> Instance:
        found = self.instances.get(instance_id)
        if found is None:
            found = self.instances[instance_id] = Instance(instance_id)
        return found

    def next_timer_ms(self) -> int | None:
        """When the next timer is due."""
        while self._timers and _timer_key(self._timers[0][2]) in self._gone_timers:
            self._gone_timers.discard(_timer_key(heapq.heappop(self._timers)[2]))
        return self._timers[0][0] if self._timers else None

    def deliver_due_timers(self) -> None:
        """Put the timers that are due into their inboxes, the earliest first."""
        while (due := self.next_timer_ms()) is not None and due <= self.clock.now_ms():
            item = heapq.heappop(self._timers)[2]
            self.instance(item.instance).inbox.append(item)

    # Activities.

    def finish(self, key: ActivityKey, result: str | Failure) -> None:
        """An activity ended; its row goes and the completion is on its way.

        Raises:
            KeyError: there is no such activity: it ended before, or was cancelled.
        """
        task = self.activities.pop(key)
        if isinstance(result, Failure):
            self.send(
                work.ActivityFailure(
                    instance=task.instance,
                    execution_id=task.execution_id,
                    id=task.id,
                    details=result,
                )
            )
        else:
            self.send(
                work.ActivityCompletion(
                    instance=task.instance,
                    execution_id=task.execution_id,
                    id=task.id,
                    result=result,
                )
            )

    # Turns.

    def runnable(self) -> list[str]:
        """Instances that have something to do, in the order in which they came to be."""
        return [name for name, instance in self.instances.items() if _can_run(instance)]

    def turn(self, instance_id: str, take: int | None = None, *, commit: bool = True) -> TurnResult:
        """Perform one turn with the first `take` messages (None: all).

        Args:
            commit: False loses the turn as a crash before the commit would: nothing has changed.

        Raises:
            NonDeterminismError: the code does not repeat its history; nothing has changed.
        """
        instance = self.instance(instance_id)
        batch = instance.inbox[: len(instance.inbox) if take is None else take]
        begins = _beginning(instance, batch)
        inbound = [item for item in batch if not isinstance(item, _BEGINNINGS)]
        run = self._begin(instance, begins) if begins is not None else self._resume(instance)
        if run is None:
            return self._drop(instance, batch)
        try:
            result = run.apply(inbound, self.clock.now_ms())
        except BaseException:
            run.park()
            raise
        if not commit:
            run.park()
            return result
        staying = inbound[len(inbound) - result.unapplied :]
        self._remove(instance, batch, staying, begins)
        if begins is not None:
            self._new_execution(instance, begins)
        self._commit(instance, result)
        self._keep(instance_id, run)
        return result

    def fail(self, instance_id: str, failure: Failure) -> TurnResult:
        """End an instance from outside, as a runtime ends one that is poisoned."""
        instance = self.instance(instance_id)
        self.evict(instance_id)
        result = fail_execution(instance.history, failure, now_ms=self.clock.now_ms())
        self._commit(instance, result)
        return result

    def evict(self, instance_id: str) -> None:
        """Forget the execution in memory; its next turn replays."""
        run = self._cache.pop(instance_id, None)
        if run is not None:
            run.park()

    def close(self) -> None:
        """Forget all executions in memory."""
        for instance_id in list(self._cache):
            self.evict(instance_id)

    def _begin(
        self, instance: Instance, start: work.StartOrchestration | work.ContinueAsNew
    ) -> Run:
        definition = self.registry.orchestration(start.orchestration, start.version)
        if definition is None:
            raise LookupError(
                f"orchestration {start.orchestration!r} (version {start.version or 'latest'}) is not "
                "registered; give its definition to the world"
            )
        execution_id = len(instance.executions) + 1
        is_next = isinstance(start, work.ContinueAsNew)
        info = StartInfo(
            instance_id=instance.instance_id,
            execution_id=execution_id,
            name=start.orchestration,
            version=definition.version,
            input=start.input,
            seed=sha256(f"{instance.instance_id}/{execution_id}".encode()).hexdigest()[:32],
            parent_instance=start.parent_instance,
            parent_id=start.parent_id,
            parent_execution_id=start.parent_execution_id,
            carry_forward_events=start.carry_forward_events
            if isinstance(start, work.ContinueAsNew)
            else (),
            initial_custom_status=start.initial_custom_status
            if isinstance(start, work.ContinueAsNew)
            else None,
            limits=self._limits,
        )
        return Run.start(
            definition,
            info,
            now_ms=self.clock.now_ms(),
            key_values=instance.key_values if is_next else {},
            prepared=self.prepared(start.orchestration, start.input),
            guard=self._guard,
        )

    def _resume(self, instance: Instance) -> Run | None:
        if not instance.executions or instance.status is not ExecutionStatus.RUNNING:
            return None
        cached = self._cache.pop(instance.instance_id, None)
        if cached is not None:
            return cached
        started: Any = instance.history[0].kind
        definition = self.registry.orchestration(started.name, started.version)
        if definition is None:
            raise LookupError(f"orchestration {started.name}@{started.version} is not registered")
        return Run.replay(
            definition,
            instance.history,
            key_values=instance.base_key_values,
            prepared=self.prepared(started.name, started.input),
            guard=self._guard,
        )

    def _drop(self, instance: Instance, batch: Sequence[work.OrchestratorItem]) -> TurnResult:
        """The instance has ended, or has not begun: what came changes nothing."""
        if instance.ended:
            for item in batch:
                self._refuse_child(item, instance)
            del instance.inbox[: len(batch)]
        return TurnResult(events=(), status=instance.status, output=instance.output)

    def _refuse_child(self, item: work.OrchestratorItem, taken: Instance) -> None:
        if not isinstance(item, work.StartOrchestration) or item.parent_instance is None:
            return
        suffix = " and is terminal" if taken.ended else ""
        self.send(
            work.ChildFailed(
                parent_instance=item.parent_instance,
                parent_execution_id=item.parent_execution_id or 1,
                parent_id=item.parent_id or 0,
                details=orchestration_failure(
                    f"sub-orchestration instance id '{taken.instance_id}' already exists{suffix}"
                ),
            )
        )

    def _remove(
        self,
        instance: Instance,
        batch: Sequence[work.OrchestratorItem],
        staying: Sequence[work.OrchestratorItem],
        begins: work.StartOrchestration | work.ContinueAsNew | None,
    ) -> None:
        instance.inbox[: len(batch)] = staying
        started: Any = begins or instance.history[0].kind
        for item in batch:
            is_repeat = isinstance(item, work.StartOrchestration) and (
                item.parent_instance,
                item.parent_id,
                item.parent_execution_id,
            ) == (started.parent_instance, started.parent_id, started.parent_execution_id)
            if not is_repeat:
                self._refuse_child(item, instance)

    def _new_execution(
        self, instance: Instance, start: work.StartOrchestration | work.ContinueAsNew
    ) -> None:
        instance.executions.append([])
        instance.status = ExecutionStatus.RUNNING
        instance.parent_instance = start.parent_instance
        instance.base_key_values = dict(instance.key_values)

    def _commit(self, instance: Instance, result: TurnResult) -> None:
        instance.history.extend(result.events)
        instance.status, instance.output = result.status, result.output
        instance.ignored.extend(result.ignored)
        instance.projections.extend(result.projections)
        instance.change_key_values(result.key_values)
        if result.custom_status is not None:
            instance.custom_status = result.custom_status.status
            instance.custom_status_version += 1
        execution_id = len(instance.executions)
        for event_id in result.cancelled_activities:
            self.activities.pop((instance.instance_id, execution_id, event_id), None)
        for event_id in result.cancelled_timers:
            self._gone_timers.add((instance.instance_id, execution_id, event_id))
        for task in result.activities:
            self.activities[task.instance, task.execution_id, task.id] = task
        for message in result.messages:
            self.send(message)
        if self._on_turn is not None:
            self._on_turn(instance, result)

    def _keep(self, instance_id: str, run: Run) -> None:
        if run.ended:
            run.park()
            return
        self._cache[instance_id] = run
        while len(self._cache) > self._cache_size:
            self.evict(next(iter(self._cache)))


_BEGINNINGS = (work.StartOrchestration, work.ContinueAsNew)


def _timer_key(item: work.TimerDue) -> ActivityKey:
    return item.instance, item.execution_id, item.id


def _beginning(
    instance: Instance, batch: Sequence[work.OrchestratorItem]
) -> work.StartOrchestration | work.ContinueAsNew | None:
    """The message in the batch that begins an execution; the first one counts."""
    for item in batch:
        if isinstance(item, work.ContinueAsNew):
            if instance.status is ExecutionStatus.CONTINUED_AS_NEW:
                return item
        elif isinstance(item, work.StartOrchestration) and not instance.executions:
            return item
    return None


def _can_run(instance: Instance) -> bool:
    if not instance.inbox:
        return False
    if instance.executions and instance.status is not ExecutionStatus.CONTINUED_AS_NEW:
        return True
    return _beginning(instance, instance.inbox) is not None
