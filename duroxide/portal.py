"""The event loop of blocking code: one thread for the whole process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

FORKED = (
    "this object was made before the process forked and its threads and connections did not survive: "
    "make the provider, the client and the runtime anew in the child"
)


class Portal:
    """Runs coroutines on a loop in a thread of its own, from any thread, also beside a running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._tasks: set[asyncio.Task[None]] = set()  # that nobody waits for
        self._thread = threading.Thread(target=self._serve, name="duroxide loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the result; an interrupt (Ctrl-C) cancels the work.

        Raises:
            RuntimeError: called after a fork, or from the portal's own thread.
        """
        problem = self._problem()
        if problem is not None:
            work.close()
            raise RuntimeError(problem)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def later(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin `work` after a while; nobody waits for it. May be called by the garbage collector."""
        if not self.is_inherited and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._begin, work)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def is_inherited(self) -> bool:
        """It is of the process that has forked this one, and does nothing here."""
        return os.getpid() != self._pid

    def _problem(self) -> str | None:
        if self.is_inherited:
            return FORKED
        if threading.current_thread() is self._thread:
            return "blocking calls don't work inside an async activity: use AsyncClient there"
        return None


_lock = threading.Lock()
_portal: Portal | None = None


def shared_portal() -> Portal:
    """The portal of this process; a forked child gets one of its own."""
    global _portal
    with _lock:
        if _portal is None or _portal._pid != os.getpid():
            _portal = Portal()
        return _portal


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
