"""Dead letters, and the instances that go on once they are put back, in the reference store."""

from __future__ import annotations

from dataclasses import replace

from duroxide.ids import InstanceId
from duroxide.providers.base import DeadLetter, Reopening
from duroxide.providers.memory_tables import MemoryTables, QueuedActivity
from duroxide.providers.rules import Position
from duroxide.state import ExecutionStatus


class MemoryLetters(MemoryTables):
    """What people do about what was given up."""

    def dead_letters(self, instance_id: InstanceId | None) -> list[DeadLetter]:
        return [
            letter
            for letter, _ in self.letters.values()
            if instance_id is None or letter.instance_id == instance_id
        ]

    def requeue(self, instance_id: InstanceId, reopening: Reopening | None, now_ms: int) -> int:
        """How many letters were put back; -1: the instance can't be reopened like that."""
        if reopening is not None and not self._reopen(instance_id, reopening, now_ms):
            return -1
        letters = self.dead_letters(instance_id)
        for letter in letters:
            _, message = self.letters.pop(letter.letter_id)
            self._enqueue(replace(message, visible_at_ms=None), now_ms)
        if reopening is not None:
            for sent in reopening.messages:
                self._enqueue(sent, now_ms)
        return len(letters)

    def _reopen(self, instance_id: InstanceId, reopening: Reopening, now_ms: int) -> bool:
        instance = self.instances.get(instance_id)
        if instance is None:
            return False
        expected = Position(reopening.execution_id, reopening.event_count, ExecutionStatus.FAILED)
        if instance.position != expected:
            return False
        current = instance.current
        self.release(instance_id)
        instance.updated_at_ms, instance.last_turn = now_ms, None
        if reopening.keep_events:
            del current.events[reopening.keep_events :]
            current.status = ExecutionStatus.RUNNING
            current.output = current.completed_at_ms = None
        else:
            del instance.executions[current.execution_id]
            if not instance.executions:
                del self.instances[instance_id]
        for activity in reopening.activities:
            queued = QueuedActivity(self._number(), activity, now_ms)
            self.activities[queued.number] = queued
        return True
