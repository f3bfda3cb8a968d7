"""Places for activities: how many are taken, of which tags, and how many of those run at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from duroxide.definitions import ActivityDef
from duroxide.ids import ActivityToken
from duroxide.providers.base import EagerDispatch, TagMode, TagSelection
from duroxide.runtime.admission import Admission, Begin, Gates
from duroxide.runtime.ahead import Ahead
from duroxide.runtime.caps import TagCaps
from duroxide.runtime.headstarts import HeadStarts
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.slots import Slots


class Places:
    """Counts what is taken, and lets through what may run.

    An activity that is taken has a slot and counts for the cap of its tag until its code has ended; it
    runs once it is behind its gates. More may be taken than may run, so that there is always a next one.

    Args:
        opened: told that there is room again for a tag that was full.
    """

    def __init__(self, options: RuntimeOptions, opened: Callable[[], None]) -> None:
        count = options.activity_slots
        self._tags = options.tags
        self._has_caps = options.tag_caps is not None
        self._opened = opened
        self._ahead = Ahead(count, options.prefetch_ms / 1000)
        self._caps = TagCaps(options.tag_caps, lambda: self._ahead.count / max(1, count))
        self._admission = Admission(count)
        self._taken: dict[ActivityToken, str | None] = {}  # their tags
        self.slots = Slots(count)
        self.head_starts = HeadStarts(self.slots, self._caps, self._admission, self._free)

    def offer(self, worker: str, lease_ms: int) -> EagerDispatch | None:
        """What a commit may lease to this process at once; None: nothing."""
        free = self.slots.free
        if free == 0 or self._tags.mode is TagMode.NONE:
            return None
        room = self._caps.room() if self._has_caps else None
        return EagerDispatch(
            worker=worker, limit=free, lease_ms=lease_ms, tags=self.selection(), room=room
        )

    def selection(self) -> TagSelection:
        """What to ask the store for: what this process takes, without the tags that are full."""
        return self._caps.selection(self._tags)

    def at_most(self, want: int) -> int:
        """How many to ask the store for."""
        return self._caps.at_most(want)

    def take(self, token: ActivityToken, tag: str | None) -> bool:
        """Count an activity that was leased to this process; whether there was room for it."""
        has_room = self._caps.has_room(tag)
        self._taken[token] = tag
        self.slots.take()
        self._caps.take(tag)
        return has_room

    def free(self, token: ActivityToken) -> None:
        """Its code has ended, or never runs; once is enough."""
        if token in self._taken:
            self._free(self._taken.pop(token))

    def _free(self, tag: str | None) -> None:
        self.slots.give()
        if self._caps.give(tag):
            self._opened()

    def gates(self, definition: ActivityDef[..., Any], tag: str | None) -> Gates:
        """The gates of an activity: of its tag, from the most special, then of its name."""
        limit = definition.max_concurrency
        by_name = () if limit is None else ((definition.name, limit),)
        by_tag = self._caps.gates(tag)
        return (*((f"tag {level}", cap) for level, cap in by_tag), *by_name) if by_tag else by_name

    def enter(self, gates: Gates, begin: Begin) -> None:
        """Call `begin`, now or as soon as there is room behind the gates; `leave` has to follow."""
        self._admission.enter(gates, begin)

    def leave(self, gates: Gates) -> None:
        self._admission.leave(gates)

    def ran(self, seconds: float) -> None:
        """How long the code of one ran: what comes next is taken ahead accordingly."""
        self._ahead.ended(seconds)
        self.slots.ahead = self._ahead.count

    def waited(self, seconds: float) -> None:
        """How long one waited behind the gates in vain."""
        self._ahead.waited(seconds)
        self.slots.ahead = self._ahead.count
