"""A program against a hostile world: delays, duplicates, batches of any size, crashes, lost workers.

All decisions come from one seed, so that a failure can be run again; they depend on nothing but the
state of the stage, so that two plays that behave alike are put through the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from duroxide import history, work
from duroxide.engine.turn import StartInfo, TurnResult
from duroxide.failures import activity_failure
from duroxide.history import Event
from duroxide.limits import Limits
from duroxide.registry import Registry
from duroxide.state import ExecutionStatus, KeyValue
from duroxide.testing.clocks import ManualClock
from duroxide.testing.stage import Instance, Stage
from tests.property.engine.interpret import NATIVE, Probe, registry
from tests.property.engine.programs import EVENTS, QUEUES, Program

MOVES = 60
COMPLETIONS = (
    work.ActivityCompletion,
    work.ActivityFailure,
    work.TimerDue,
    work.ChildCompleted,
    work.ChildFailed,
)
"""What a store may deliver again after the turn that recorded it."""


@dataclass
class Recording:
    """One execution of one instance as it was played, with what it began with."""

    name: str
    events: list[Event]
    key_values: dict[str, KeyValue]
    trace: list[tuple[str, Any]]
    logged: list[str]
    crashed_or_evicted: bool


@dataclass
class Play:
    """A finished play."""

    stage: Stage
    registry: Registry
    sent: dict[str, list[str]]  # queue -> data sent to the root, in order
    recordings: list[Recording] = field(default_factory=list)

    @property
    def root(self) -> Instance:
        return self.stage.instance("root")

    def histories(self) -> dict[str, list[list[Event]]]:
        return {name: i.executions for name, i in self.stage.instances.items() if i.executions}


class Player:
    """Makes the moves."""

    def __init__(
        self, program: Program, seed: int, style: str, cache_size: int, *, crashes: bool = True
    ) -> None:
        self.crashes = crashes
        self.rng = random.Random(seed)
        self.evictions = random.Random(seed + 1)  # of its own: a cache must make no difference
        self.program = program
        self.registry = registry(program, style)
        self.stage = Stage(
            self.registry,
            clock=ManualClock(1_000_000),
            cache_size=cache_size,
            on_turn=self._committed,
        )
        self.stage.prepared = self._prepare
        self.sent: dict[str, list[str]] = {name: [] for name in QUEUES}
        self.counts: dict[str, int] = {}
        self.probes: dict[tuple[str, int], list[Probe]] = {}
        self.bases: dict[tuple[str, int], dict[str, KeyValue]] = {}
        self.watchers: list[Callable[[TurnResult], None]] = []
        self._latest: Probe | None = None

    def _prepare(self, name: str, text: str) -> Probe:
        self._latest = Probe()
        return self._latest

    def _committed(self, instance: Instance, result: TurnResult) -> None:
        for watcher in self.watchers:
            watcher(result)
        key = (instance.instance_id, len(instance.executions))
        self.bases.setdefault(key, dict(instance.base_key_values))
        probes = self.probes.setdefault(key, [])
        if self._latest is not None:
            probes.append(self._latest)
            self._latest = None

    # Moves.

    def play(self) -> Play:
        self.stage.send(
            work.StartOrchestration(
                instance="root", orchestration="root", input=str(self.program.continues)
            )
        )
        for _ in range(MOVES):
            if self.root.ended and not self.stage.activities and not self.stage.runnable():
                break
            self._move()
        self._drain()
        self.stage.close()
        play = Play(self.stage, self.registry, self.sent)
        play.recordings = list(self._recordings())
        return play

    @property
    def root(self) -> Instance:
        return self.stage.instance("root")

    def _move(self) -> None:
        self.stage.deliver_due_timers()
        moves = [self._advance, self._raise, self._enqueue]
        if self.stage.runnable():
            moves += [self._turn] * 6 + [self._crash]
        if self.stage.activities:
            moves += [self._finish] * 5
        self.rng.choice(moves)()
        if self.evictions.random() < 0.2:
            self.stage.evict(self.evictions.choice(list(self.stage.instances)))

    def _turn(self) -> None:
        instance = self.rng.choice(self.stage.runnable())
        take = self.rng.randint(1, len(self.stage.instance(instance).inbox))
        self.stage.turn(instance, take)

    def _crash(self) -> None:
        """A worker dies before its commit, another one after it, which is then told everything again."""
        name = self.rng.choice(self.stage.runnable())
        self.stage.evict(name)
        if not self.crashes:
            self.stage.turn(name)
            return
        instance = self.stage.instance(name)
        batch = list(instance.inbox)
        lost = self.stage.turn(name, commit=False)
        self._latest = None
        again = self.stage.turn(name)
        assert lost.events == again.events
        assert (lost.activities, lost.messages) == (again.activities, again.messages)
        self.stage.evict(name)
        waiting, instance.inbox = instance.inbox, [m for m in batch if isinstance(m, COMPLETIONS)]
        repeated = self.stage.turn(name, commit=False)
        instance.inbox, self._latest = waiting, None
        assert (repeated.events, repeated.activities, repeated.messages) == ((), (), ())

    def _finish(self) -> None:
        key = self.rng.choice(list(self.stage.activities))
        text = self.stage.activities[key].input
        if self.rng.random() < 0.25:
            failure = activity_failure(
                f"Activity 'act' call failed: ValueError: {text}", error_type="ValueError"
            )
            self.stage.finish(key, failure)
        else:
            self.stage.finish(key, text)

    def _advance(self) -> None:
        self.stage.clock.advance(self.rng.choice((0, 1, 40, 200)))

    def _raise(self) -> None:
        name = self.rng.choice(EVENTS)
        self.stage.send(work.ExternalRaised(instance="root", name=name, data=self._data(name)))

    def _enqueue(self) -> None:
        name = self.rng.choice(QUEUES)
        data = self._data(name)
        if not self.root.ended:
            self.sent[name].append(data)
        self.stage.send(work.QueueMessage(instance="root", name=name, data=data))

    def _data(self, name: str) -> str:
        self.counts[name] = self.counts.get(name, 0) + 1
        return f'"{name}-{self.counts[name]}"'

    def _drain(self) -> None:
        """Give everything that can be waited for, then cancel what still waits."""
        for round_number in range(200):
            self.stage.deliver_due_timers()
            for key in list(self.stage.activities):
                self.stage.finish(key, self.stage.activities[key].input)
            for name in self.stage.runnable():
                self.stage.turn(name)
            if not self.stage.runnable() and not self.stage.activities:
                due = self.stage.next_timer_ms()
                if due is not None:
                    self.stage.clock.advance(max(0, due - self.stage.clock.now_ms()))
                elif not self._feed(round_number):
                    return
        still = {n: (i.inbox, i.history[-3:]) for n, i in self.stage.instances.items()}
        raise AssertionError(f"the play did not come to an end: {still}")

    def _feed(self, round_number: int) -> bool:
        waiting = [n for n, i in self.stage.instances.items() if i.executions and not i.ended]
        if not waiting:
            return False
        for name in waiting:
            if round_number > 100 or name != "root":
                self.stage.send(work.CancelInstance(instance=name, reason="end of play"))
        if "root" in waiting:
            self._raise()
            self._enqueue()
        return True

    def _recordings(self) -> list[Recording]:
        found = []
        for (name, number), probes in self.probes.items():
            events = self.stage.instance(name).executions[number - 1]
            started = events[0].kind
            assert isinstance(started, history.OrchestrationStarted)
            found.append(
                Recording(
                    started.name,
                    events,
                    self.bases[name, number],
                    max((p.trace for p in probes), key=len, default=[]),
                    [line for p in probes for line in p.logged],
                    crashed_or_evicted=False,
                )
            )
        return found


def play(
    program: Program,
    seed: int,
    *,
    style: str = NATIVE,
    cache_size: int = 0,
    crashes: bool = True,
) -> Play:
    """Play a program to its end."""
    return Player(program, seed, style, cache_size, crashes=crashes).play()


# From a history back to what caused it.


def start_info(events: Sequence[Event]) -> StartInfo:
    first = events[0]
    started = first.kind
    assert isinstance(started, history.OrchestrationStarted)
    return StartInfo(
        instance_id=first.instance_id,
        execution_id=first.execution_id,
        name=started.name,
        version=started.version,
        input=started.input,
        seed=started.seed or "",
        parent_instance=started.parent_instance,
        parent_id=started.parent_id,
        parent_execution_id=started.parent_execution_id,
        initial_custom_status=started.initial_custom_status,
        limits=Limits.from_mapping(started.limits),
    )


def inbound_of(events: Sequence[Event]) -> list[tuple[int, work.Inbound]]:
    """(timestamp, message) of everything that came from outside, in order."""
    found = []
    for event in events:
        message = _message(event)
        if message is not None:
            found.append((event.timestamp_ms, message))
    return found


def _message(event: Event) -> work.Inbound | None:
    instance, execution = event.instance_id, event.execution_id
    match event.kind:
        case history.ActivityCompleted(source_event_id=source, result=result):
            return work.ActivityCompletion(
                instance=instance, execution_id=execution, id=source, result=result
            )
        case history.ActivityFailed(source_event_id=source, details=details):
            return work.ActivityFailure(
                instance=instance, execution_id=execution, id=source, details=details
            )
        case history.TimerFired(source_event_id=source, fire_at_ms=fire_at_ms):
            return work.TimerDue(
                instance=instance, execution_id=execution, id=source, fire_at_ms=fire_at_ms
            )
        case history.SubOrchestrationCompleted(source_event_id=source, result=result):
            return work.ChildCompleted(
                parent_instance=instance,
                parent_execution_id=execution,
                parent_id=source,
                result=result,
            )
        case history.SubOrchestrationFailed(source_event_id=source, details=details):
            return work.ChildFailed(
                parent_instance=instance,
                parent_execution_id=execution,
                parent_id=source,
                details=details,
            )
        case history.ExternalEvent(name=name, data=data):
            return work.ExternalRaised(instance=instance, name=name, data=data)
        case history.QueueEventDelivered(name=name, data=data):
            return work.QueueMessage(instance=instance, name=name, data=data)
        case history.OrchestrationCancelRequested(reason=reason):
            return work.CancelInstance(instance=instance, reason=reason)
        case _:
            return None


def timeless(event: Event) -> tuple[Any, ...]:
    """An event without its times."""
    kind: Any = event.kind
    fields = {
        name: getattr(kind, name)
        for name in type(kind).__dataclass_fields__
        if name not in ("fire_at_ms", "last_updated_at_ms")
    }
    return event.event_id, type(kind).__name__, tuple(fields.items())


def ended_by_code(events: Sequence[Event]) -> bool:
    """The code itself came to an end (it was neither cancelled nor failed from outside)."""
    last = events[-1].kind
    if any(isinstance(e.kind, history.OrchestrationCancelRequested) for e in events):
        return False
    return isinstance(last, history.OrchestrationCompleted | history.OrchestrationFailed)


ENDED = (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED)
