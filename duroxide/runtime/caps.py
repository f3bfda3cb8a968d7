"""How many activities of a tag this process takes, so that some of one kind leave room for others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from duroxide.providers.base import RoomOf, TagMode, TagSelection

logger = logging.getLogger("duroxide.runtime")

CapOf: TypeAlias = Callable[[str], int | None]
"""The most of a tag and of those below it that run at once; None: no such limit."""


def levels(tag: str | None) -> tuple[str, ...]:
    """The tag and those above it, from the most special: `a/b` is below `a`."""
    if tag is None:
        return ()
    parts = tag.split("/")
    return tuple("/".join(parts[:count]) for count in range(len(parts), 0, -1))


class TagCaps:
    """Counts what is in hand. A tag that is full is left to others until there is room.

    Args:
        cap_of: None: there are no caps.
        ahead: how many more than may run are taken, as a part of those that may run.
    """

    def __init__(self, cap_of: CapOf | None, ahead: Callable[[], float]) -> None:
        self._cap_of = cap_of
        self._ahead = ahead
        self._taken: Counter[str] = Counter()
        self._gates: dict[str, tuple[tuple[str, int], ...]] = {}  # by tag, of which there are few
        self._known: dict[str, int] = {}  # capped levels that there has been one of
        self._full: frozenset[str] = frozenset()
        self._selection = TagSelection(TagMode.ANY)

    def gates(self, tag: str | None) -> tuple[tuple[str, int], ...]:
        """Levels of a tag with what may run of each at once, the most special first."""
        if self._cap_of is None or tag is None:
            return ()
        gates = self._gates.get(tag)
        if gates is None:
            capped = ((level, _cap_of(self._cap_of, level)) for level in levels(tag))
            gates = tuple((level, cap) for level, cap in capped if cap is not None)
            self._gates[tag] = gates
        return gates

    def take(self, tag: str | None) -> None:
        for level, cap in self.gates(tag):
            self._known[level] = cap
            self._taken[level] += 1
            if level not in self._full and self._room(level, cap) <= 0:
                self._select(self._full | {level})

    def give(self, tag: str | None) -> bool:
        """One is not in hand any more; whether there is room again where there was none."""
        opened = set()
        for level, cap in self.gates(tag):
            self._taken[level] -= 1
            if level in self._full and self._room(level, cap) > 0:
                opened.add(level)
        if opened:
            self._select(self._full - opened)
        return bool(opened)

    def selection(self, tags: TagSelection) -> TagSelection:
        """What to ask the store for: of all tags those that are not full."""
        return self._selection if self._full and tags.mode is TagMode.ANY else tags

    def room(self) -> RoomOf:
        """For an offer: of a tag, its capped levels with how many more are taken of each by now."""
        taken, ahead = dict(self._taken), self._ahead()

        def room_of(tag: str) -> tuple[tuple[str, int], ...]:
            return tuple(
                (level, cap + int(cap * ahead) - taken.get(level, 0))
                for level, cap in self.gates(tag)
            )

        return room_of

    def has_room(self, tag: str | None) -> bool:
        return all(self._room(level, cap) > 0 for level, cap in self.gates(tag))

    def has_room_to_run(self, tag: str | None, count: int) -> bool:
        """Whether so many more could run at once, and not only be taken."""
        return all(cap - self._taken[level] >= count for level, cap in self.gates(tag))

    def at_most(self, want: int) -> int:
        """How many to ask for, so that all fit whatever comes, but of a tag that is new here."""
        for level, cap in self._known.items():
            if level not in self._full:
                want = min(want, max(1, self._room(level, cap)))
        return want

    def _room(self, level: str, cap: int) -> int:
        return self._limit(cap) - self._taken[level]

    def _limit(self, cap: int) -> int:
        return cap + int(cap * self._ahead())

    def _select(self, full: frozenset[str]) -> None:
        self._full = full
        self._selection = TagSelection(TagMode.EXCEPT, full) if full else TagSelection(TagMode.ANY)


def _cap_of(cap_of: CapOf, level: str) -> int | None:
    """What the author's function says, or no limit: it is asked in the midst of polls and commits."""
    try:
        cap = cap_of(level)
    except Exception:
        logger.exception("tag_caps(%r) raised: there is no limit for that tag", level)
        return None
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int)):
        logger.error("tag_caps(%r) gave %r, not a number or None: there is no limit", level, cap)
        return None
    return cap
