"""The embedded store: one SQLite file, or a database in memory that ends with its provider."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

from duroxide.clock import Clock, SystemClock
from duroxide.errors import ClientError, ProviderError
from duroxide.ids import ActivityToken, ExecutionId, InstanceId, TurnToken
from duroxide.providers.base import (
    UNTAGGED,
    AbandonActivity,
    ActivityPoll,
    Capabilities,
    CommitItem,
    CommitResult,
    CommitTurn,
    Cursor,
    EagerDispatch,
    Enqueue,
    FinishActivity,
    InstanceStatus,
    LeasedActivity,
    LeasedTurn,
    Message,
    Renewal,
    SessionOwner,
    TagSelection,
    TurnPoll,
)
from duroxide.providers.eager import EagerChoice
from duroxide.providers.rules import changes_what_clients_see
from duroxide.providers.sqlite_admin import SqliteAdmin
from duroxide.providers.sqlite_file import open_file
from duroxide.providers.sqlite_neighbours import Neighbours
from duroxide.providers.sqlite_rows import SQL, key_values_of, status_of
from duroxide.providers.sqlite_store import SqliteStore
from duroxide.providers.wakeup import ChangeFeed, Wakeup
from duroxide.providers.writer import Writer
from duroxide.state import KeyValue
from duroxide.storable import flaw_of
from duroxide.version import VersionRange

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Poll(Generic[T]):
    """What a look for work found, and when the next look may find more."""

    found: list[T]
    now_ms: int
    due_ms: int | None
    look_again_ms: int | None


class SqliteProvider(SqliteAdmin):
    """Durable storage in one file; several processes on one machine may share it.

    Use `open` or `in_memory`. All statements run in one thread, in transactions that group what is
    ready; nothing is asked while nothing happens.

    Args:
        path: of the file, made if it does not exist; None: in memory.
        durability: "normal" may lose the last commits when the machine (not the process) crashes, and
            is consistent in any case; "full" waits for the disk at each commit.
        clock: judges leases and visibility. Processes that share a file share the machine's clock.
    """

    _type = "sqlite"

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        durability: Literal["normal", "full"] = "normal",
        clock: Clock | None = None,
    ) -> None:
        if durability not in ("normal", "full"):
            raise ValueError(f"durability must be 'normal' or 'full', not {durability!r}")
        self._path = None if path is None else Path(path)
        self._durability = durability
        self._is_closed = False
        self._clock = clock or SystemClock()
        self._writer: Writer | None = None
        self._turns = Wakeup(self._clock)
        self._activities = Wakeup(self._clock)
        self._changes = ChangeFeed()
        self._turn_wakes = 0
        self._activity_wakes = 0
        self._neighbours = Neighbours(self._path, self._tell_everybody)
        self._prefix, self._tokens = uuid.uuid4().hex[:12], 0

    @classmethod
    def open(cls, path: str) -> Self:
        """A file, by its path or as a `sqlite:` URL; folders on the way are made."""
        plain = path.removeprefix("sqlite:")
        if plain != path and plain.startswith("//"):
            plain = plain[2:]
        return cls(plain.partition("?")[0])

    @classmethod
    def in_memory(cls) -> Self:
        return cls(None)

    @property
    def _native(self) -> Self:
        return self

    @property
    def name(self) -> str:
        return "sqlite"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            history_suffix=True,
            sticky_lease=True,
            eager_dispatch=True,
            fused_completion=True,
            change_feed=True,
            next_due=True,
            heartbeats=True,
            caller_transaction=self._path is not None,
            dead_letters=True,
        )

    # Opening and closing.

    async def start(self) -> None:
        """Open the file, and make its tables if it is new.

        Raises:
            ProviderError: the file can't be opened, or a newer release has written it.
        """
        if self._writer is None:
            self._open()

    def _open(self) -> None:
        connection = open_file(self._path, self._durability)
        self._store = SqliteStore(connection, self._new_token)
        self._neighbours.connection = connection
        self._writer = Writer(connection, self._neighbours.look_at_file)
        self._is_closed = False

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        self._is_closed = True
        if writer is not None:
            await asyncio.get_running_loop().run_in_executor(None, writer.close)

    def _new_token(self) -> str:
        self._tokens += 1
        return f"{self._prefix}-{self._tokens}"

    async def _run(self, operation: str, work: Callable[[], T]) -> T:
        if self._is_closed:
            raise ProviderError(operation, "the provider is closed: start() opens it again", False)
        if self._writer is None:
            self._open()  # on first use
        assert self._writer is not None
        return await self._writer.run(operation, work)

    # Polling.

    async def poll_turns(
        self,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        wait_ms: int = 0,
        known: Mapping[InstanceId, Cursor] | None = None,
        held: Sequence[TurnToken] = (),
        versions: Sequence[VersionRange] | None = None,
    ) -> TurnPoll:
        deadline_ms, wakes = self._clock.now_ms() + wait_ms, self._turn_wakes

        def look() -> _Poll[LeasedTurn]:
            now_ms, store = self._clock.now_ms(), self._store
            turns = store.lease_turns(
                now_ms,
                worker=worker,
                want=want,
                lease_ms=lease_ms,
                known=known or {},
                held=held,
                versions=versions,
            )
            due_ms = store.next_message_ms(now_ms)
            again_ms = None if turns else store.next_turn_ms(now_ms)
            return _Poll(turns, now_ms, due_ms, again_ms)

        while True:
            seen = self._turns.count
            poll = await self._run("poll_turns", look)
            if poll.found or poll.now_ms >= deadline_ms or wakes != self._turn_wakes:
                turns = tuple(poll.found)
                return TurnPoll(turns=turns, now_ms=poll.now_ms, next_due_ms=poll.due_ms)
            until_ms = min(deadline_ms, poll.look_again_ms or deadline_ms)
            await self._wait(self._turns, seen, until_ms)

    async def poll_activities(
        self,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        wait_ms: int = 0,
        tags: TagSelection = UNTAGGED,
        sessions: SessionOwner | None = None,
    ) -> ActivityPoll:
        deadline_ms, wakes = self._clock.now_ms() + wait_ms, self._activity_wakes

        def look() -> _Poll[LeasedActivity]:
            now_ms, store = self._clock.now_ms(), self._store
            leased = store.lease_activities(
                now_ms, worker=worker, want=want, lease_ms=lease_ms, tags=tags, sessions=sessions
            )
            again_ms = None if leased else store.next_activity_ms(now_ms)
            return _Poll(leased, now_ms, again_ms, again_ms)

        while True:
            seen = self._activities.count
            poll = await self._run("poll_activities", look)
            if poll.found or poll.now_ms >= deadline_ms or wakes != self._activity_wakes:
                leased = tuple(poll.found)
                return ActivityPoll(activities=leased, now_ms=poll.now_ms, next_due_ms=poll.due_ms)
            until_ms = min(deadline_ms, poll.look_again_ms or deadline_ms)
            await self._wait(self._activities, seen, until_ms)

    async def _wait(self, wakeup: Wakeup, seen: int, until_ms: int) -> None:
        """Wait for a notification since `seen`, for the time, or for a commit of another process."""
        if wakeup.count == seen:
            with self._neighbours.noticing():
                await wakeup.wait(until_ms)

    def _tell_everybody(self) -> None:
        self._turns.notify()
        self._activities.notify()
        self._changes.tell_all()

    # Writing.

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        if not batch:
            return ()

        def write() -> tuple[list[CommitResult], bool]:
            now_ms, store = self._clock.now_ms(), self._store
            choice = None if eager is None else EagerChoice(eager)
            results: list[CommitResult] = []
            makes_turns = False
            for item in batch:
                result = store.commit(item, now_ms, choice)
                results.append(result)
                makes_turns = makes_turns or self._makes_turns(item, now_ms)
            return results, makes_turns

        results, makes_turns = await self._run("commit", write)
        if makes_turns:
            self._turns.notify()
        if any(_makes_activities(i, r) for i, r in zip(batch, results, strict=True)):
            self._activities.notify()
        self._changes.tell(
            item.instance_id
            for item in batch
            if isinstance(item, CommitTurn) and changes_what_clients_see(item)
        )
        return results

    def _makes_turns(self, item: CommitItem, now_ms: int) -> bool:
        """There may be something new to poll for, now or earlier than expected."""
        if isinstance(item, AbandonActivity):
            return False
        if not isinstance(item, CommitTurn) or item.messages:
            return True
        return item.keep_lease_ms is None and self._store.has_visible(item.instance_id, now_ms)

    async def renew(
        self,
        *,
        turns: Sequence[TurnToken] = (),
        turn_lease_ms: int = 0,
        activities: Sequence[ActivityToken] = (),
        activity_lease_ms: int = 0,
    ) -> Renewal:
        def write() -> Renewal:
            now_ms, store = self._clock.now_ms(), self._store
            return Renewal(
                lost_turns=frozenset(
                    token for token in turns if not store.renew_turn(token, now_ms, turn_lease_ms)
                ),
                lost_activities=frozenset(
                    token
                    for token in activities
                    if not store.renew_activity(token, now_ms, activity_lease_ms)
                ),
                now_ms=now_ms,
            )

        return await self._run("renew", write)

    async def heartbeat(self, beats: Mapping[ActivityToken, str]) -> None:
        def write() -> None:
            now_ms = self._clock.now_ms()
            for token, text in beats.items():
                self._store.heartbeat(token, text, now_ms)

        await self._run("heartbeat", write)

    async def renew_sessions(self, *, owner: str, lease_ms: int, idle_ms: int) -> int:
        def write() -> int:
            return self._store.renew_sessions(owner, self._clock.now_ms(), lease_ms, idle_ms)

        return await self._run("renew_sessions", write)

    # In transactions of others.

    def send_within(self, connection: Any, messages: Sequence[Message]) -> None:
        self._check_caller(connection)
        store = SqliteStore(connection, self._new_token)
        for message in messages:
            store.commit(Enqueue(message=message), self._clock.now_ms(), None)

    async def send_within_async(self, connection: Any, messages: Sequence[Message]) -> None:
        self.send_within(connection, messages)

    def _check_caller(self, connection: Any) -> None:
        if not isinstance(connection, sqlite3.Connection):
            kind = type(connection).__name__
            raise TypeError(f"a sqlite3 connection can be used, not {kind}")
        if connection.isolation_level is None and not connection.in_transaction:
            raise ClientError("no transaction is open on the connection: begin one first")
        (path,) = connection.execute(
            "select file from pragma_database_list where name = 'main'"
        ).fetchone()
        if self._path is None or not path or not os.path.samefile(path, self._path):
            raise ClientError(f"the connection leads to {path or 'memory'}, not to {self._path}")

    # Reading.

    async def read_status(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, InstanceStatus]:
        def read() -> dict[InstanceId, InstanceStatus]:
            execute = self._store.connection.execute
            known = dict.fromkeys(i for i in instance_ids if flaw_of(i) is None)
            rows = (execute(SQL["status"], (i,)).fetchone() for i in known)
            return {row[0]: status_of(row) for row in rows if row is not None}

        return await self._run("read_status", read)

    async def read_history(
        self, instance_id: InstanceId, execution_id: ExecutionId | None = None
    ) -> Sequence[str]:
        def read() -> Sequence[str]:
            number = execution_id
            if flaw_of(instance_id) is not None:
                return ()
            if number is None:
                row = self._store.connection.execute(SQL["current"], (instance_id,)).fetchone()
                number = 0 if row is None else row[2]
            return self._store.history(instance_id, number, 0)

        return await self._run("read_history", read)

    async def read_key_values(self, instance_id: InstanceId) -> Mapping[str, KeyValue]:
        def read() -> dict[str, KeyValue]:
            if flaw_of(instance_id) is not None:
                return {}
            execute = self._store.connection.execute
            return key_values_of(execute(SQL["live_key_values"], {"instance_id": instance_id}))

        return await self._run("read_key_values", read)

    async def wait_for_change(self, instance_ids: Sequence[InstanceId], *, wait_ms: int) -> None:
        with self._neighbours.noticing():
            await self._changes.wait(instance_ids, wait_ms / 1000)

    def wake(self, *, turns: bool = False, activities: bool = False) -> None:
        if turns:
            self._turn_wakes += 1
            self._turns.notify()
        if activities:
            self._activity_wakes += 1
            self._activities.notify()


def _makes_activities(item: CommitItem, result: CommitResult) -> bool:
    match item:
        case CommitTurn():
            return len(result.activities) < len(item.activities)
        case FinishActivity() | AbandonActivity():
            return True
        case _:
            return False
