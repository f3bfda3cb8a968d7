"""Waiting for instances: one look at the store for all who wait in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from duroxide.errors import ProviderError
from duroxide.ids import InstanceId
from duroxide.providers.base import InstanceStatus, Provider
from duroxide.runtime.backoff import Backoff

LOOK_AGAIN_MS = 5_000  # even if the store has not said that anything changed

Test = Callable[[InstanceStatus], bool]


@dataclass(slots=True, eq=False)
class _Waiter:
    instance_id: InstanceId
    is_reached: Test
    answer: asyncio.Future[InstanceStatus]


class StatusWatcher:
    """Tells callers when an instance has got where they want it.

    While anybody waits, one task follows the store's change feed and reads the states of what may have
    changed in one call. An instance that does not exist yet may be waited for.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._waiters: dict[InstanceId, set[_Waiter]] = {}
        self._unread: set[InstanceId] = set()  # somebody new waits for these
        self._joined = asyncio.Event()  # or the last one has left
        self._task: asyncio.Task[None] | None = None

    async def until(self, instance_id: InstanceId, is_reached: Test) -> InstanceStatus:
        """The first state seen that passes the test.

        Raises:
            ProviderError: the store can't answer and never will.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(instance_id, is_reached, loop.create_future())
        self._waiters.setdefault(instance_id, set()).add(waiter)
        self._unread.add(instance_id)
        self._joined.set()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="duroxide: watch states")
        try:
            return await waiter.answer
        finally:
            self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        waiters = self._waiters.get(waiter.instance_id, set())
        waiters.discard(waiter)
        if not waiters:
            self._waiters.pop(waiter.instance_id, None)
            self._unread.discard(waiter.instance_id)
        if not self._waiters:
            self._joined.set()  # the task ends by itself

    async def close(self) -> None:
        """Stop; whoever still waits is cancelled."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.answer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        backoff = Backoff()
        while self._waiters:
            try:
                await self._look()
                backoff.reset()
            except ProviderError as error:
                if not error.retryable:
                    return self._fail(error)
                await asyncio.sleep(backoff.next_s())
            except Exception as error:  # a defect of the provider must not leave anybody waiting
                return self._fail(error)
        return None

    async def _look(self) -> None:
        """Read the unread, then wait for a change or for somebody new."""
        self._joined.clear()
        loop = asyncio.get_running_loop()
        # The feed is opened before the states are read, so that no change falls between the two.
        feed = loop.create_task(
            self._provider.wait_for_change(tuple(self._waiters), wait_ms=LOOK_AGAIN_MS)
        )
        joined = loop.create_task(self._joined.wait())
        try:
            await asyncio.sleep(0)
            await self._read()
            if self._waiters:
                await asyncio.wait((feed, joined), return_when=asyncio.FIRST_COMPLETED)
            self._unread |= self._changed(feed)
        finally:
            feed.cancel()
            joined.cancel()
            await asyncio.wait((feed, joined))

    async def _read(self) -> None:
        ids = tuple(self._unread & self._waiters.keys())
        if not ids:
            return
        states = await self._provider.read_status(ids)
        self._unread -= set(ids)
        for instance_id, state in states.items():
            for waiter in tuple(self._waiters.get(instance_id, ())):
                if not waiter.answer.done() and waiter.is_reached(state):
                    waiter.answer.set_result(state)
                    self._leave_quietly(waiter)

    def _leave_quietly(self, waiter: _Waiter) -> None:
        waiters = self._waiters[waiter.instance_id]
        waiters.discard(waiter)
        if not waiters:
            del self._waiters[waiter.instance_id]

    def _changed(self, feed: asyncio.Task[Collection[InstanceId] | None]) -> set[InstanceId]:
        if not feed.done():
            return set()
        told = feed.result()
        # Nothing told, or told that nothing changed in all that time: look at everything.
        return set(told) if told else set(self._waiters)

    def _fail(self, error: Exception) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.answer.done():
                    waiter.answer.set_exception(error)
