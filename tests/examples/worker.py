"""A worker process for one example, on a SQLite file; it can be told to be killed after a commit.

python -m tests.examples.worker NAME FILE EFFECTS [COMMITS]
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from duroxide.providers.base import CommitItem, CommitResult, EagerDispatch
from duroxide.providers.sqlite import SqliteProvider
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.runtime.telemetry import ActivityRecord, Observer
from tests.examples.load import load

LEASE_MS = 500  # what a killed worker held is free again soon, and not after half a minute


class Mortal(SqliteProvider):
    """Ends the process, as `kill -9` does, right after so many commits."""

    left = -1

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        results = await super().commit(batch, eager=eager)
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return results


class Effects(Observer):
    """Writes down which activities begin and which results are recorded, a line each."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def _write(self, what: str, record: ActivityRecord) -> None:
        place = f"{record.instance_id}/{record.execution_id}#{record.activity_id}"
        self._file.write(f"{what} {place} {record.activity_name}\n")

    def activity_started(self, record: ActivityRecord) -> None:
        self._write("began", record)

    def activity_ended(self, record: ActivityRecord) -> None:
        if record.outcome in ("success", "failure"):
            self._write("recorded", record)


async def main(name: str, file: str, effects: str, commits: str = "0") -> None:
    provider = Mortal(file)
    provider.left = int(commits)
    options = RuntimeOptions(
        worker_lock_timeout_ms=LEASE_MS,
        orchestrator_lock_timeout_ms=LEASE_MS,
        observer=Effects(Path(effects)),
    )
    async with AsyncRuntime(provider, load(name)["REGISTRY"], options):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
