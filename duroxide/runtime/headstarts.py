"""Activities that begin while the turn that adds them is being committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from duroxide.activity_context import Foreseen, HeadStart
from duroxide.definitions import BeginEarly
from duroxide.ids import EventId, ExecutionId, InstanceId
from duroxide.runtime.admission import Admission, Gates
from duroxide.runtime.caps import TagCaps
from duroxide.runtime.slots import Slots

logger = logging.getLogger("duroxide.runtime")

PATIENCE_S = 0.2
"""How long a head start waits for its commit. What was begun may hold what that commit waits for."""
REST_S = 10.0
"""How long none are given after one has waited in vain: perhaps every commit takes that long here."""

Key: TypeAlias = tuple[InstanceId, ExecutionId, EventId]


@dataclass(slots=True, eq=False)
class Begun:
    """A head start and what it occupies."""

    head_start: HeadStart
    tag: str | None
    gates: Gates
    expiry: asyncio.TimerHandle


class HeadStarts:
    """Begins activities early and undoes those that do not come.

    A head start has a place like an activity that runs: it counts for the caps of its tag and for the
    gates. There has to be a second place for the lease of the activity itself, so a busy process gives
    no head starts; it would gain nothing from them.

    Args:
        free: gives back a slot and a place among those of the tag.
    """

    def __init__(
        self, slots: Slots, caps: TagCaps, admission: Admission, free: Callable[[str | None], None]
    ) -> None:
        self._slots = slots
        self._caps = caps
        self._admission = admission
        self._free = free
        self._begun: dict[Key, Begun] = {}
        self._rests_until = 0.0  # by the loop's clock

    def give(self, foreseen: Foreseen, begin: BeginEarly, tag: str | None, gates: Gates) -> None:
        """Begin an activity, if there is room."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._rests_until:
            return
        has_room = self._slots.free >= 2 and self._caps.has_room_to_run(tag, 2)
        if not has_room or not self._admission.is_open(gates):
            return
        try:
            head_start = begin(foreseen)
        except Exception:  # the activity itself will say it better
            logger.debug("no head start for %s", foreseen, exc_info=True)
            return
        if head_start is None:
            return
        self._slots.take()
        self._caps.take(tag)
        self._admission.enter(gates, _nothing)
        key = foreseen.instance_id, foreseen.execution_id, foreseen.activity_id
        expiry = loop.call_later(PATIENCE_S, self._expire, key)
        self._begun[key] = Begun(head_start, tag, gates, expiry)

    def _expire(self, key: Key) -> None:
        self._rests_until = asyncio.get_running_loop().time() + REST_S
        self.drop(key)

    def claim(self, key: Key) -> Begun | None:
        """The head start of an activity that has come; its place behind the gates goes with it."""
        begun = self._begun.pop(key, None) if self._begun else None
        if begun is not None:
            begun.expiry.cancel()
            self._free(begun.tag)
        return begun

    def drop(self, key: Key) -> None:
        begun = self.claim(key)
        if begun is not None:
            self.undo(begun)

    def drop_all(self) -> None:
        for key in tuple(self._begun):
            self.drop(key)

    def undo(self, begun: Begun) -> None:
        """End one that was claimed and is not wanted."""
        begun.head_start.drop()
        self._admission.leave(begun.gates)


def _nothing() -> None:
    pass
