"""Hypothesis strategies for tests of orchestrations; needs `hypothesis` installed.

The world answers activities in an order of its own choosing, so that code which works only when the
first one asked is the first one answered is found.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from duroxide.registry import ActivityDef, OrchestrationDef
from duroxide.testing.world import Handle, World

_MANY_MOVES = 10_000


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
