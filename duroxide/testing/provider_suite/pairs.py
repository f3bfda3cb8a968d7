"""Two stores that are asked the same: the reference, and the one under test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from hypothesis.stateful import RuleBasedStateMachine

from duroxide.errors import DuroxideError
from duroxide.providers.base import CommitItem, CommitResult, CommitTurn, EagerDispatch, Provider
from duroxide.providers.memory import MemoryProvider
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite.comparison import seen
from duroxide.testing.provider_suite.drawing import LEASE_MS

Pair: TypeAlias = tuple[Any, Any]
"""The same thing as the reference has it and as the provider under test has it (tokens differ)."""


class Pairs(RuleBasedStateMachine):
    """What all calls of the comparison are made with."""

    redelivers_in_order = True
    """False for a store that may give activities that come again in another order than the reference:
    then all that can be leased are, and their order is not compared."""

    async def new_provider(self, clock: ManualClock) -> Provider:
        """A fresh, empty, started store that judges time by `clock`."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.runner = ManualClock(), asyncio.Runner()
        self.pair = (
            MemoryProvider(self.clock),
            self.runner.run(self.new_provider(self.clock)),
        )
        self.sent = 0
        self.uncounted: set[str] = set()
        self.taken: set[int] = set()
        self.written: list[tuple[CommitTurn, CommitTurn]] = []
        self.kept: list[Pair] = []
        self.scheduled: dict[tuple[str, int], list[int]] = {}
        self.lives: dict[str, dict[str, str]] = {}  # by id: the reference's, and the other's names

    def teardown(self) -> None:
        self.runner.run(self.pair[1].close())
        self.runner.close()

    def both(self, ask: Callable[[Provider, int], Coroutine[Any, Any, Any]]) -> Pair:
        """Ask both; an error counts as its type."""

        async def outcome(provider: Provider, side: int) -> Any:
            try:
                return await ask(provider, side)
            except DuroxideError as error:
                return type(error)

        expected, answer = (self.runner.run(outcome(p, n)) for n, p in enumerate(self.pair))
        return expected, answer

    def commit(self, items: tuple[CommitItem, CommitItem], eager: int = 0) -> list[Pair]:
        """Commit on both sides, compare, and return the pairs of activities given."""
        offer = EagerDispatch(worker="w", limit=eager, lease_ms=LEASE_MS) if eager else None

        async def ask(provider: Provider, side: int) -> CommitResult:
            (result,) = await provider.commit([items[side]], eager=offer)
            return result

        expected, answer = self.both(ask)
        assert answer.code == expected.code, (items[0], answer, expected)
        theirs, ours = seen(expected.activities), seen(answer.activities)
        assert ours == theirs, f"{ours} is not {theirs}"
        return list(zip(expected.activities, answer.activities, strict=True))

    def a_moment(self, *delays_ms: int) -> None:
        """Go on to a time such that nothing else becomes visible at it, nor after these delays.

        Who comes first of those who became visible in one millisecond is up to the store.
        """
        while any(self.clock.now_ms() + delay in self.taken for delay in (0, *delays_ms)):
            self.clock.advance(1)
        self.taken.update(self.clock.now_ms() + delay for delay in (0, *delays_ms))

    def body(self) -> str:
        self.sent += 1
        return f"m{self.sent}"

    def can(self, capability: str) -> bool:
        """Whether both stores declare it; the reference does."""
        return bool(getattr(self.pair[1].capabilities, capability))
