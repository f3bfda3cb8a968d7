"""What arrives by name: first-in-first-out queues, and positional events.

Messages are handed to the futures that wait for them, oldest first on both sides. A future that was
given up is not there any more, so it never takes a message.
"""

from __future__ import annotations

from collections import deque

from duroxide.engine.futures import DurableFuture


class Mailbox:
    """One name: messages that nobody took yet, or futures that wait, never both at once."""

    __slots__ = ("_messages", "_readers")

    def __init__(self) -> None:
        self._messages: deque[tuple[int, str]] = deque()
        # Insertion-ordered, so that a reader in the middle leaves in constant time.
        self._readers: dict[DurableFuture[object], None] = {}

    def take(self) -> str | None:
        """The oldest message, or None if the mailbox is empty."""
        return self._messages.popleft()[1] if self._messages else None

    def wait(self, reader: DurableFuture[object]) -> None:
        self._readers[reader] = None

    def leave(self, reader: DurableFuture[object]) -> None:
        self._readers.pop(reader, None)

    def next_reader(self) -> DurableFuture[object] | None:
        """Take the reader that has waited longest out of the line."""
        for reader in self._readers:
            del self._readers[reader]
            return reader
        return None

    def keep(self, arrival: int, data: str) -> None:
        """Store a message that nobody waits for."""
        self._messages.append((arrival, data))

    def unread(self) -> list[tuple[int, str]]:
        return list(self._messages)


class Mailboxes:
    """All names of one kind (queues, or positional events) of an execution."""

    __slots__ = ("_arrivals", "_boxes")

    def __init__(self) -> None:
        self._boxes: dict[str, Mailbox] = {}
        self._arrivals = 0

    def __getitem__(self, name: str) -> Mailbox:
        box = self._boxes.get(name)
        if box is None:
            box = self._boxes[name] = Mailbox()
        return box

    def deliver(self, name: str, data: str) -> DurableFuture[object] | None:
        """Who gets the message; None if nobody waits, and then it is kept."""
        box = self[name]
        reader = box.next_reader()
        if reader is None:
            self._arrivals += 1
            box.keep(self._arrivals, data)
        return reader

    def unread(self) -> tuple[tuple[str, str], ...]:
        """(name, data) of all that nobody took, in the order of arrival across names."""
        found = [
            (arrival, name, data)
            for name, box in self._boxes.items()
            for arrival, data in box.unread()
        ]
        return tuple((name, data) for _, name, data in sorted(found))
