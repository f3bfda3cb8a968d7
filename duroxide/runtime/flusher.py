"""One writer per process: groups what became ready while the last commit was on the wire."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from duroxide.errors import ProviderError
from duroxide.providers.base import (
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    EagerDispatch,
    Enqueue,
    FinishActivity,
    Provider,
)
from duroxide.runtime.backoff import Backoff
from duroxide.runtime.telemetry import Observer

logger = logging.getLogger("duroxide.runtime")

MAX_BATCH = 128
MAX_BATCH_CHARACTERS = 4_000_000  # of payload: no neighbour waits behind tens of megabytes
PATIENCE_S = 0.25  # that one batch keeps the next ones waiting
MAX_SLOW = 8


@dataclass(slots=True, eq=False)
class _Entry:
    item: CommitItem
    answer: asyncio.Future[CommitResult]


class Flusher:
    """Commits items in batches and gives each caller the answer to his own.

    An idle process commits a batch of one at once; a busy one commits larger batches, because more
    becomes ready while the last one is written, up to a number of items and an amount of text; one
    item goes whatever its size. An answer is given only once it is durable.

    A retryable error means that the outcome is unknown: the same batch is sent again until the store
    answers, however long that takes; the store recognises turns that it has already written. Any other
    error of a whole batch is narrowed down by halves, so that a bad item fails alone.

    Args:
        offer: called for each batch; how many of its new activities this process takes at once.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        observer: Observer,
        offer: Callable[[], EagerDispatch | None] = lambda: None,
        max_batch: int = MAX_BATCH,
        max_characters: int = MAX_BATCH_CHARACTERS,
        draw: random.Random | None = None,
    ) -> None:
        self._provider = provider
        self._observer = observer
        self._offer = offer
        self._max_batch = max_batch
        self._max_characters = max_characters
        self._draw = draw
        self._waiting: deque[_Entry] = deque()
        self._arrived = asyncio.Event()
        self._writing: dict[asyncio.Task[None], Sequence[_Entry]] = {}
        self._is_closed = False

    async def commit(self, item: CommitItem) -> CommitResult:
        """Write one item. A caller that is cancelled only stops waiting: the item is still written.

        Raises:
            asyncio.CancelledError: also if the flusher is closed first; the outcome is then unknown.
        """
        answer: asyncio.Future[CommitResult] = asyncio.get_running_loop().create_future()
        if self._is_closed:
            answer.cancel()
        else:
            self._waiting.append(_Entry(item, answer))
            self._arrived.set()
        return await asyncio.shield(answer)

    async def run(self) -> None:
        """Write until cancelled."""
        try:
            while True:
                await self._arrived.wait()
                batch = self._take()
                if not self._waiting:
                    self._arrived.clear()
                await self._begin(batch)
        finally:
            await self._close()

    def _take(self) -> list[_Entry]:
        """The next batch: at least one item, and no more items and text than are allowed."""
        batch = [self._waiting.popleft()]
        left = self._max_characters - _characters(batch[0].item)
        while self._waiting and len(batch) < self._max_batch:
            left -= _characters(self._waiting[0].item)
            if left < 0:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _begin(self, batch: Sequence[_Entry]) -> None:
        """Write a batch, but wait only for so long: it may hold a turn whose rows a user has locked."""
        task = asyncio.create_task(self._write(batch), name="duroxide: commit")
        self._writing[task] = batch
        task.add_done_callback(self._writing.pop)
        await asyncio.wait((task,), timeout=PATIENCE_S)
        if len(self._writing) > MAX_SLOW:
            await asyncio.wait(self._writing, return_when=asyncio.FIRST_COMPLETED)

    async def _close(self) -> None:
        self._is_closed = True
        writing = [*self._writing]
        entries = [entry for batch in self._writing.values() for entry in batch]
        for task in writing:
            task.cancel()
        for entry in (*entries, *self._waiting):
            entry.answer.cancel()
        self._waiting.clear()
        await asyncio.gather(*writing, return_exceptions=True)

    async def _write(self, batch: Sequence[_Entry]) -> None:
        backoff = Backoff(self._draw)
        items = [entry.item for entry in batch]
        started = time.perf_counter()
        while True:
            try:
                results = await self._provider.commit(items, eager=self._offer())
            except ProviderError as error:
                self._observer.store_failed("commit", error)
                if not error.retryable:
                    return await self._narrow(batch, error)
                await asyncio.sleep(backoff.next_s())
            except Exception as error:  # a defect of the provider must not stop all commits
                logger.exception("commit raised what is not a ProviderError")
                return await self._narrow(batch, error)
            else:
                break
        self._observer.batch_committed(len(batch), time.perf_counter() - started)
        for entry, result in zip(batch, results, strict=True):
            _answer(entry, result)
        return None

    async def _narrow(self, batch: Sequence[_Entry], error: Exception) -> None:
        if len(batch) == 1:
            refusal = CommitResult(code=CommitCode.REFUSED, error=str(error))
            return _answer(batch[0], refusal)
        middle = len(batch) // 2
        await self._write(batch[:middle])
        await self._write(batch[middle:])
        return None


def _answer(entry: _Entry, result: CommitResult) -> None:
    if not entry.answer.done():
        entry.answer.set_result(result)


def _characters(item: CommitItem) -> int:
    """How much text an item carries: cheaper than its bytes, and near enough."""
    match item:
        case CommitTurn():
            bodies = sum(len(a.body) for a in item.activities)
            bodies += sum(len(m.body) for m in item.messages)
            return sum(map(len, item.events)) + sum(map(len, item.projections)) + bodies
        case FinishActivity(completion=message) | Enqueue(message=message):
            return 0 if message is None else len(message.body)
        case _:
            return 0
