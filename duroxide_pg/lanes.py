"""Commits, one batch after the other over one connection, each applied exactly once.

Batches of a lane are numbered. A batch whose reply was lost is sent again under its number before any
other, and the store, which remembers the last number of each lane, applies it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from duroxide.errors import ProviderError
from duroxide.providers.base import CommitCode, CommitItem, CommitResult, EagerDispatch
from duroxide_pg.batches import BUSY, Answer, Batch, split
from duroxide_pg.connections import HotConnection, Pauses, explain
from duroxide_pg.queries import Statement
from duroxide_pg.sqlstate import Verdict, verdict
from duroxide_pg.tokens import process_name

TRIES = 5
REMEMBERED_FAILURES = 64


@dataclass(slots=True)
class Sent:
    """A batch under its number."""

    batch: Batch
    number: int


@dataclass(slots=True)
class Attempt:
    """A caller's items: what was sent of them, and the answers so far, item by item."""

    items: Sequence[CommitItem]
    waiting: list[Batch]
    sent: Sent | None = None
    results: dict[int, CommitResult] = field(default_factory=dict)
    busy: list[CommitItem] = field(default_factory=list)


class CommitLane:
    """Writes batches.

    Args:
        hook: the name of the commit hook, if there is one.
        waits: whether the hook may wait for locked rows.
        applied: told of each batch that is durable.
    """

    def __init__(
        self,
        connection: HotConnection,
        statement: Statement,
        *,
        hook: str | None,
        waits: bool,
        now_ms: Callable[[], int | None],
        applied: Callable[[Batch, Answer], None],
    ) -> None:
        self.writer = process_name()
        self._connection = connection
        self._statement = statement
        self._hook = hook
        self._waits = waits
        self._now_ms = now_ms
        self._applied = applied
        self._lock = asyncio.Lock()
        self._last_number = 0
        self._failed: dict[tuple[int, ...], Attempt] = {}
        self._unsettled: Attempt | None = None  # the one whose last batch has no answer

    async def commit(
        self, items: Sequence[CommitItem], eager: EagerDispatch | None
    ) -> tuple[dict[int, CommitResult], list[CommitItem]]:
        """Write the items; returns the results by `id(item)`, and the turns that the hook refused.

        Raises:
            ProviderError: retryable. The same items, sent again, go on where this call stopped.
        """
        async with self._lock:
            key = tuple(map(id, items))
            attempt = self._failed.pop(key, None) or Attempt(items, list(split(items, eager)))
            try:
                await self._settle()
                while attempt.waiting:
                    await self._write_next(attempt)
            except ProviderError:
                self._remember(key, attempt)
                raise
            return attempt.results, attempt.busy

    def _remember(self, key: tuple[int, ...], attempt: Attempt) -> None:
        self._failed[key] = attempt  # holds the items, so that no other object gets their ids
        while len(self._failed) > REMEMBERED_FAILURES:
            del self._failed[next(iter(self._failed))]

    async def _settle(self) -> None:
        """Learn what became of the batch that has no answer, by sending it again."""
        if self._unsettled is not None:
            await self._write_next(self._unsettled)

    async def _write_next(self, attempt: Attempt) -> None:
        if attempt.sent is None:
            self._last_number += 1
            attempt.sent = Sent(attempt.waiting[0], self._last_number)
        sent = attempt.sent
        try:
            answer = await self._send(attempt, sent)
        except _Refused as refused:
            self._narrow(attempt, sent.batch, str(refused))
            return
        attempt.sent, self._unsettled = None, None
        attempt.waiting.pop(0)
        self._applied(sent.batch, answer)
        busy = [
            turn
            for turn, code in zip(sent.batch.turns, answer.turn_codes, strict=False)
            if code == BUSY
        ]
        attempt.busy += busy
        for item, result in zip(
            sent.batch.items, sent.batch.results(answer, self._nonce(sent)), strict=True
        ):
            attempt.results[id(item)] = result

    async def _send(self, attempt: Attempt, sent: Sent) -> Answer:
        parameters = self._parameters(sent)
        pauses = Pauses()
        for attempt_number in range(1, TRIES + 1):
            try:
                (row,) = await self._connection.fetch(self._statement, parameters)
            except (psycopg.Error, ProviderError) as error:
                failure = self._judge(attempt, error)
                if attempt_number == TRIES or not failure.retryable:
                    raise failure from error
                await pauses.next()
            except BaseException:
                self._unsettled = attempt
                raise
            else:
                return Answer.of(row)
        raise AssertionError("unreachable")

    def _judge(self, attempt: Attempt, error: Exception) -> ProviderError:
        if isinstance(error, ProviderError):  # could not connect: nothing was sent
            return error
        assert isinstance(error, psycopg.Error)
        match verdict(error):
            case Verdict.REFUSE:
                raise _Refused(" ".join(str(error).split())) from error
            case Verdict.RETRY:
                self._unsettled = attempt  # it may have been applied
        return explain("commit", error)

    def _narrow(self, attempt: Attempt, batch: Batch, words: str) -> None:
        """The batch was rolled back for its data: halve it, down to the item that can't be stored."""
        attempt.sent, self._unsettled = None, None
        attempt.waiting.pop(0)
        items = batch.items
        if len(items) == 1:
            attempt.results[id(items[0])] = CommitResult(code=CommitCode.REFUSED, error=words)
            return
        middle = len(items) // 2
        attempt.waiting[:0] = [
            Batch(items[:middle], batch.eager),
            Batch(items[middle:], None),
        ]

    def _nonce(self, sent: Sent) -> str:
        return f"{self.writer}{sent.number:x}"

    def _parameters(self, sent: Sent) -> Mapping[str, Any]:
        batch = sent.batch
        return {
            "writer": self.writer,
            "seq": sent.number,
            "nonce": self._nonce(sent),
            "owner": batch.worker,
            "eager_lease_ms": batch.eager_lease_ms,
            "hook": self._hook,
            "hook_wait": self._waits,
            "now": self._now_ms(),
            **batch.columns,
        }


class _Refused(Exception):
    """The server can't store the batch's data."""
