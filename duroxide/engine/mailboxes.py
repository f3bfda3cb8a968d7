"""What arrives by name: first-in-first-out queues, and positional events.

Messages are handed to the futures that wait for them, oldest first on both sides. A future that was
given up is not there any more, so it never takes a message. What a future took and nobody has seen
counts as unread still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from duroxide.engine.futures import DurableFuture

Reader = DurableFuture[Any]

_MANY_HELD = 16


class Mailbox:
    """One name: messages that nobody took yet, and futures that wait."""

    __slots__ = ("_messages", "_readers")

    def __init__(self) -> None:
        self._messages: deque[tuple[int, str]] = deque()
        # Insertion-ordered, so that a reader in the middle leaves in constant time.
        self._readers: dict[Reader, None] = {}

    def take(self) -> tuple[int, str] | None:
        """The oldest message and the number of its arrival, or None if the mailbox is empty."""
        return self._messages.popleft() if self._messages else None

    def wait(self, reader: Reader) -> None:
        self._readers[reader] = None

    def leave(self, reader: Reader) -> None:
        self._readers.pop(reader, None)

    def next_reader(self, accepts: Callable[[Reader], bool] | None = None) -> Reader | None:
        """Take the reader that has waited longest out of the line."""
        for reader in self._readers:
            if accepts is None or accepts(reader):
                del self._readers[reader]
                return reader
        return None

    def keep(self, arrival: int, data: str) -> None:
        """Store a message that nobody waits for, in the order of arrival."""
        messages = self._messages
        messages.append((arrival, data))
        if len(messages) > 1 and messages[-2][0] > arrival:
            self._messages = deque(sorted(messages))

    def unread(self) -> list[tuple[int, str]]:
        return list(self._messages)


class Mailboxes:
    """All names of one kind (queues, or positional events) of an execution."""

    __slots__ = ("_arrivals", "_boxes", "_held", "_many_held")

    def __init__(self) -> None:
        self._boxes: dict[str, Mailbox] = {}
        self._arrivals = 0
        # What futures took that nobody waited for; those that were seen since leave in bulk.
        self._held: dict[Reader, tuple[int, str, str]] = {}
        self._many_held = _MANY_HELD

    def __getitem__(self, name: str) -> Mailbox:
        box = self._boxes.get(name)
        if box is None:
            box = self._boxes[name] = Mailbox()
        return box

    def deliver(self, name: str, data: str) -> Reader | None:
        """Who gets the message; None if nobody waits, and then it is kept."""
        self._arrivals += 1
        return self._hand(name, self._arrivals, data, None)

    def take(self, name: str, reader: Reader) -> str | None:
        """The oldest message, for a reader that is not awaited yet; None if there is none."""
        message = self[name].take()
        if message is None:
            return None
        self._hold(reader, (message[0], name, message[1]))
        return message[1]

    def recall(self, reader: Reader) -> tuple[int, str, str] | None:
        """(arrival, name, data) of what the reader took, if nobody has seen it."""
        held = self._held.pop(reader, None)
        return None if reader.was_seen() else held

    def give_back(
        self, message: tuple[int, str, str], accepts: Callable[[Reader], bool]
    ) -> Reader | None:
        """Who gets a message that was taken in vain; None if nobody waits, and then it is kept."""
        arrival, name, data = message
        return self._hand(name, arrival, data, accepts)

    def _hand(
        self, name: str, arrival: int, data: str, accepts: Callable[[Reader], bool] | None
    ) -> Reader | None:
        box = self[name]
        reader = box.next_reader(accepts)
        if reader is None:
            box.keep(arrival, data)
        elif not reader.is_awaited():
            self._hold(reader, (arrival, name, data))
        return reader

    def _hold(self, reader: Reader, message: tuple[int, str, str]) -> None:
        held = self._held
        if len(held) >= self._many_held:
            for other in [r for r in held if r.done() and r.was_seen()]:
                del held[other]
            self._many_held = 2 * len(held) + _MANY_HELD
        held[reader] = message

    def unread(self) -> tuple[tuple[str, str], ...]:
        """(name, data) of all that nobody took or saw, in the order of arrival across names."""
        found = [
            (arrival, name, data)
            for name, box in self._boxes.items()
            for arrival, data in box.unread()
        ]
        found += (message for reader, message in self._held.items() if not reader.was_seen())
        return tuple((name, data) for _, name, data in sorted(found))
