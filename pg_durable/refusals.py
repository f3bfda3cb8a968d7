"""Why an instance does not go on although a worker has it: told to its owner, not only to the log."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import psycopg

from duroxide.ids import InstanceId
from duroxide.providers.base import CommitCode
from duroxide.runtime.telemetry import Observer

logger = logging.getLogger(__name__)

HINT = (
    "a worker of another release, or the tables of the engine were changed by hand; run the release of "
    "pg-durable that the workflow was started with, or start it again"
)
_ROUTINE = frozenset(code.name for code in CommitCode)  # a lease that was lost, say: others go on


class Notes(Protocol):
    async def note_refusal(self, instance_id: str, reason: str, hint: str) -> None: ...


class Refusals(Observer):
    """Writes the last reason beside the instance; the writing may fail, it is for people only."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._tasks: set[asyncio.Task[None]] = set()

    def turn_refused(self, instance_id: InstanceId, reason: str) -> None:
        if reason in _ROUTINE:
            return
        workflow_id = instance_id.partition("::")[0]
        task = asyncio.get_running_loop().create_task(self._note(workflow_id, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait until everything is written."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _note(self, workflow_id: str, reason: str) -> None:
        try:
            await self._notes.note_refusal(workflow_id, reason, HINT)
        except psycopg.Error as error:
            logger.warning("instance %s: the reason could not be noted: %s", workflow_id, error)
