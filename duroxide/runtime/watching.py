"""Waiting for instances by the store's change feed, with one read for all who wait in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from duroxide.errors import ProviderError
from duroxide.ids import InstanceId
from duroxide.providers.base import InstanceStatus, Provider
from duroxide.runtime.backoff import Backoff
from duroxide.runtime.tasks import end

T = TypeVar("T")

LOOK_AGAIN_MS = 5_000  # even if the store has not said that anything changed


class StatusReader:
    """Reads states; whoever asks while a read is under way is answered by the next one, together."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._asked: dict[InstanceId, list[asyncio.Future[InstanceStatus | None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def read(self, instance_id: InstanceId) -> InstanceStatus | None:
        """The state, as of after this call; None if the store does not know the instance.

        Raises:
            ProviderError: the store failed.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[InstanceStatus | None] = loop.create_future()
        self._asked.setdefault(instance_id, []).append(answer)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="duroxide: read states")
        return await answer

    async def close(self) -> None:
        """Stop; whoever still asks is cancelled."""
        for answers in self._asked.values():
            for answer in answers:
                answer.cancel()
        self._asked.clear()
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            try:
                states = await self._provider.read_status(tuple(asked))
            except BaseException as error:
                _answer_all(asked, error)
                if not isinstance(error, Exception):
                    raise
                continue
            for instance_id, answers in asked.items():
                for answer in answers:
                    if not answer.done():
                        answer.set_result(states.get(instance_id))


def _answer_all(
    asked: dict[InstanceId, list[asyncio.Future[InstanceStatus | None]]], error: BaseException
) -> None:
    for answers in asked.values():
        for answer in answers:
            if answer.done():
                continue
            if isinstance(error, Exception):
                answer.set_exception(error)
            else:
                answer.cancel()


async def wait_for(
    provider: Provider, instance_id: InstanceId, look: Callable[[], Awaitable[T | None]]
) -> T:
    """What `look` finds at last; it is called at once and after each change of the instance.

    The instance need not exist yet. A store that fails for now is asked again, ever more slowly.

    Raises:
        ProviderError: the store can't answer and never will.
    """
    loop = asyncio.get_running_loop()
    backoff = Backoff()
    while True:
        # The feed is open before the look, so that no change falls between the two.
        feed = loop.create_task(provider.wait_for_change((instance_id,), wait_ms=LOOK_AGAIN_MS))
        try:
            await asyncio.sleep(0)
            found = await look()
            if found is not None:
                return found
            await feed
            backoff.reset()
        except ProviderError as error:
            if not error.retryable:
                raise
            await asyncio.sleep(backoff.next_s())
        finally:
            await end(feed)
