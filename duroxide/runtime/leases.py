"""Keeps leases alive while work runs: one statement per tick for the whole process."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from duroxide.errors import ProviderError
from duroxide.ids import ActivityToken, TurnToken
from duroxide.providers.base import Provider
from duroxide.runtime.backoff import Backoff
from duroxide.runtime.storeclock import StoreClock
from duroxide.runtime.telemetry import Observer

logger = logging.getLogger("duroxide.runtime")

Token = TypeVar("Token", TurnToken, ActivityToken)


@dataclass(slots=True, eq=False)
class _Lease:
    expires_at_ms: int
    on_lost: Callable[[], None]
    on_renewed: Callable[[int], None] | None
    is_ending: bool = False


class Leases(Generic[Token]):
    """The leases of one kind that this process holds.

    Args:
        lease_ms: how long a lease is.
        buffer_ms: a lease is renewed at the latest so long before its end, but no more than ten times.
    """

    def __init__(self, *, lease_ms: int, buffer_ms: int) -> None:
        self.lease_ms = lease_ms
        self.tick_ms = max((lease_ms - buffer_ms) // 2, lease_ms // 20, 1)
        self._held: dict[Token, _Lease] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(
        self,
        token: Token,
        expires_at_ms: int,
        on_lost: Callable[[], None],
        on_renewed: Callable[[int], None] | None = None,
    ) -> None:
        """Renew until `release`; call `on_lost` at most once, as soon as the lease is known to be gone."""
        self._held[token] = _Lease(expires_at_ms, on_lost, on_renewed)

    def ending(self, token: Token) -> None:
        """The commit that ends the lease is on its way: renew on, but its loss is no news."""
        lease = self._held.get(token)
        if lease is not None:
            lease.is_ending = True

    def release(self, token: Token) -> None:
        self._held.pop(token, None)

    def lose(self, token: Token) -> None:
        """It is known to be gone before the store was asked."""
        lease = self._held.get(token)
        if lease is not None:
            self._lose(token, lease)

    def due(self, now_ms: int) -> list[Token]:
        """Those that are old enough to be renewed."""
        fresh_from_ms = now_ms + self.lease_ms - self.tick_ms
        return [token for token, lease in self._held.items() if lease.expires_at_ms < fresh_from_ms]

    def renewed(self, tokens: Iterable[Token], lost: frozenset[Token], now_ms: int) -> None:
        for token in tokens:
            lease = self._held.get(token)
            if lease is None:
                continue
            if token in lost:
                self._lose(token, lease)
            else:
                lease.expires_at_ms = now_ms + self.lease_ms
                if lease.on_renewed is not None:
                    lease.on_renewed(lease.expires_at_ms)

    def expire(self, now_ms: int) -> None:
        """Give up those whose time has run out while the store could not be asked."""
        for token, lease in tuple(self._held.items()):
            if lease.expires_at_ms <= now_ms:
                self._lose(token, lease)

    def _lose(self, token: Token, lease: _Lease) -> None:
        if lease.is_ending:
            return
        del self._held[token]
        lease.on_lost()


class LeaseKeeper:
    """Renews all leases of the process.

    A lease is lost when the store says so, or when its time has run out by the store's clock. An
    error of the store says nothing about a lease: the work goes on and the renewal is tried again.
    """

    def __init__(
        self,
        provider: Provider,
        clock: StoreClock,
        *,
        turns: Leases[TurnToken],
        activities: Leases[ActivityToken],
        observer: Observer,
        draw: random.Random | None = None,
    ) -> None:
        self._provider = provider
        self._clock = clock
        self._observer = observer
        self._draw = draw
        self.turns = turns
        self.activities = activities

    async def run(self) -> None:
        """Renew until cancelled; while nothing is held, nothing is asked."""
        backoff = Backoff(self._draw)
        tick_s = min(self.turns.tick_ms, self.activities.tick_ms) / 1000
        pause_s = tick_s
        while True:
            await asyncio.sleep(pause_s)
            if await self.renew():
                backoff.reset()
                pause_s = tick_s
            else:
                pause_s = min(backoff.next_s(), tick_s)

    async def renew(self) -> bool:
        """Renew what is due; false if the store could not be asked."""
        if not self.turns and not self.activities:
            return True
        now_ms = self._clock.now_ms()
        turns, activities = self.turns.due(now_ms), self.activities.due(now_ms)
        if not turns and not activities:
            return True
        try:
            answer = await self._provider.renew(
                turns=turns,
                turn_lease_ms=self.turns.lease_ms,
                activities=activities,
                activity_lease_ms=self.activities.lease_ms,
            )
        except ProviderError as error:
            self._observer.store_failed("renew", error)
            self._expire()
            return False
        except Exception:  # a defect of the provider must not stop all renewals
            logger.exception("renew raised what is not a ProviderError")
            self._expire()
            return False
        self._clock.observe(answer.now_ms)
        self.turns.renewed(turns, answer.lost_turns, answer.now_ms)
        self.activities.renewed(activities, answer.lost_activities, answer.now_ms)
        return True

    def _expire(self) -> None:
        now_ms = self._clock.now_ms()
        self.turns.expire(now_ms)
        self.activities.expire(now_ms)
