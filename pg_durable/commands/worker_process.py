"""`pg-durable worker` as a child process that never outlives its parent.

The child's standard input is a pipe that only we hold open: when we die, SIGKILL included, the kernel
closes it and the child stops. The DSN goes through the environment, since everyone can read command
lines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import IO

from pg_durable.commands.signals import put_off

LOG_TAIL_BYTES = 8192
STOP_TIMEOUT_S = 15.0  # the worker's own grace for what is in flight is 10 s


class WorkerProcess:
    """One worker, started and stopped any number of times; as a context, stopped at the end.

    Args:
        dsn: the database to work for.
        options: further environment, such as PG_DURABLE_ACTIVITY_LEASE.
        log: an open file that gets what the worker writes; None lets it share our standard error.
    """

    def __init__(
        self, dsn: str, *, options: Mapping[str, str] | None = None, log: IO[bytes] | None = None
    ) -> None:
        self._environment = os.environ | {"PG_DURABLE_DSN": dsn} | dict(options or {})
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._child is not None, "the worker was not started"
        return self._child.pid

    def start(self) -> None:
        """Start a worker; the one before must be gone."""
        assert not self.is_running, f"the worker {self.pid} is still running"
        self._close_pipe()
        with put_off():  # a child that we do not know of yet can't be stopped in order
            self._child = subprocess.Popen(
                # -P: a module of that name in the working directory must not be run instead
                [sys.executable, "-P", "-m", "pg_durable", "worker", "--until-eof"],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C goes to us, and we stop it in order
            )

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def exit_status(self) -> int | None:
        """As in subprocess: None while it runs, minus the signal that ended it."""
        return None if self._child is None else self._child.poll()

    def wait(self) -> int:
        """Wait until it ends by itself, and return its exit status."""
        assert self._child is not None, "the worker was not started"
        return self._child.wait()

    def kill(self) -> None:
        """End it with SIGKILL, which it can't notice, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to stop, wait for that, and insist if it takes too long. Safe to repeat."""
        try:
            self._end(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            self._end(signal.SIGKILL)

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines that workers wrote; "" without a log."""
        if self._log is None:
            return ""
        handle = self._log.fileno()  # read past the object: the child's writes share its position
        end = os.fstat(handle).st_size
        text = os.pread(handle, LOG_TAIL_BYTES, max(0, end - LOG_TAIL_BYTES)).decode(
            errors="replace"
        )
        return "\n".join(text.splitlines()[-lines:])

    def _end(self, number: signal.Signals) -> None:
        if self._child is None:
            return
        if self._child.poll() is None:
            self._child.send_signal(number)
            self._child.wait(STOP_TIMEOUT_S)
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()


def ended(status: int | None) -> str:
    """Say how a process ended, as the rest of a sentence that begins with it."""
    if status is None or status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"
