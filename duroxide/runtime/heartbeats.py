"""What running activities say of their progress: the newest word of each, written now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from duroxide.errors import LimitExceeded, ProviderError
from duroxide.ids import ActivityToken
from duroxide.payload import JSON
from duroxide.providers.base import HeartbeatStore, Provider
from duroxide.runtime.telemetry import Observer

logger = logging.getLogger("duroxide.runtime")

PAUSE_S = 0.5  # between two writes
MAX_HEARTBEAT_BYTES = 65_536


class Heartbeats:
    """Collects heartbeats of this process; a store without the capability is told nothing."""

    def __init__(self, provider: Provider, observer: Observer) -> None:
        self._provider = provider
        self._observer = observer
        self._is_kept = provider.capabilities.heartbeats
        self._newest: dict[ActivityToken, str] = {}
        self._arrived = asyncio.Event()
        self._writing = asyncio.Lock()

    def of(self, token: ActivityToken) -> Callable[[Any], None] | None:
        """What an activity calls to report, from any thread; None if the store keeps no heartbeats."""
        if not self._is_kept:
            return None
        loop = asyncio.get_running_loop()

        def beat(data: Any) -> None:
            text = JSON.encode(data)
            size = len(text.encode())
            if size > MAX_HEARTBEAT_BYTES:
                raise LimitExceeded("heartbeat", size, MAX_HEARTBEAT_BYTES)
            loop.call_soon_threadsafe(self._note, token, text)

        return beat

    def _note(self, token: ActivityToken, text: str) -> None:
        self._newest[token] = text
        self._arrived.set()

    def forget(self, token: ActivityToken) -> None:
        """The activity has ended: nobody will ask any more."""
        self._newest.pop(token, None)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._arrived.wait()
            await self.flush()
            await asyncio.sleep(PAUSE_S)

    async def flush(self) -> None:
        """Write what has come. After an error it stays, unless there is a newer word meanwhile."""
        async with self._writing:  # after one that is under way, whose word must not come too late
            self._arrived.clear()
            beats, self._newest = self._newest, {}
            if not beats:
                return
            try:
                await cast("HeartbeatStore", self._provider).heartbeat(beats)
            except ProviderError as error:
                self._observer.store_failed("heartbeat", error)
                if error.retryable:
                    self._newest = beats | self._newest
                    self._arrived.set()
            except Exception:  # a defect of the provider must not end the writing of heartbeats
                logger.exception("heartbeat raised what is not a ProviderError")
