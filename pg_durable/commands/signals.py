"""Signals that ask a command to stop, as an exception: so that it stops in order, wherever it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_waiting: list[list[int]] = []  # a list of signals for each block that puts them off


class Stopped(KeyboardInterrupt):
    """Somebody asked us to stop.

    A KeyboardInterrupt, because libraries take care to be interrupted well by that.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_status(self) -> int:
        """What shells expect of a program that a signal ended."""
        return 128 + self.number


def stop_on_signals() -> None:
    """Raise Stopped at the first signal; exit at the second, however much is left to tidy up.

    Processes that we started end with us even then: see `worker_process` and `embedded`.
    """
    for number in ASKING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks for
            signal.signal(number, _stop)


@contextmanager
def put_off() -> Iterator[None]:
    """Raise Stopped at the end of the block only: for what must not be left half done."""
    _waiting.append([])
    try:
        yield
    finally:
        asked = _waiting.pop()
    if asked:
        raise Stopped(asked[0])


def _stop(number: int, _: FrameType | None) -> None:
    for each in ASKING:
        if signal.getsignal(each) is _stop:
            signal.signal(each, _exit)
    if _waiting:
        _waiting[-1].append(number)
    else:
        raise Stopped(number)


def _exit(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
