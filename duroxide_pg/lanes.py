"""Commits, one batch after the other over one connection, each applied exactly once.

Batches of a lane are numbered. A batch whose reply was lost is sent again under its number before any
other, and the store, which remembers the last number of each lane, applies it once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from duroxide.errors import ProviderError
from duroxide.providers.base import (
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    EagerDispatch,
)
from duroxide.providers.eager import EagerChoice
from duroxide_pg.batches import BUSY, MAX_ITEMS, Answer, Batch, split
from duroxide_pg.connections import HotConnection, Pauses, explain
from duroxide_pg.queries import Statement
from duroxide_pg.sqlstate import Verdict, is_lost, remedy_of, verdict
from duroxide_pg.tokens import process_name

logger = logging.getLogger("duroxide_pg")

TRIES = 5
BUSY_FROM = 3
"""Items that come together in a busy process, and not by one orchestration's steps alone."""
LONGEST_REST_S = 0.005
REMEMBERED_FAILURES = 64


@dataclass(slots=True)
class Sent:
    """A batch under its number."""

    batch: Batch
    number: int
    may_be_applied: bool = False  # some try of it has no answer


@dataclass(slots=True)
class Attempt:
    """The items of some callers: what was sent of them, and the answers so far, item by item."""

    waiting: list[Batch]
    sent: Sent | None = None
    results: dict[int, CommitResult] = field(default_factory=dict)
    busy: list[CommitItem] = field(default_factory=list)
    items: list[CommitItem] = field(default_factory=list)  # kept alive: results go by their ids


@dataclass(slots=True, eq=False)
class _Call:
    items: Sequence[CommitItem]
    eager: EagerDispatch | None
    failed: Attempt | None  # to go on with
    attempt: asyncio.Future[Attempt]

    def fail(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):  # which is not the caller's own cancellation
            error = ProviderError("commit", "the provider was closed before it was written", True)
        if not self.attempt.done():  # cancelled: the caller has gone
            self.attempt.set_exception(error)
            self.attempt.exception()  # seen, even if the caller goes now


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
        self._calls: deque[_Call] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._last_number = 0
        self._items_under_way = 0
        self._rested_until = 0.0
        self._failed: dict[tuple[int, ...], Attempt] = {}
        self._unsettled: Attempt | None = None  # the one whose last batch has no answer

    async def commit(
        self, items: Sequence[CommitItem], eager: EagerDispatch | None
    ) -> tuple[dict[int, CommitResult], list[CommitItem]]:
        """Write the items, together with what other callers bring while the last batch is on its way.

        A caller that is cancelled only stops waiting.

        Returns:
            The results by `id(item)`, and the turns that the hook refused.

        Raises:
            ProviderError: retryable. The same items, sent again, go on where this call stopped.
        """
        failed = self._failed.pop(tuple(map(id, items)), None)
        call = _Call(items, eager, failed, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        if self._writing is None or self._writing.done():
            # A task of its own: no caller waits for those who come after it, or stops them.
            self._writing = asyncio.create_task(self._write_all(), name="duroxide_pg.write")
        attempt = await call.attempt
        own = {id(item) for item in items}
        return attempt.results, [turn for turn in attempt.busy if id(turn) in own]

    async def close(self, seconds: float) -> None:
        """Wait until everything is written, but not for longer: somebody may hold a row for days.

        What is not written then fails, retryable, with an unknown outcome: its leases will expire.
        """
        writing = self._writing
        if writing is not None and not writing.done():
            await asyncio.wait((writing,), timeout=seconds)
            writing.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether more goes on here than the steps of one orchestration after the other."""
        return sum(len(call.items) for call in self._calls) + self._items_under_way >= BUSY_FROM

    async def _write_all(self) -> None:
        while self._calls:
            await self._rest()
            calls = self._next_calls()
            self._items_under_way = sum(len(call.items) for call in calls)
            attempt = calls[0].failed or _new_attempt(calls)
            try:
                await self._settle()
                while attempt.waiting:
                    await self._write_next(attempt)
            except BaseException as error:
                for call in calls:
                    self._remember(call, attempt)
                    call.fail(error)
                if not isinstance(error, Exception):
                    while self._calls:
                        self._calls.popleft().fail(error)
                    raise
            else:
                for call in calls:
                    if not call.attempt.done():
                        call.attempt.set_result(attempt)
            finally:
                self._items_under_way = 0

    def _next_calls(self) -> list[_Call]:
        """Calls that can share batches: a failed one goes alone, and one may ask for activities."""
        calls = [self._calls.popleft()]
        count = len(calls[0].items)
        while self._calls and calls[0].failed is None and self._calls[0].failed is None:
            following = self._calls[0]
            count += len(following.items)
            if count > MAX_ITEMS or (following.eager is not None and _eager_of(calls) is not None):
                break
            calls.append(self._calls.popleft())
        return calls

    async def _rest(self) -> None:
        """Let more come together after a commit of a busy process; one that is idle never rests."""
        if sum(len(call.items) for call in self._calls) >= BUSY_FROM:
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(self._rested_until - now)

    def _remember(self, call: _Call, attempt: Attempt) -> None:
        # The attempt holds the items, so that no other object gets their ids.
        self._failed[tuple(map(id, call.items))] = attempt
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
        began = asyncio.get_running_loop().time()
        try:
            answer = await self._send(attempt, sent)
        except _Refused as refused:
            self._narrow(attempt, sent.batch, str(refused))
            return
        now = asyncio.get_running_loop().time()
        self._rested_until = now + min(now - began, LONGEST_REST_S)
        attempt.sent, self._unsettled = None, None
        attempt.waiting.pop(0)
        self._applied(sent.batch, answer)
        busy = [
            turn
            for turn, code in zip(sent.batch.turns, answer.turn_codes, strict=False)
            if code == BUSY
        ]
        for item, result in zip(
            sent.batch.items, sent.batch.results(answer, self._nonce(sent)), strict=True
        ):
            attempt.results[id(item)] = result
        if sent.batch.unhooked is not None:
            self._told_nobody(sent.batch)
        if not self._waits:
            attempt.busy += busy
            return
        for turn in busy:
            self._refuse(
                attempt, turn, f"{self._hook} takes its rows for locked, and may wait for them"
            )

    async def _send(self, attempt: Attempt, sent: Sent) -> Answer:
        parameters = self._parameters(sent)
        pauses = Pauses()
        for attempt_number in range(1, TRIES + 1):
            try:
                (row,) = await self._connection.fetch(self._statement, parameters)
            except (psycopg.Error, ProviderError) as error:
                failure = self._judge(attempt, sent, error)
                if attempt_number == TRIES or not failure.retryable:
                    if (
                        not sent.may_be_applied
                    ):  # others need not wait for it, and go under higher numbers
                        attempt.sent = None
                    raise failure from error
                await pauses.next()
            except BaseException:
                sent.may_be_applied, self._unsettled = True, attempt
                raise
            else:
                return Answer.of(row)
        raise AssertionError("unreachable")

    def _judge(self, attempt: Attempt, sent: Sent, error: Exception) -> ProviderError:
        if isinstance(error, ProviderError):  # could not connect: nothing was sent
            return error
        assert isinstance(error, psycopg.Error)
        if verdict(error) is Verdict.REFUSE:
            raise _Refused(_words(error)) from error
        if is_lost(error):
            sent.may_be_applied, self._unsettled = True, attempt
        return explain("commit", error)

    def _narrow(self, attempt: Attempt, batch: Batch, words: str) -> None:
        """The batch was rolled back for its data: halve it, down to the item that can't be stored."""
        attempt.sent, self._unsettled = None, None
        attempt.waiting.pop(0)
        items = batch.items
        if len(items) == 1 and batch.unhooked is None:
            self._refuse(attempt, items[0], words)
            return
        if len(items) == 1:
            attempt.results[id(items[0])] = CommitResult(code=CommitCode.REFUSED, error=words)
            return
        middle = len(items) // 2
        again = None if batch.eager is None else EagerChoice(batch.eager.offer)
        attempt.waiting[:0] = [
            Batch(items[:middle], again),
            Batch(items[middle:], None),
        ]

    def _refuse(self, attempt: Attempt, item: CommitItem, words: str) -> None:
        """The hook, or the table, won't have it. What has been tried too often ends without the hook.

        Otherwise an instance that the hook refuses could never end, whoever asks for it. Whose rows the
        hook writes finds out from the instance's status, and has to look for that.
        """
        if self._hook is not None and isinstance(item, CommitTurn) and item.bury is not None:
            attempt.waiting.insert(0, Batch([item], None, unhooked=words))
        else:
            attempt.results[id(item)] = CommitResult(code=CommitCode.REFUSED, error=words)

    def _told_nobody(self, batch: Batch) -> None:
        for turn in batch.turns:
            logger.error(
                "%s was ended as %s without its commit hook %s, which refuses it: %s",
                turn.instance_id,
                turn.status.value,
                self._hook,
                batch.unhooked,
            )

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
            "hook": self._hook if batch.unhooked is None else None,
            "hook_wait": self._waits,
            "now": self._now_ms(),
            **batch.columns,
        }


def _new_attempt(calls: Sequence[_Call]) -> Attempt:
    items = [item for call in calls for item in call.items]
    return Attempt(items=items, waiting=list(split(items, _eager_of(calls))))


def _eager_of(calls: Sequence[_Call]) -> EagerDispatch | None:
    return next((call.eager for call in calls if call.eager is not None), None)


def _words(error: psycopg.Error) -> str:
    """What the server says, without the statements and functions that it says it from."""
    said = (error.diag.message_primary, error.diag.message_detail)
    return (" ".join("; ".join(filter(None, said)).split()) or str(error)) + remedy_of(error)


class _Refused(Exception):
    """The server can't store the batch's data."""
