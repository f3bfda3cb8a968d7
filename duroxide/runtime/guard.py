"""Refuses, at the line, what no replay could repeat: asyncio, blocking calls, and (strictly) the clock.

The engine enters a guard around every stretch of orchestration code. Only that thread is guarded, and
only while it runs such code: activities and everything else in the process go on as ever.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any, NoReturn

from duroxide.errors import DeterminismViolation

_INSTEAD: Mapping[str, str] = {
    "sleep": "ctx.sleep",
    "gather": "ctx.gather",
    "wait": "ctx.select",
    "wait_for": "ctx.timeout",
    "timeout": "ctx.timeout",
    "timeout_at": "ctx.timeout",
    "create_task": "ctx.spawn",
    "ensure_future": "ctx.spawn",
    "TaskGroup": "ctx.scope",
    "shield": "ctx.shield",
    "as_completed": "ctx.select",
    "to_thread": "an activity",
    "run_in_executor": "an activity",
    "Queue": "ctx.queue",
    "get": "ctx.queue",
    "put": "ctx.queue",
    "Event": "ctx.wait_event",
    "acquire": "nothing: an orchestration runs one step at a time",
    "open_connection": "an activity",
    "create_subprocess_exec": "an activity",
    "create_subprocess_shell": "an activity",
}

_BLOCKING: Mapping[str, tuple[str, str]] = {
    "socket.connect": ("a network connection", "an activity"),
    "socket.getaddrinfo": ("a name look-up", "an activity"),
    "subprocess.Popen": ("a subprocess", "an activity"),
    "os.system": ("os.system", "an activity"),
    "os.fork": ("os.fork", "an activity"),
}
_STRICTLY: Mapping[str, tuple[str, str]] = {"open": ("opening a file", "an activity")}

# Python 3.11 audits none of them, so they are patched in their modules as well.
_PATCHED_BLOCKING: tuple[tuple[Any, str, str], ...] = (
    (time, "sleep", "ctx.sleep"),
    (threading.Thread, "start", "ctx.spawn, or an activity,"),
    (asyncio, "run", "await"),
)

_PATCHED_STRICTLY: tuple[tuple[Any, str, str], ...] = (
    (time, "time", "ctx.now"),
    (time, "time_ns", "ctx.now"),
    (time, "monotonic", "ctx.now"),
    (time, "perf_counter", "ctx.now"),
    (uuid, "uuid1", "ctx.uuid"),
    (uuid, "uuid4", "ctx.uuid"),
    (os, "urandom", "ctx.random"),
    (random, "random", "ctx.random"),
    (random, "randint", "ctx.random"),
    (random, "randrange", "ctx.random"),
    (random, "choice", "ctx.random"),
    (random, "shuffle", "ctx.random"),
    (random, "sample", "ctx.random"),
    (random, "uniform", "ctx.random"),
)


class _State(threading.local):
    active = False  # this thread runs orchestration code
    strict = False
    violation: DeterminismViolation | None = None


_state = _State()


def _refuse(what: str, instead: str) -> NoReturn:
    error = DeterminismViolation(
        f"an orchestration can't use {what}{_where()}: a replay could not repeat it; "
        f"use {instead} instead"
    )
    # Kept, in case the code swallows it: the run is void all the same.
    _state.violation = _state.violation or error
    raise error


def _author(frame: FrameType | None) -> FrameType | None:
    """The innermost frame that belongs to neither this module nor the standard library's plumbing."""
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (
        "asyncio",
        "duroxide",
        "subprocess",
        "socket",
        "threading",
        "random",
        "uuid",
    ):
        frame = frame.f_back
    return frame


def _where() -> str:
    frame = _author(sys._getframe(2))
    return "" if frame is None else f" (at {frame.f_code.co_filename}:{frame.f_lineno})"


class _NoLoop:
    """Stands where the running event loop would; every use of it is refused."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return _NoLoop
        return _refuse_asyncio(sys._getframe(1), name)

    def __hash__(self) -> int:
        # A TaskGroup looks for the current task of the loop before it asks the loop for anything.
        frame: FrameType | None = sys._getframe(1)
        if frame is not None and frame.f_globals.get("__name__") == "asyncio.tasks":
            frame = frame.f_back  # current_task, where that is written in Python
        if frame is not None and frame.f_globals.get("__name__") == "asyncio.taskgroups":
            _refuse_asyncio(frame, "TaskGroup")
        return 0


def _refuse_asyncio(frame: FrameType | None, called: str) -> NoReturn:
    # The outermost asyncio function is the one that the author called.
    while frame is not None and frame.f_globals.get("__name__", "").startswith("asyncio"):
        code = frame.f_code.co_name
        owner = frame.f_locals.get("self")
        called = type(owner).__name__ if code.startswith("__") and owner is not None else code
        frame = frame.f_back
    _refuse(f"asyncio.{called}", _INSTEAD.get(called, "the methods of ctx"))


_NO_LOOP = _NoLoop()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _state.active:
        return
    found = _BLOCKING.get(event) or (_STRICTLY.get(event) if _state.strict else None)
    if found is not None and not _is_plumbing(sys._getframe(1)):
        _refuse(*found)


def _is_plumbing(frame: FrameType | None) -> bool:
    """An import, or a log handler, that happens to be triggered by orchestration code."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(("importlib", "logging", "linecache")):
            return True
        frame = frame.f_back
    return False


_installed: set[str] = set()
_installing = threading.Lock()


def _install(what: str, install: Callable[[], None]) -> None:
    with _installing:
        if what not in _installed:
            _installed.add(what)
            install()


def _watch_blocking() -> None:
    sys.addaudithook(_audit)
    for owner, name, instead in _PATCHED_BLOCKING:
        _patch(owner, name, instead, strictly=False)


def _watch_clocks_and_random() -> None:
    for owner, name, instead in _PATCHED_STRICTLY:
        _patch(owner, name, instead, strictly=True)


def _patch(owner: Any, name: str, instead: str, *, strictly: bool) -> None:
    original = getattr(owner, name)
    what = f"{owner.__name__}.{name}"

    @wraps(original)
    def refusing(*args: Any, **kwargs: Any) -> Any:
        if _state.active and (_state.strict or not strictly) and not _is_plumbing(sys._getframe(1)):
            _refuse(what, instead)
        return original(*args, **kwargs)

    setattr(owner, name, refusing)


class Guard:
    """Pass one to the runtime (or to `run_turn`); calling it gives the context manager.

    Args:
        blocking: refuse sleeping, the network, subprocesses and threads. One audit hook, `time.sleep`,
            `asyncio.run` and `Thread.start` of the process then ask first whether orchestration code runs.
        strict: also refuse files, and the usual ways to the clock and to randomness. Those are patched
            in their modules, so `from time import time` at the top of a module escapes it.
    """

    def __init__(self, *, blocking: bool = True, strict: bool = False) -> None:
        self._blocking = blocking or strict
        self._strict = strict
        if self._blocking:
            _install("blocking", _watch_blocking)
        if strict:
            _install("strict", _watch_clocks_and_random)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Guard this thread.

        Raises:
            DeterminismViolation: on leaving, if code met one and swallowed it.
        """
        outer_loop = asyncio._get_running_loop()
        outer = (_state.active, _state.strict, _state.violation)
        asyncio._set_running_loop(_NO_LOOP)  # type: ignore[arg-type]  # it only looks like a loop
        _state.active, _state.strict, _state.violation = self._blocking, self._strict, None
        try:
            yield
            violation = _state.violation
        finally:
            _state.active, _state.strict, _state.violation = outer
            asyncio._set_running_loop(outer_loop)
        if violation is not None:
            raise violation
