"""Anything in any order against a running instance: the invariants hold after every step (property 25)."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from duroxide import history, work
from duroxide.failures import activity_failure, nondeterminism
from duroxide.state import ExecutionStatus
from duroxide.testing.replay import assert_replays
from duroxide.testing.stage import Stage
from tests.property.engine.interpret import NATIVE, Probe, registry
from tests.property.engine.programs import EVENTS, QUEUES, sample
from tests.property.engine.test_message_laws import (
    assert_state_follows_history,
    assert_well_formed,
    unread_of,
)

PICK = st.integers(0, 1000)


class AnythingInAnyOrder(RuleBasedStateMachine):
    """Clients, workers that crash, activities, and a clock, around one tree of instances."""

    @initialize(seed=st.integers(0, 2**32), cache=st.sampled_from((0, 1, 100)))
    def begin(self, seed: int, cache: int) -> None:
        self.stage = Stage(registry(sample(seed), NATIVE), cache_size=cache)
        self.stage.prepared = lambda name, text: Probe()
        self.answers: list[tuple[str, int, int]] = []
        self.stage.send(work.StartOrchestration(instance="root", orchestration="root", input="1"))
        self.sent = 0
        self.started = 0

    @rule(pick=PICK, take=st.integers(1, 5))
    @precondition(lambda self: self.stage.runnable())
    def turn(self, pick: int, take: int) -> None:
        name = self._choose(self.stage.runnable(), pick)
        result = self.stage.turn(name, take)
        self.answers += [
            (m.parent_instance, m.parent_execution_id, m.parent_id)
            for m in result.messages
            if isinstance(m, work.ChildCompleted | work.ChildFailed)
        ]

    @rule(pick=PICK)
    @precondition(lambda self: self.stage.runnable())
    def crash_or_lose_the_lease_before_the_commit(self, pick: int) -> None:
        name = self._choose(self.stage.runnable(), pick)
        self.stage.evict(name)
        before = list(self.stage.instance(name).history)
        self.stage.turn(name, commit=False)
        assert self.stage.instance(name).history == before

    @rule(pick=PICK)
    @precondition(lambda self: self.stage.instances)
    def forget(self, pick: int) -> None:
        self.stage.evict(self._choose(list(self.stage.instances), pick))

    @rule(pick=PICK, good=st.booleans())
    @precondition(lambda self: self.stage.activities)
    def finish(self, pick: int, good: bool) -> None:
        key = self._choose(list(self.stage.activities), pick)
        self.stage.finish(key, '"ok"' if good else activity_failure("bad"))

    @rule(pick=PICK)
    def deliver_twice(self, pick: int) -> None:
        """A completion that was answered long ago, or of something that never was."""
        stray = work.ActivityCompletion(instance="root", execution_id=1, id=pick, result="1")
        done = {key[2] for key in self.stage.activities if key[:2] == ("root", 1)}
        if pick not in done:
            self.stage.send(stray)

    @rule(ms=st.sampled_from((0, 1, 50, 1000)))
    def advance(self, ms: int) -> None:
        self.stage.clock.advance(ms)
        self.stage.deliver_due_timers()

    @rule(name=st.sampled_from((*EVENTS, *QUEUES)))
    def send(self, name: str) -> None:
        self.sent += 1
        item = work.QueueMessage if name in QUEUES else work.ExternalRaised
        self.stage.send(item(instance="root", name=name, data=str(self.sent)))

    @rule(again=st.booleans())
    def start(self, again: bool) -> None:
        """Another one, or one that runs already, which changes nothing."""
        if not again:
            self.started += 1
        name = f"root{self.started}" if self.started else "root"
        if not again or name in self.stage.instances:
            self.stage.send(work.StartOrchestration(instance=name, orchestration="root", input="1"))

    @rule(pick=PICK)
    @precondition(lambda self: self._ended())
    def delete(self, pick: int) -> None:
        name = self._choose(self._ended(), pick)
        self.stage.evict(name)
        del self.stage.instances[name]

    def _ended(self) -> list[str]:
        """Roots that have ended, and whose children have: what a store lets one delete."""
        instances = self.stage.instances
        return [name for name in instances if _is_root(name) and self._is_over(name)]

    def _is_over(self, name: str) -> bool:
        instances = self.stage.instances
        return instances[name].ended and all(
            self._is_over(n) for n, i in instances.items() if i.parent_instance == name
        )

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        if pick % 10 == 0:
            self.stage.send(work.CancelInstance(instance="root", reason="enough"))

    @rule(pick=PICK)
    def poison(self, pick: int) -> None:
        children = [
            n
            for n, i in self.stage.instances.items()
            if i.parent_instance and i.history and i.status is ExecutionStatus.RUNNING
        ]
        if children and pick % 10 == 0:
            result = self.stage.fail(self._choose(children, pick), nondeterminism("changed"))
            self.answers += [
                (m.parent_instance, m.parent_execution_id, m.parent_id)
                for m in result.messages
                if isinstance(m, work.ChildCompleted | work.ChildFailed)
            ]

    def _choose(self, choices: list[Any], pick: int) -> Any:
        return choices[pick % len(choices)]

    @invariant()
    def histories_are_well_formed(self) -> None:
        for instance in getattr(self, "stage", _NOTHING).instances.values():
            for events in instance.executions:
                assert_well_formed(events)
                ended = isinstance(events[-1].kind, history.Terminal)
                assert ended or events is instance.history

    @invariant()
    def each_child_answers_once(self) -> None:
        answers = getattr(self, "answers", [])
        assert len(answers) == len(set(answers))

    @invariant()
    def key_values_and_status_are_what_history_says(self) -> None:
        for instance in getattr(self, "stage", _NOTHING).instances.values():
            assert_state_follows_history(instance)

    @invariant()
    def queues_carry_what_nobody_read(self) -> None:
        for instance in getattr(self, "stage", _NOTHING).instances.values():
            for name in QUEUES:
                carried: list[str] = []
                for events in instance.executions:
                    came, unread = unread_of(events, name)
                    assert came[: len(carried)] == carried
                    carried = unread

    def teardown(self) -> None:
        stage = getattr(self, "stage", _NOTHING)
        for name in filter(_is_root, list(stage.instances)):
            stage.send(work.CancelInstance(instance=name, reason="the end"))
        for _ in range(200):
            for name in stage.runnable():
                stage.turn(name)
        for name, instance in stage.instances.items():
            is_cancelled = _is_root(name) or instance.parent_instance is not None
            assert instance.ended or not instance.executions or not is_cancelled
        stage.close()
        for instance in stage.instances.values():
            for number, events in enumerate(instance.executions, 1):
                started: Any = events[0].kind
                code = stage.registry.orchestration(started.name)
                if number == 1 and code is not None:
                    assert_replays(events, code, prepared=Probe())


def _is_root(name: str) -> bool:
    return name == "root" or name.removeprefix("root").isdigit()


_NOTHING = Stage(registry(sample(0), NATIVE))

AnythingInAnyOrder.TestCase.settings = settings(stateful_step_count=60)
TestAnythingInAnyOrder = AnythingInAnyOrder.TestCase
