"""A number of things that may be under way at once, and whoever waits for room."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Slots:
    """Owns the tasks of one kind of work.

    More tasks than slots may be under way for a moment (the store gave work in two answers at once);
    then there is no room until enough of them have ended.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def free(self) -> int:
        return max(self.count - len(self._tasks), 0)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
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
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """Cancel everything and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        await self.idle()
