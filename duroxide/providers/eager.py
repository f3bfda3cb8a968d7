"""Which of the activities that a commit adds go to the committing worker at once."""

from __future__ import annotations

from collections import Counter

from duroxide.providers.base import Activity, EagerDispatch


class EagerChoice:
    """Counts what one commit gives of an offer, over all its items."""

    def __init__(self, offer: EagerDispatch) -> None:
        self.offer = offer
        self._left = offer.limit
        self._given: Counter[str] = Counter()

    def takes(self, activity: Activity) -> bool:
        """Whether the worker gets it; if so it is counted. A session's are left to the poll."""
        offer = self.offer
        if self._left <= 0 or activity.session_id is not None:
            return False
        if not offer.tags.accepts(activity.tag):
            return False
        if offer.room is not None and activity.tag is not None:
            rooms = offer.room(activity.tag)
            if any(self._given[level] >= room for level, room in rooms):
                return False
            self._given.update(level for level, _ in rooms)
        self._left -= 1
        return True
