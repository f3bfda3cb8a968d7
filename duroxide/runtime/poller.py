"""Asks a store for work again and again, without spinning and without giving up."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from duroxide.errors import ProviderError
from duroxide.runtime.backoff import Backoff
from duroxide.runtime.slots import Slots
from duroxide.runtime.telemetry import Observer

logger = logging.getLogger("duroxide.runtime")


class Poller:
    """The loop of a dispatcher.

    A store normally waits until there is something to do. One that can't (or that was woken for
    nothing) answers at once; from the second empty answer in a row the loop pauses, unless `nudge`
    says that this process has just made work.

    Args:
        ask: polls for up to so many items and hands them on; returns how many there were.
        slots: polled for only as much as can start now.
    """

    def __init__(
        self,
        operation: str,
        ask: Callable[[int], Awaitable[int]],
        slots: Slots,
        *,
        pause_s: float,
        observer: Observer,
        draw: random.Random | None = None,
    ) -> None:
        self._operation = operation
        self._ask = ask
        self._slots = slots
        self._pause_s = pause_s
        self._observer = observer
        self._draw = draw
        self._nudged = asyncio.Event()
        self._is_stopping = False
        self.is_asking = False

    def nudge(self) -> None:
        self._nudged.set()

    def stop(self) -> None:
        """End the loop after the poll that is under way."""
        self._is_stopping = True
        self._nudged.set()

    def _must_stop(self) -> bool:
        return self._is_stopping

    async def run(self) -> None:
        backoff = Backoff(self._draw)
        empty_at_once = 0
        loop = asyncio.get_running_loop()
        while not self._must_stop():
            want = await self._slots.room()
            if self._must_stop():
                return
            asked_at = loop.time()
            self._nudged.clear()
            try:
                found = await self._ask_for(want)
            except ProviderError as error:
                self._observer.store_failed(self._operation, error)
                await asyncio.sleep(backoff.next_s())
                continue
            except Exception:  # a defect of the provider must not stop the process
                logger.exception("%s raised what is not a ProviderError", self._operation)
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            waited_s = loop.time() - asked_at
            is_short = found == 0 and waited_s < self._pause_s
            empty_at_once = empty_at_once + 1 if is_short else 0
            if empty_at_once > 1:
                await self._pause(self._pause_s - waited_s)

    async def _ask_for(self, want: int) -> int:
        self.is_asking = True
        try:
            return await self._ask(want)
        finally:
            self.is_asking = False

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        except TimeoutError:
            pass
