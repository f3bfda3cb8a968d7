"""Which line of the author's code it was; taken only when a report is made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_PACKAGE = __file__.rpartition("engine")[0]
_UNKNOWN = "an unknown place"


def is_ours(frame: FrameType) -> bool:
    """The frame is the library's own, not the author's."""
    return frame.f_code.co_filename.startswith(_PACKAGE)


def place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def calling_line(suspended: Callable[[], str | None] | None) -> str:
    """The author's line that is executing; `suspended` knows it for a generator that has yielded."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_ours(frame):
        frame = frame.f_back
    hint = suspended() if suspended is not None else None
    if hint is not None:
        return hint
    return _UNKNOWN if frame is None else place(frame)


def waiting_line(coroutine: Any) -> str:
    """The innermost author's line at which a suspended coroutine or generator waits."""
    found = _UNKNOWN
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if isinstance(frame, FrameType) and not is_ours(frame):
            found = place(frame)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return found
