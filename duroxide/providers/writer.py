"""One thread that owns a SQLite connection and commits in groups."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from duroxide.errors import ProviderError
from duroxide.portal import FORKED

T = TypeVar("T")
Work: TypeAlias = Callable[[], Any]
Entry: TypeAlias = "tuple[str, Work, asyncio.Future[Any]]"

MAX_GROUP = 256


class Writer:
    """Runs pieces of work in transactions, as many at a time as have become ready.

    Each piece has a savepoint of its own: one that fails is undone alone. Whoever asked is answered
    only after the transaction is committed.

    Args:
        connection: made with `check_same_thread=False` and `isolation_level=None`.
        committed: called after each transaction, in the writer's thread.
    """

    def __init__(self, connection: sqlite3.Connection, committed: Callable[[], None]) -> None:
        self._connection = connection
        self._committed = committed
        self._pid = os.getpid()
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="duroxide sqlite", daemon=True)
        self._thread.start()

    async def run(self, operation: str, work: Callable[[], T]) -> T:
        """Do it in a transaction.

        Raises:
            ProviderError: retryable if the database is locked by somebody else or out of order for
                now; nothing was written. Not retryable after a fork, which the thread does not survive.
        """
        if os.getpid() != self._pid:
            raise ProviderError(operation, FORKED, retryable=False)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._entries.put((operation, work, answer))
        return await answer

    def close(self) -> None:
        """Finish what was asked for and close the connection; after a fork both are the parent's."""
        if os.getpid() != self._pid:
            return
        self._entries.put(None)
        self._thread.join()
        self._connection.close()

    def _loop(self) -> None:
        while True:
            entry = self._entries.get()
            group: list[Entry] = []
            while entry is not None:
                group.append(entry)
                if len(group) == MAX_GROUP:
                    break
                try:
                    entry = self._entries.get_nowait()
                except queue.Empty:
                    break
            if group:
                self._write(group)
            if entry is None:
                return

    def _write(self, group: list[Entry]) -> None:
        try:
            self._connection.execute("begin immediate")
            answers = [(answer, *self._one(operation, work)) for operation, work, answer in group]
            self._connection.execute("commit")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("rollback")
            failure = translated(group[0][0], error)
            answers = [(answer, None, failure) for _, _, answer in group]
        self._committed()
        by_loop: dict[asyncio.AbstractEventLoop, list[Any]] = {}
        for told in answers:
            by_loop.setdefault(told[0].get_loop(), []).append(told)
        for loop, mine in by_loop.items():
            try:
                loop.call_soon_threadsafe(_answer, mine)
            except RuntimeError:  # that loop is closed: nobody waits any more
                continue

    def _one(self, operation: str, work: Work) -> tuple[Any, Exception | None]:
        execute = self._connection.execute
        execute("savepoint piece")
        try:
            result = work()
        except Exception as error:
            execute("rollback to piece")
            execute("release piece")
            if isinstance(error, sqlite3.Error):
                return None, translated(operation, error)
            return None, error
        execute("release piece")
        return result, None


def _answer(told: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for answer, result, error in told:
        if answer.done():
            continue
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)


def translated(operation: str, error: sqlite3.Error) -> ProviderError:
    """What a failure of SQLite means: a locked or full database may be better later."""
    text = str(error)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    is_passing = code in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    )
    failure = ProviderError(operation, text, retryable=is_passing)
    failure.__cause__ = error
    return failure
