"""Pausing: what `df.pause` means inside an orchestration.

SQL sends {"paused": true|false} to a queue of the instance, so a pause is an event in its history, in its
place among all others: replay holds where the live run held, and a crash forgets nothing. A workflow that
is never paused records nothing for it; messages are noticed, unread, where a node would begin.

Turns go on while an instance is paused. If the store held them back instead, their messages would pile up
at the head of the queue, in the way of everybody else's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Generator
from typing import Any

from duroxide.context import OrchestrationContext, Queue
from duroxide.engine.futures import DurableFuture, State
from pg_durable.scope import canonical

PAUSE_QUEUE = "pg_durable::pause"
RELAY_PAUSE = "pg_durable::activity::relay-pause"


class Pause:
    """Whether an execution is paused; shared by all of its walks.

    Args:
        instance_id: the workflow, whose row in df.instances says what is true now.
    """

    def __init__(self, ctx: OrchestrationContext, instance_id: str) -> None:
        self._ctx = ctx
        self._instance_id = instance_id
        self._queue = Queue(ctx.journal, PAUSE_QUEUE, str)
        self._gate: DurableFuture[None] | None = None  # settles when the pause ends
        self._is_listening = False
        self._children: dict[str, None] = {}

    def passed(self) -> Generator[Awaitable[None], Any, None]:
        """Wait while the execution is paused."""
        while self._holds():
            assert self._gate is not None
            # Shielded: the loser of a race leaves, and the gate stays for the others.
            yield self._ctx.shield(self._gate)

    async def after(self, timer: Awaitable[None]) -> None:
        """Wait for a timer; one that comes due in a pause counts when the pause is over."""
        await timer
        for wait in self.passed():
            await wait

    def child_began(self, engine_id: str) -> None:
        """From now on this child is told of every pause.

        The caller has just passed the gate, so whatever arrived before is known to be over.
        """
        self._children[engine_id] = None
        self._listen()

    def child_ended(self, engine_id: str) -> None:
        self._children.pop(engine_id, None)

    def _holds(self) -> bool:
        if not self._is_listening and self._ctx.journal.queues[PAUSE_QUEUE].unread():
            self._listen()
        return self._gate is not None

    def _listen(self) -> None:
        if not self._is_listening:
            self._is_listening = True
            self._ctx.spawn(self._follow())  # reads at once what is there already

    async def _follow(self) -> None:
        async for message in self._queue:
            self._set(json.loads(message)["paused"])
            for child in self._children:
                self._relay(child)

    def _set(self, is_paused: bool) -> None:
        gate = self._gate
        if is_paused and gate is None:
            self._gate = DurableFuture(self._ctx.journal.executor)
        elif not is_paused and gate is not None:
            self._gate = None
            gate.settle(State.DONE)

    def _relay(self, engine_id: str) -> None:
        """Have the worker tell a child what is true by then, so that no late repetition misleads it."""
        request = {"instance_id": self._instance_id, "engine_id": engine_id}
        self._ctx.call(RELAY_PAUSE, raw_input=canonical(request))
