"""A scripted world for tests of orchestrations: no database, no threads, and time that you move.

    world = World(checkout, reserve)
    world.answer("charge", raises=ValueError("card declined"))
    order = world.start(checkout, Order("x", 3))
    world.advance(hours=1)
    assert order.output == "expired"
    order.assert_replays()

Activities are performed at once, in the order in which they were asked for: the registered function if
there is no script for it. Every turn replays the whole history, so a test finds code that is not
deterministic without doing anything for it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from duroxide import work
from duroxide.errors import ActivityError
from duroxide.failures import Failure, activity_failure
from duroxide.history import Event
from duroxide.limits import Limits
from duroxide.payload import JSON
from duroxide.registry import ActivityDef, OrchestrationDef, Registry
from duroxide.sdk_context import KV_SYSCALL
from duroxide.signatures import encode_positional
from duroxide.state import ExecutionStatus, KeyValue
from duroxide.storable import text_of
from duroxide.testing.clocks import ManualClock
from duroxide.testing.replay import assert_replays, store_key_values
from duroxide.testing.stage import ActivityKey, Instance, Stage

HOLD: Any = object()
"""As an answer: the activity stays unfinished until `World.finish` or `World.fail`."""

_MANY_TURNS = 100_000


class Handle:
    """One instance, as a client would see it, and its history."""

    def __init__(self, world: World, instance_id: str) -> None:
        self._world = world
        self.instance_id = instance_id

    @property
    def _instance(self) -> Instance:
        return self._world.stage.instance(self.instance_id)

    @property
    def status(self) -> str:
        """`Running`, `Completed` or `Failed`."""
        status = self._instance.status
        if status is ExecutionStatus.CONTINUED_AS_NEW:
            status = ExecutionStatus.RUNNING
        return status.value

    @property
    def output(self) -> Any:
        """What it returned, decoded as JSON.

        Raises:
            AssertionError: it has not completed; the message says what it does instead.
        """
        instance = self._instance
        assert instance.status is ExecutionStatus.COMPLETED, (
            f"{self.instance_id} is {self.status}: {instance.output}"
        )
        return JSON.decode(instance.output or "null")

    @property
    def error(self) -> str | None:
        """The text of its failure; None if it has not failed."""
        instance = self._instance
        return instance.output if instance.status is ExecutionStatus.FAILED else None

    @property
    def custom_status(self) -> str | None:
        return self._instance.custom_status

    @property
    def key_values(self) -> dict[str, str]:
        return {k: v.value for k, v in sorted(self._instance.key_values.items())}

    @property
    def history(self) -> Sequence[Event]:
        """Of the current execution."""
        return tuple(self._instance.history)

    @property
    def executions(self) -> Sequence[Sequence[Event]]:
        """The histories of all executions, the first one first."""
        return tuple(tuple(events) for events in self._instance.executions)

    def raise_event(self, name: str, data: Any = None) -> None:
        text = JSON.encode(data)
        self._send(work.ExternalRaised(instance=self.instance_id, name=name, data=text))

    def enqueue(self, queue: str, data: Any = None) -> None:
        text = JSON.encode(data)
        self._send(work.QueueMessage(instance=self.instance_id, name=queue, data=text))

    def cancel(self, reason: str = "") -> None:
        self._send(work.CancelInstance(instance=self.instance_id, reason=reason))

    def _send(self, item: work.OrchestratorItem) -> None:
        self._world.stage.send(item)
        self._world.settle()

    def assert_replays(self, definition: OrchestrationDef[..., Any] | None = None) -> None:
        """The history of every execution replays, with this code or (None) with the registered one.

        Raises:
            NonDeterminismError: it does not; the message shows both sides.
        """
        values: dict[str, KeyValue] = {}
        for events in self.executions:
            started: Any = events[0].kind
            code = definition or self._world.registry.orchestration(started.name, started.version)
            assert code is not None
            assert_replays(events, code, key_values=dict(values))
            store_key_values(values, events)


class World:
    """Where orchestrations run in a test.

    Args:
        definitions: orchestrations (children too) and activities that run as they are.
        clock: stands still until `advance`.
        limits: of all executions.
    """

    def __init__(
        self,
        *definitions: OrchestrationDef[..., Any] | ActivityDef[..., Any],
        clock: ManualClock | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.registry = Registry().add(*definitions)
        self.clock = clock or ManualClock()
        self.stage = Stage(self.registry, clock=self.clock, limits=limits)
        self.calls: list[tuple[str, Any]] = []
        """(name, arguments decoded as JSON) of all activities performed or held, in order."""
        self.answer_in_turn: Callable[[list[ActivityKey]], ActivityKey] | None = None
        """Picks which open activity is answered next; None: all, in the order they were asked for."""
        self._scripts: dict[str, Callable[..., Any]] = {}
        self._held: dict[ActivityKey, None] = {}
        self._started = 0

    # The script.

    def answer(
        self,
        activity: ActivityDef[..., Any] | str,
        does: Callable[..., Any] | None = None,
        *,
        returns: Any = None,
        raises: Exception | None = None,
    ) -> None:
        """Script an activity: a function of its arguments, a value, an error, or `HOLD`.

        A function may raise, and may return `HOLD`. A later script takes the place of an earlier one.
        """
        name = activity if isinstance(activity, str) else activity.name

        def fixed(*args: Any, **kwargs: Any) -> Any:
            if raises is not None:
                raise raises
            return returns

        self._scripts[name] = does or fixed

    def start(
        self,
        orchestration: OrchestrationDef[..., Any] | str,
        *args: Any,
        instance_id: str | None = None,
        version: str | None = None,
    ) -> Handle:
        """Start an instance and let it run until it waits."""
        self._started += 1
        given = instance_id or f"instance-{self._started}"
        if isinstance(orchestration, str):
            name, text = orchestration, encode_positional(args)
        else:
            name, text = orchestration.name, orchestration.encode_input(args, {})
            if self.registry.orchestration(name, orchestration.version) is None:
                self.registry.add(orchestration)
        self.stage.send(
            work.StartOrchestration(instance=given, orchestration=name, input=text, version=version)
        )
        self.settle()
        return Handle(self, given)

    def handle(self, instance_id: str) -> Handle:
        """An instance by its id, a child's for instance."""
        if instance_id not in self.stage.instances:
            known = ", ".join(self.stage.instances) or "none"
            raise LookupError(f"there is no instance {instance_id!r}; there are: {known}")
        return Handle(self, instance_id)

    def advance(self, delay: float | timedelta = 0, **units: float) -> None:
        """Move the clock (`advance(30)`, `advance(hours=1)`), stopping at each timer on the way."""
        span = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        until_ms = self.clock.now_ms() + (span + timedelta(**units)) // timedelta(milliseconds=1)
        while (due := self.stage.next_timer_ms()) is not None and due <= until_ms:
            self.clock.advance(max(0, due - self.clock.now_ms()))
            self.settle()
        self.clock.advance(until_ms - self.clock.now_ms())
        self.settle()

    # Held activities.

    @property
    def held(self) -> list[ActivityKey]:
        """Activities that wait for `finish` or `fail`, oldest first."""
        return [key for key in self._held if key in self.stage.activities]

    def finish(self, key: ActivityKey, result: Any = None) -> None:
        """End a held activity."""
        self.stage.finish(key, JSON.encode(result))
        self.settle()

    def fail(self, key: ActivityKey, error: Exception) -> None:
        task = self.stage.activities[key]
        self.stage.finish(key, failure_from(task.name, error))
        self.settle()

    # The machinery.

    def settle(self) -> None:
        """Let everything run until all wait for the clock, for a held activity, or for an event.

        Raises:
            RuntimeError: it never comes to rest.
        """
        for _ in range(_MANY_TURNS):
            self.stage.deliver_due_timers()
            todo = [k for k in self.stage.activities if k not in self._held]
            runnable = self.stage.runnable()
            if not todo and not runnable:
                return
            for instance_id in runnable:
                self.stage.turn(instance_id)
            if self.answer_in_turn is not None and todo:
                todo = [self.answer_in_turn(todo)]
            for key in todo:
                if key in self.stage.activities:
                    self._perform(key)
        raise RuntimeError(f"the world did not come to rest in {_MANY_TURNS} rounds")

    def _perform(self, key: ActivityKey) -> None:
        task = self.stage.activities[key]
        self.calls.append((task.name, JSON.decode(task.input)))
        definition = self.registry.activity(task.name)
        does = self._scripts.get(task.name)
        if does is None and task.name == KV_SYSCALL:
            self.stage.finish(key, self._read_key_value(task.input))
            return
        if does is None and definition is None:
            raise LookupError(
                f"activity {task.name!r} is neither registered nor scripted; give its definition to "
                f"the world, or say world.answer({task.name!r}, ...)"
            )
        try:
            result = _call(definition, does, task)
        except Exception as error:
            self.stage.finish(key, failure_from(task.name, error))
            return
        if result is None:
            self._held[key] = None
        else:
            self.stage.finish(key, result)

    def _read_key_value(self, text: str) -> str:
        wanted = JSON.decode(text)
        instance = self.stage.instances.get(wanted["instance_id"])
        found = None if instance is None else instance.key_values.get(wanted["key"])
        return JSON.encode(None if found is None else found.value)


def _call(
    definition: ActivityDef[..., Any] | None,
    does: Callable[..., Any] | None,
    task: work.ActivityExecute,
) -> str | None:
    """The result's text; None to hold it."""
    args, kwargs = _arguments(definition, task.input)
    if does is None:
        assert definition is not None
        does = definition.fn
        if definition.takes_context:
            args = (_activity_context(task), *args)
    value = does(*args, **kwargs)
    if inspect.isawaitable(value):
        value = asyncio.run(_awaited(value))
    if value is HOLD:
        return None
    return JSON.encode(value) if definition is None else definition.encode_result(value)


def _arguments(
    definition: ActivityDef[..., Any] | None, text: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if definition is not None:
        return definition.decode_arguments(text)
    value = JSON.decode(text)
    return ((), {}) if value is None else ((value,), {})


def _activity_context(task: work.ActivityExecute) -> SimpleNamespace:
    return SimpleNamespace(
        instance_id=task.instance,
        execution_id=task.execution_id,
        activity_id=task.id,
        activity_name=task.name,
        orchestration_name=task.orchestration,
        orchestration_version=task.version,
        tag=lambda: task.tag,
        session_id=task.session_id,
        attempt=1,
        is_cancelled=lambda: False,
    )


async def _awaited(value: Any) -> Any:
    return await value


def failure_from(name: str, error: Exception) -> Failure:
    """What a worker would record of an activity that raised."""
    kind = type(error).__name__
    retryable = error.retryable if isinstance(error, ActivityError) else True
    return activity_failure(
        f"Activity '{name}' call failed: {kind}: {text_of(error)}",
        error_type=kind,
        retryable=retryable,
        data=error.data if isinstance(error, ActivityError) else None,
    )
