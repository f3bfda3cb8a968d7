"""The code of activities as tasks: begun, interrupted, and left behind if it does not end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from duroxide.runtime.calls import call_activity
from duroxide.runtime.deliveries import Delivery

logger = logging.getLogger("duroxide.runtime")

INTERRUPT_S = 1.0  # for code to end once it was cancelled


class Running:
    """Calls the code of activities.

    Args:
        threads: where plain functions run.
        called: told that the code of one has ended.
        given_up: told of one whose code goes on although it was interrupted.
    """

    def __init__(
        self,
        threads: Executor,
        *,
        called: Callable[[Delivery, asyncio.Task[Any]], None],
        given_up: Callable[[Delivery], None],
    ) -> None:
        self._threads = threads
        self._called = called
        self._given_up = given_up
        self._running: set[asyncio.Task[Any]] = set()
        self._stray: set[asyncio.Task[Any]] = set()

    def begin(self, delivery: Delivery) -> None:
        leased, definition = delivery.leased, delivery.definition
        call = call_activity(definition, delivery.context, delivery.text, self._threads)
        name = f"call of {definition.name} {leased.instance_id}#{leased.activity_id}"
        loop = asyncio.get_running_loop()
        delivery.task = loop.create_task(call, name=name, context=delivery.variables)
        self._running.add(delivery.task)
        delivery.task.add_done_callback(lambda task: self._ended(delivery, task))

    def interrupt(self, delivery: Delivery) -> None:
        """End the code, if it has begun and goes on."""
        if delivery.task is not None and not delivery.task.done():
            delivery.task.cancel()
            loop = asyncio.get_running_loop()
            loop.call_later(INTERRUPT_S, self._give_up, delivery, delivery.task)

    async def stop(self) -> None:
        """Interrupt everything, and wait for it a little."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=INTERRUPT_S)
        for task in running:
            if task in self._running:
                self._leave_behind(task)

    def _ended(self, delivery: Delivery, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._called(delivery, task)

    def _give_up(self, delivery: Delivery, task: asyncio.Task[Any]) -> None:
        if task in self._running:
            self._leave_behind(task)
            self._given_up(delivery)

    def _leave_behind(self, task: asyncio.Task[Any]) -> None:
        """Code that refuses to end is left behind, and said so."""
        logger.warning("%s ignores its cancellation", task.get_name())
        self._running.discard(task)
        self._stray.add(task)
        task.add_done_callback(self._stray.discard)
