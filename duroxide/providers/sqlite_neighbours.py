"""Noticing what other processes commit to the same SQLite file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# How soon a commit of another process is noticed: sooner while there is another one.
ALONE_LOOK_S = 0.05
SHARED_LOOK_S = 0.01
SHARED_FOR_S = 10.0


class Neighbours:
    """Looks at the file while anybody waits, and tells whenever somebody else has committed.

    Args:
        path: None: nobody else can.
        tell: called on the event loop of those who wait.
    """

    def __init__(self, path: Path | None, tell: Callable[[], None]) -> None:
        self._path = path
        self._tell = tell
        self.connection: sqlite3.Connection | None = None  # the writer's
        self._waiting = 0
        self._shared_until_s = 0.0
        self._looking_on: asyncio.AbstractEventLoop | None = None
        self._seen: object = None  # the file as of the last commit that we know of
        self._data_version = 0  # changes when another connection commits

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """While anybody waits here, look at the file every now and then."""
        loop = asyncio.get_running_loop()
        self._waiting += 1
        if self._path is not None and self._looking_on is not loop:
            self._looking_on = loop
            loop.call_later(SHARED_LOOK_S, self._look_again, loop)
        try:
            yield
        finally:
            self._waiting -= 1

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting == 0 or self._looking_on is not loop:
            self._looking_on = None
            return
        if self._notice_others():
            self._shared_until_s = loop.time() + SHARED_FOR_S
        is_shared = loop.time() < self._shared_until_s
        loop.call_later(SHARED_LOOK_S if is_shared else ALONE_LOOK_S, self._look_again, loop)

    def look_at_file(self) -> None:
        """After each of our transactions, in the writer's thread: what we did is no news.

        Somebody else's commit just before is, though: SQLite tells, and the file would not any more. The
        file is looked at first, so that a commit between the two is news later.
        """
        self._seen = self._file_state()
        if self._path is None or self.connection is None:
            return
        (version,) = self.connection.execute("pragma data_version").fetchone()
        if version != self._data_version:
            self._data_version = version
            loop = self._looking_on
            if loop is not None:
                with suppress(RuntimeError):  # it is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._tell)

    def _file_state(self) -> object:
        """Changes whenever anybody commits; asking costs no statement."""
        if self._path is None:
            return None
        try:
            state = os.stat(f"{self._path}-wal")
        except OSError:
            return None
        return state.st_mtime_ns, state.st_size

    def _notice_others(self) -> bool:
        """Wake everybody if another process has committed."""
        state = self._file_state()
        if state == self._seen:
            return False
        self._seen = state
        self._tell()
        return True
