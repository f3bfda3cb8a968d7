"""Sessions that this process owns: their activities come here, as long as they are not idle."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import cast

from duroxide.errors import ProviderError
from duroxide.ids import ActivityToken
from duroxide.providers.base import LeasedActivity, Provider, ProviderAdmin, SessionOwner
from duroxide.runtime.telemetry import Observer

logger = logging.getLogger("duroxide.runtime")


class SessionKeeper:
    """Claims sessions within a limit and renews those that are in use.

    Args:
        owner: under whose name; a stable one survives a restart.
        limit: of distinct sessions with activities in flight.
        sweep_s: how often sessions that nobody holds and nothing waits for are removed, whoever had
            them; a store without management keeps them.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        owner: str,
        limit: int,
        lease_ms: int,
        buffer_ms: int,
        idle_ms: int,
        observer: Observer,
        sweep_s: float,
    ) -> None:
        self._provider = provider
        self._owner = owner
        self._limit = limit
        self._lease_ms = lease_ms
        self._tick_s = max(lease_ms - buffer_ms, lease_ms // 10, 1) / 1000
        self._idle_ms = idle_ms
        self._observer = observer
        self._sweep_s = sweep_s
        self._in_flight: defaultdict[str, set[ActivityToken]] = defaultdict(set)
        self._was_full = False  # when it was last asked what may be claimed
        self._has_claimed = asyncio.Event()

    def claim(self) -> SessionOwner:
        """What a poll may claim now."""
        left = max(self._limit - len(self._in_flight), 0)
        self._was_full = left == 0
        return SessionOwner(owner=self._owner, lease_ms=self._lease_ms, max_new=left)

    def began(self, leased: LeasedActivity) -> bool:
        """Whether it fits into the limit: a poll also gives what belongs to sessions that are held idle."""
        session_id = leased.session_id
        if session_id is None:
            return True
        self._has_claimed.set()
        if session_id not in self._in_flight and len(self._in_flight) >= self._limit:
            return False
        self._in_flight[session_id].add(leased.token)
        return True

    def ended(self, leased: LeasedActivity) -> bool:
        """Whether a poll that was told there is no room for another session is wrong by now."""
        session_id = leased.session_id
        if session_id is None or session_id not in self._in_flight:
            return False
        self._in_flight[session_id].discard(leased.token)
        if self._in_flight[session_id]:
            return False
        del self._in_flight[session_id]
        return self._was_full and len(self._in_flight) < self._limit

    async def release(self) -> None:
        """Let others have them now: nobody will come back under this name."""
        if self._has_claimed.is_set():
            await self._provider.renew_sessions(
                owner=self._owner, lease_ms=0, idle_ms=self._idle_ms
            )

    async def run(self) -> None:
        """Renew and sweep until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew(), name="duroxide: renew sessions")
            group.create_task(self._sweep(), name="duroxide: sweep sessions")

    async def _sweep(self) -> None:
        """Dead owners don't clean up after themselves, so every process does."""
        if not hasattr(self._provider, "cleanup_sessions"):
            return
        admin = cast("ProviderAdmin", self._provider)
        while True:
            await asyncio.sleep(self._sweep_s)
            try:
                await admin.cleanup_sessions(idle_ms=self._idle_ms)
            except ProviderError as error:
                self._observer.store_failed("cleanup_sessions", error)
            except Exception:  # a defect of the provider must not stop renewals
                logger.exception("cleanup_sessions raised what is not a ProviderError")

    async def _renew(self) -> None:
        """A process without sessions asks nothing."""
        while True:
            await self._has_claimed.wait()
            await asyncio.sleep(self._tick_s)
            try:
                renewed = await self._provider.renew_sessions(
                    owner=self._owner, lease_ms=self._lease_ms, idle_ms=self._idle_ms
                )
            except ProviderError as error:
                self._observer.store_failed("renew_sessions", error)
                continue
            except Exception:  # a defect of the provider must not stop all renewals
                logger.exception("renew_sessions raised what is not a ProviderError")
                continue
            if renewed == 0 and not self._in_flight:
                self._has_claimed.clear()
