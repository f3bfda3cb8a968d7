"""When to look again: hints from this process, from others, and from the clock.

A hint may come for nothing and may be lost; looking again every few seconds is what work depends on.
Between processes a waiter registers, looks once more, and then waits; whoever commits something for it
looks for waiters after that. One of the two sees the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from duroxide.errors import ProviderError
from duroxide.ids import InstanceId
from duroxide_pg.arrays import Texts
from duroxide_pg.connections import CLOSE_S, Connect, HotConnection, Pauses, Release
from duroxide_pg.hints import Hint, ring_all, rung
from duroxide_pg.queries import Statement

logger = logging.getLogger("duroxide_pg")

SAFETY_S = 5.0
"""How often an idle process looks without any hint, while it is told of changes."""
SHORT_S = 0.05
"""How long a client waits for a change of which nobody tells."""
PATIENCE_S = 0.025
"""How long a poll waits for this process before it tells others that it waits."""
INTERVAL_S = 0.1
"""How often, at most, this process says which instances it waits for."""
WAKE_INTERVAL_S = 0.005
"""How often, at most, it tells others of changes; a first one goes at once."""
REGISTERED_MS = 3 * int(SAFETY_S * 1000)
GATHER_S = 0.02
"""How long to wait for the end of an instance before telling that it has begun."""
TURNS = "turns"


class Wakeups:
    """The hints of one process, and its part in telling others.

    Args:
        waiter: the process's name; also the payload of a notification that is meant for it alone.
        channel: the schema's name. Other payloads on it name the queue that changed.
        is_listening_allowed: false behind a pooler that gives each transaction another session.
    """

    def __init__(
        self,
        *,
        waiter: str,
        channel: str,
        connect: Connect,
        release: Release,
        connection: HotConnection,
        register: Statement,
        wake: Statement,
        idle: Statement,
        is_listening_allowed: bool,
    ) -> None:
        self.turns = Hint()
        self.activities = Hint()
        self.is_listening = False
        self._waiter = waiter
        self._channel = channel
        self._connect, self._release = connect, release
        self._connection = connection
        self._register, self._wake, self._idle = register, wake, idle
        self._is_listening_allowed = is_listening_allowed
        self._changes: dict[InstanceId, set[asyncio.Future[bool]]] = {}
        self._registered: dict[str, float] = {}  # topic -> until when, loop time
        self._registered_at = 0.0
        self._registering: asyncio.Task[None] | None = None
        self._registrations: set[asyncio.Task[None]] = set()
        self._times_told = 0
        self._to_wake_queues: set[str] = set()
        self._to_wake_instances: set[InstanceId] = set()
        self._waking: asyncio.Task[None] | None = None
        self._begun: set[InstanceId] = set()
        self._telling: asyncio.TimerHandle | None = None
        self._due: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if self._is_listening_allowed and not self._tasks:
            self._tasks = [
                asyncio.create_task(self._listen(), name="duroxide_pg.listen"),
                asyncio.create_task(self._look_when_idle(), name="duroxide_pg.idle"),
            ]

    async def close(self) -> None:
        for timer in (self._telling, self._due):
            if timer is not None:
                timer.cancel()
        self._telling = self._due = None
        tasks, self._tasks = self._tasks, []
        tasks += [task for task in (self._waking, self._registering) if task is not None]
        tasks += self._registrations
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        self.give_all()

    def give_all(self) -> None:
        self.turns.give()
        self.activities.give()
        for instance_id in self._changes:
            self._give_change(instance_id)

    # Waiting.

    async def wait_for_work(
        self, hint: Hint, topics: Sequence[str], seen: int, seconds: float
    ) -> None:
        """Wait until a poll that found nothing when the count was `seen` should look again."""
        patience = min(seconds, PATIENCE_S) if self.is_listening else seconds
        if await hint.wait(seen, patience) or not self.is_listening or seconds <= patience:
            return
        missing = self._missing(topics)
        if missing:
            # A caller that is cancelled only stops waiting: the session goes on.
            registration = asyncio.create_task(self._register_for(missing))
            self._registrations.add(registration)
            registration.add_done_callback(self._registrations.discard)
            await asyncio.shield(registration)
            return  # look once more before waiting for long
        await hint.wait(seen, seconds - patience)

    async def wait_for_change(self, instance_ids: Sequence[InstanceId], seconds: float) -> None:
        """Wait until one of the instances may have changed, for a short while if nobody tells."""
        if not self.is_listening:
            await self._is_told_of(instance_ids, min(seconds, SHORT_S))
            return
        if await self._is_told_of(instance_ids, min(seconds, PATIENCE_S)) or seconds <= PATIENCE_S:
            return
        if self._missing([f"i:{i}" for i in instance_ids]):
            self._register_soon()  # which ends this wait, to look once more
        await self._is_told_of(instance_ids, min(seconds - PATIENCE_S, SAFETY_S))

    async def _is_told_of(self, instance_ids: Sequence[InstanceId], seconds: float) -> bool:
        bell = asyncio.get_running_loop().create_future()
        for instance_id in instance_ids:
            self._changes.setdefault(instance_id, set()).add(bell)
        try:
            return await rung(bell, seconds)
        finally:
            for instance_id in instance_ids:
                bells = self._changes[instance_id]
                bells.discard(bell)
                if not bells:
                    del self._changes[instance_id]

    def _missing(self, topics: Iterable[str]) -> list[str]:
        now = asyncio.get_running_loop().time()
        return [topic for topic in topics if self._registered.get(topic, 0) < now]

    def _register_soon(self) -> None:
        if self._registering is None or self._registering.done():
            self._registering = asyncio.create_task(
                self._register_for_changes(), name="duroxide_pg.register"
            )

    async def _register_for_changes(self) -> None:
        """Register for all instances that are waited for by now, in one call."""
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0, self._registered_at + INTERVAL_S - now))
        missing = self._missing(f"i:{i}" for i in self._changes)
        self._registered_at = asyncio.get_running_loop().time()
        if missing:
            await self._register_for(missing)
        for topic in missing:
            self._give_change(topic.removeprefix("i:"))

    async def _register_for(self, topics: Sequence[str]) -> None:
        parameters = {"waiter": self._waiter, "topics": Texts(topics), "for_ms": REGISTERED_MS}
        told = self._times_told
        try:
            await self._connection.call("register", self._register, parameters)
        except ProviderError as error:  # we look by ourselves, only later
            logger.debug("could not register for changes: %s", error)
        if self._times_told == told:  # or it may have been used up already
            until = asyncio.get_running_loop().time() + 2 * SAFETY_S
            self._registered.update(dict.fromkeys(topics, until))

    def _give_change(self, instance_id: InstanceId) -> None:
        ring_all(self._changes.get(instance_id, ()))

    # Telling.

    def changed(self, instance_ids: Iterable[InstanceId]) -> None:
        """These instances ended or have a new status, durably."""
        for instance_id in instance_ids:
            self._begun.discard(instance_id)
            self._give_change(instance_id)
            # Whoever waits next was not waiting just now, and must look once more before.
            self._registered.pop(f"i:{instance_id}", None)
            self._to_wake_instances.add(instance_id)

    def began(self, instance_ids: Iterable[InstanceId]) -> None:
        """These instances had their first turn, durably, of which nearly nobody wants to know.

        Who waits for the end would look in vain, while the next step has better things to do.
        """
        self._begun.update(instance_ids)
        if self._begun and self._telling is None:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(GATHER_S, self._tell_begun)

    def _tell_begun(self) -> None:
        self._telling = None
        begun, self._begun = self._begun, set()
        for instance_id in begun:
            self._give_change(instance_id)
        self._to_wake_instances |= begun
        self.send_wakes()

    def wake_others(self, queue: str) -> None:
        """There is work in a queue that this process can't start at once, durably."""
        self._to_wake_queues.add(queue)

    def send_wakes(self) -> None:
        """Tell other processes, soon and in one call for all that has come together."""
        if not self._is_listening_allowed:
            self._to_wake_queues.clear()
            self._to_wake_instances.clear()
            return
        pending = self._to_wake_queues or self._to_wake_instances
        if pending and (self._waking is None or self._waking.done()):
            self._waking = asyncio.create_task(self._wake_others(), name="duroxide_pg.wake")

    async def _wake_others(self) -> None:
        while self._to_wake_queues or self._to_wake_instances:
            queues, self._to_wake_queues = self._to_wake_queues, set()
            instances, self._to_wake_instances = self._to_wake_instances, set()
            parameters = {
                "waker": self._waiter,
                "queues": Texts(sorted(queues)),
                "instances": Texts(sorted(instances)),
            }
            try:
                await self._connection.call("wake", self._wake, parameters)
            except ProviderError as error:  # they look by themselves, only later
                logger.debug("could not wake other processes: %s", error)
            await asyncio.sleep(WAKE_INTERVAL_S)

    # Being told.

    async def _listen(self) -> None:
        pauses = Pauses()
        while True:
            connection: AsyncConnection[Any] | None = None
            try:
                connection = await self._connect("listen")
                await connection.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
                self.is_listening = True
                self.give_all()  # what was said before we listened
                pauses = Pauses()
                async for notification in connection.notifies():
                    self._told(notification.payload)
            except (psycopg.Error, ProviderError, OSError) as error:
                logger.debug("listening was interrupted: %s", error)
            finally:
                self.is_listening = False
                self._registered.clear()
                if connection is not None:
                    with suppress(psycopg.Error):
                        await self._release(connection)
            self.give_all()
            await pauses.next()

    def _told(self, payload: str) -> None:
        if payload == TURNS:
            self.turns.give()
        elif payload == "activities":
            self.activities.give()
        else:
            name, _, topic = payload.partition("/")
            if name == self._waiter:
                self._told_alone(topic)

    def _told_alone(self, topic: str) -> None:
        self._times_told += 1
        self._registered.clear()  # the registration was used up
        self.give_all()
        if topic == TURNS and not self.turns.is_awaited:
            self.wake_others(TURNS)  # we are busy; perhaps somebody else is not
            self.send_wakes()

    async def _look_when_idle(self) -> None:
        """One call every few seconds stands for both queues and keeps us registered."""
        while True:
            await asyncio.sleep(SAFETY_S)
            now = asyncio.get_running_loop().time()
            topics = sorted(topic for topic, until in self._registered.items() if until > now)
            if not (self.turns.is_awaited or self.activities.is_awaited):
                continue
            parameters = {"waiter": self._waiter, "topics": Texts(topics), "for_ms": REGISTERED_MS}
            try:
                ((turns, activities, next_due_ms, now_ms),) = await self._connection.call(
                    "idle", self._idle, parameters
                )
            except ProviderError as error:
                logger.debug("could not look for work: %s", error)
                continue
            self._registered.update(dict.fromkeys(topics, now + 2 * SAFETY_S))
            if turns:
                self.turns.give()
            elif next_due_ms is not None and next_due_ms - now_ms < SAFETY_S * 1000:
                # Of another process, which may be gone, or be one that can't take it.
                delay_s = (next_due_ms - now_ms) / 1000
                self._due = asyncio.get_running_loop().call_later(delay_s, self.turns.give)
            if activities:
                self.activities.give()
