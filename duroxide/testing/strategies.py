"""Hypothesis strategies for tests of orchestrations; needs `hypothesis` installed.

The world answers activities in an order of its own choosing, so that code which works only when the
first one asked is the first one answered is found. `histories` gives what such a world records, for
new code to be tried against what old code may have left in production.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from duroxide.history import Event, InboundKind
from duroxide.registry import ActivityDef, OrchestrationDef
from duroxide.state import ExecutionStatus, KeyValue
from duroxide.testing.replay import assert_replays, store_key_values
from duroxide.testing.world import Handle, World

_MANY_MOVES = 10_000
_INBOUND: tuple[type[Any], ...] = cast("Any", InboundKind).__args__


@dataclass(frozen=True, slots=True)
class CompletionOrder:
    """Who is answered first, and what happens before: all of it from one number."""

    seed: int

    def play(
        self,
        world: World,
        orchestration: OrchestrationDef[..., Any],
        *args: Any,
        instance_id: str | None = None,
    ) -> Handle:
        """Start an orchestration and let the world answer in this order, until nothing moves.

        Timers are moved on to as soon as all activities are answered, or at random before.

        Raises:
            RuntimeError: it never comes to rest.
        """
        rng = random.Random(self.seed)
        world.answer_in_turn = rng.choice
        handle = world.start(orchestration, *args, instance_id=instance_id)
        for _ in range(_MANY_MOVES):
            due = world.stage.next_timer_ms()
            if due is None:
                return handle
            world.advance(max(0, due - world.clock.now_ms()) / 1000)
        raise RuntimeError(f"the orchestration still sets timers after {_MANY_MOVES} of them")


def completion_orders() -> st.SearchStrategy[CompletionOrder]:
    """Orders in which a world may answer."""
    return st.builds(CompletionOrder, st.integers(0, 2**32))


def assert_always_replays(
    orchestration: OrchestrationDef[..., Any],
    *args: Any,
    activities: Mapping[str, Callable[..., Any]] | None = None,
    definitions: tuple[OrchestrationDef[..., Any] | ActivityDef[..., Any], ...] = (),
    examples: int = 50,
) -> None:
    """Play an orchestration in many orders, and replay each history.

    Args:
        activities: scripts by name, for those that `definitions` does not bring.
        definitions: children, and activities that run as they are.

    Raises:
        NonDeterminismError: a history does not replay.
    """

    @settings(max_examples=examples, deadline=None, database=None)
    @given(completion_orders())
    def check(order: CompletionOrder) -> None:
        world = World(orchestration, *definitions)
        for name, does in (activities or {}).items():
            world.answer(name, does)
        order.play(world, orchestration, *args).assert_replays()

    check()


@dataclass(frozen=True, slots=True)
class RecordedHistory:
    """What an execution had recorded when somebody looked: at its end, or after any turn before."""

    events: tuple[Event, ...]
    key_values: Mapping[str, KeyValue]  # as the execution began

    def assert_replays(self, definition: OrchestrationDef[..., Any]) -> ExecutionStatus:
        """Replay it with this code, and say how the execution stands then.

        Raises:
            NonDeterminismError: the code does something else; the message shows both sides.
        """
        return assert_replays(self.events, definition, key_values=self.key_values)


class DrawnFailure(Exception):
    """Raised by an activity in place of its answer, because the history is to have failures."""


@st.composite
def histories(
    draw: st.DrawFn,
    orchestration: OrchestrationDef[..., Any],
    *args: Any,
    activities: Mapping[str, Callable[..., Any]] | None = None,
    definitions: tuple[OrchestrationDef[..., Any] | ActivityDef[..., Any], ...] = (),
    events: Sequence[tuple[str, Any]] = (),
    messages: Sequence[tuple[str, Any]] = (),
    failing: float = 0.2,
    cancels: bool = False,
) -> RecordedHistory:
    """Histories that an orchestration may leave behind, whole or still growing.

    Args:
        activities: scripts by name, for those that `definitions` does not bring.
        definitions: children, and activities that run as they are.
        events: (name, data) of events that are raised, in this order, at some time or other.
        messages: (queue, data) likewise.
        failing: the share of scripted calls that fail instead.
        cancels: some instances are cancelled.
    """
    rng = random.Random(draw(st.integers(0, 2**32)))
    world = World(orchestration, *definitions)
    world.answer_in_turn = rng.choice
    for name, does in (activities or {}).items():
        world.answer(name, _fails_sometimes(does, rng, failing))
    handle = world.start(orchestration, *args)
    moves = _moves(world, handle, events, messages)
    for _ in range(_MANY_MOVES):
        if cancels and rng.random() < 0.05:
            handle.cancel("drawn")
        if not moves(rng):
            break
    executions = handle.executions
    which = rng.randrange(len(executions))
    values: dict[str, KeyValue] = {}
    for earlier in executions[:which]:
        store_key_values(values, earlier)
    recorded = executions[which]
    ends = [i for i, e in enumerate(recorded) if isinstance(e.kind, _INBOUND)]
    return RecordedHistory(tuple(recorded[: draw(st.sampled_from([*ends, len(recorded)]))]), values)


def _fails_sometimes(
    does: Callable[..., Any], rng: random.Random, share: float
) -> Callable[..., Any]:
    def does_or_fails(*args: Any, **kwargs: Any) -> Any:
        if rng.random() < share:
            raise DrawnFailure("this call was drawn to fail")
        return does(*args, **kwargs)

    return does_or_fails


def _moves(
    world: World,
    handle: Handle,
    events: Sequence[tuple[str, Any]],
    messages: Sequence[tuple[str, Any]],
) -> Callable[[random.Random], bool]:
    """One thing more that happens from outside; False if there is none."""
    raised = [partial(handle.raise_event, name, data) for name, data in events]
    sent = [partial(handle.enqueue, queue, data) for queue, data in messages]

    def move(rng: random.Random) -> bool:
        due = world.stage.next_timer_ms()
        kinds = [kind for kind in (raised, sent) if kind]
        if due is not None and rng.randrange(len(kinds) + 1) == 0:
            world.advance(max(0, due - world.clock.now_ms()) / 1000)
        elif kinds:
            rng.choice(kinds).pop(0)()
        return due is not None or bool(kinds)

    return move
