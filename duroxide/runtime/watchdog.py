"""Names an orchestration that holds the event loop, and the line where it does, while it does."""

from __future__ import annotations

import logging
import site
import sys
import sysconfig
import threading
import time
import traceback
from types import FrameType
from typing import TypeAlias

from duroxide.ids import InstanceId

logger = logging.getLogger("duroxide.runtime")

STACK_FRAMES = 30
STOP_S = 1.0
QUIET = 10  # times the limit without a turn, and the thread goes to sleep
_OURS = ("duroxide", "duroxide_pg")
_LIBRARIES = tuple(
    {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), *site.getsitepackages()}
)


_Stretch: TypeAlias = tuple[InstanceId, str, float]
"""Code of an orchestration that runs without giving the loop back: whose, and since when."""


class Watchdog:
    """Looks at the turns of one event loop from a thread, which sleeps while there are none.

    The thread begins with the first turn; a turn that ends in time costs two looks at the clock. One
    that doesn't is warned of while it is stuck, with its orchestration and its line, and once more
    when it has ended. Sleeping and the like are refused by the guard before that: what is found here
    computes, or waits in a library for what the guard can't see.

    Args:
        limit_s: how long a turn may hold the loop; 0: for ever.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._current: _Stretch | None = None
        self._watched_thread = 0
        self._is_awake = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def began(self, instance_id: InstanceId, name: str) -> None:
        """Code of an orchestration is about to run, in the thread of the event loop."""
        if not self._limit_s:
            return
        self._current = (instance_id, name, time.monotonic())
        if not self._is_awake:
            self._rouse()

    def ended(self) -> None:
        stretch, self._current = self._current, None
        if stretch is not None:
            seconds = time.monotonic() - stretch[2]
            if seconds > self._limit_s:
                text = (
                    "a turn of %s (%s) held the event loop for %.1f s: move the work to an activity"
                )
                _warn(text, stretch, seconds)

    def _rouse(self) -> None:
        self._is_awake = True
        self._wake.set()
        if self._thread is None and not self._stop.is_set():
            self._watched_thread = threading.get_ident()
            self._thread = threading.Thread(target=self._run, name="duroxide watchdog", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._wake.wait() and not self._stop.is_set():
            self._look()
            self._wake.clear()
            self._is_awake = False
            # What came in between believes that we are awake.
            if self._current is not None or self._stop.is_set():
                self._wake.set()

    def _look(self) -> None:
        """Look until nothing has run for a while."""
        warned_of: _Stretch | None = None
        last_seen = time.monotonic()
        while not self._stop.wait(self._limit_s / 2):
            now, stretch = time.monotonic(), self._current
            if stretch is None:
                if now - last_seen > QUIET * self._limit_s:
                    return
                continue
            last_seen = now
            if stretch is not warned_of and now - stretch[2] >= self._limit_s:
                warned_of = stretch
                self._report(stretch, now - stretch[2])

    def _report(self, stretch: _Stretch, seconds: float) -> None:
        frame = sys._current_frames().get(self._watched_thread)
        if frame is None:  # the thread is gone
            return
        line = where(frame)
        stack = "".join(traceback.format_stack(frame, STACK_FRAMES))
        if self._current is not stretch:  # it has just ended: that was another line
            return
        text = (
            "a turn of %s (%s) has held the event loop for %.1f s and goes on, now at %s: "
            "move the work to an activity"
        )
        _warn(text, stretch, seconds, line, stack=stack)


def _warn(text: str, stretch: _Stretch, seconds: float, *more: str, stack: str = "") -> None:
    instance_id, name, _ = stretch
    facts = {
        "instance_id": instance_id,
        "orchestration_name": name,
        "duration_ms": seconds * 1000,
    }
    if stack:
        facts["stack"] = stack
    logger.warning(text, instance_id, name, seconds, *more, extra=facts)


def where(innermost: FrameType) -> str:
    """The innermost line of the author's own code; of whatever runs, if there is none."""
    frame: FrameType | None = innermost
    while frame is not None and _is_plumbing(frame):
        frame = frame.f_back
    found = frame or innermost
    return f"{found.f_code.co_filename}:{found.f_lineno} in {found.f_code.co_qualname}"


def _is_plumbing(frame: FrameType) -> bool:
    if frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        return True
    file = frame.f_code.co_filename
    return file.startswith("<") or file.startswith(_LIBRARIES)
