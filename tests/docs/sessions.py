"""What a reader has open while following a document: psql, a shell and an editor."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

SENTINEL = "-- the block ends here --"
TIMEOUT_S = 60.0


class StepFailed(Exception):
    """A block did not do what its document says."""


class Psql:
    """One psql for a whole document, so that variables and transactions go on from block to block."""

    def __init__(self, program: Path, dsn: str, cwd: Path) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            [program, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", dsn],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "PAGER": "cat", "LC_ALL": "C.UTF-8"},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Psql:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, text: str) -> str:
        """Type `text` and return what came back.

        Raises:
            StepFailed: an error, or no end.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n\\echo {SENTINEL}\n")
        self._process.stdin.flush()
        printed: list[str] = []
        while True:
            try:
                line = self._lines.get(timeout=TIMEOUT_S)
            except queue.Empty:
                raise StepFailed("psql did not come back from:\n" + text) from None
            if line is None:
                raise StepFailed("".join(printed))
            if line.rstrip("\n") == SENTINEL:
                return "".join(printed)
            printed.append(line)

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._lines.put(line)
        except ValueError:
            pass  # closed under us at the end of the test
        self._lines.put(None)


def run_program(language: str, text: str, cwd: Path, environment: Mapping[str, str]) -> str:
    """Run a block of shell or Python as a program and return what it printed.

    Raises:
        StepFailed: it ended with another status than 0.
    """
    command = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=dict(environment),
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise StepFailed(f"status {done.returncode}: {done.stdout}")
    return done.stdout
