"""One writer per process: groups what became ready while the last commit was on the wire."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

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
from duroxide.runtime.tasks import end
from duroxide.runtime.telemetry import Observer

logger = logging.getLogger("duroxide.runtime")

MAX_BATCH = 128
MAX_BATCH_CHARACTERS = 4_000_000  # of payload: no neighbour waits behind tens of megabytes
PATIENCE_S = 0.25  # that one batch keeps the next ones waiting
MAX_SLOW = 8


Answered: TypeAlias = Callable[[CommitResult], None]


@dataclass(slots=True, eq=False)
class _Entry:
    item: CommitItem
    answered: Answered


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
        self._writing: set[asyncio.Task[None]] = set()
        self._newest: asyncio.Task[None] | None = None  # others wait for it, but not for ever
        self._asked: set[asyncio.Future[CommitResult]] = set()
        self._is_closed = False

    def submit(self, item: CommitItem, answered: Answered) -> None:
        """Write one item and call back with what became of it; never, if the flusher is closed first."""
        if self._is_closed:
            return
        self._waiting.append(_Entry(item, answered))
        self._begin()

    async def commit(self, item: CommitItem) -> CommitResult:
        """Write one item. A caller that is cancelled only stops waiting: the item is still written.

        Raises:
            asyncio.CancelledError: also if the flusher is closed first; the outcome is then unknown.
        """
        answer: asyncio.Future[CommitResult] = asyncio.get_running_loop().create_future()

        def answered(result: CommitResult) -> None:
            if not answer.done():
                answer.set_result(result)

        if self._is_closed:
            answer.cancel()
        self._asked.add(answer)
        try:
            self.submit(item, answered)
            return await answer
        finally:
            self._asked.discard(answer)

    async def close(self) -> None:
        """Write nothing more. What waits is dropped; the outcome of what is on its way is unknown."""
        self._is_closed = True
        self._waiting.clear()
        for answer in self._asked:
            answer.cancel()
        await end(*self._writing)

    def _begin(self) -> None:
        """Write what waits, unless a batch has been begun so recently that this can wait for it.

        A batch that takes long may hold a turn whose rows a user has locked.
        """
        if self._newest is None and len(self._writing) <= MAX_SLOW:
            loop = asyncio.get_running_loop()
            task = self._newest = loop.create_task(self._write_waiting(), name="duroxide: commit")
            self._writing.add(task)
            task.add_done_callback(self._ended)

    async def _write_waiting(self) -> None:
        """Write batch after batch, until nothing waits or another has taken over."""
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        assert me is not None
        while self._waiting and self._newest is me:
            patience = loop.call_later(PATIENCE_S, self._go_on_without, me)
            try:
                await self._write(self._take())
            finally:
                patience.cancel()
        if self._newest is me:
            self._newest = None

    def _go_on_without(self, slow: asyncio.Task[None]) -> None:
        if self._newest is slow:
            self._newest = None
        if self._waiting:
            self._begin()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.critical("a commit died", exc_info=task.exception())
        self._go_on_without(task)

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
    try:
        entry.answered(result)
    except Exception:  # a defect there must not keep the others from their answers
        logger.exception("an answer of the store could not be taken")


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
