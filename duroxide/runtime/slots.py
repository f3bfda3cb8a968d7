"""A number of things that may be under way at once, and whoever waits for room."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from duroxide.runtime.tasks import end


class Slots:
    """Counts what is under way of one kind of work, and owns its tasks.

    More may be under way than there are slots for a moment (the store gave work in two answers at
    once); then there is no room until enough of it has ended.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.ahead = 0  # how many more may be taken, to wait for those that run
        self._taken = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def free(self) -> int:
        return max(self.count + self.ahead - self._taken, 0)

    def take(self) -> None:
        """Something begins that is not a task of these slots; `give` ends it."""
        self._taken += 1

    def give(self) -> None:
        self._taken -= 1
        self._changed.set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Begin a task that takes a slot until it ends."""
        self.take()
        self.spawn_beside(work, name).add_done_callback(self._ended)

    def spawn_beside(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Begin a task for something that has its slot already."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _ended(self, _: asyncio.Task[None]) -> None:
        self.give()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            task.get_loop().call_exception_handler(
                {
                    "message": "a task of the runtime failed",
                    "exception": task.exception(),
                    "task": task,
                }
            )

    async def room(self) -> int:
        """Wait for a free slot; how many there are."""
        while self.free == 0:
            self._changed.clear()
            await self._changed.wait()
        return self.free

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        while self._taken:
            self._changed.clear()
            await self._changed.wait()

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        while self._tasks:  # one that ends may have begun another
            await end(*self._tasks)
            await asyncio.sleep(0)  # those that have ended are forgotten by their callbacks
