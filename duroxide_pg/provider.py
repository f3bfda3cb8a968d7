"""The storage contract on PostgreSQL: every call is one statement, for any number of instances."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from psycopg import AsyncConnection

from duroxide.clock import Clock
from duroxide.errors import ProviderError
from duroxide.ids import ActivityToken, ExecutionId, InstanceId, TurnToken
from duroxide.providers.base import (
    ActivityPoll,
    Capabilities,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    Cursor,
    EagerDispatch,
    InstanceStatus,
    Renewal,
    SessionOwner,
    TagMode,
    TagSelection,
    TurnPoll,
)
from duroxide.providers.rules import changes_what_clients_see
from duroxide.providers.text import unstorable
from duroxide.runtime.tasks import end
from duroxide.state import ExecutionStatus, KeyValue
from duroxide.storable import flaw_of
from duroxide.version import VersionRange
from duroxide_pg import migrate
from duroxide_pg.admin import PostgresAdmin
from duroxide_pg.arrays import Numbers, Texts
from duroxide_pg.batches import Answer, Batch, pack_version
from duroxide_pg.connections import HotConnection
from duroxide_pg.entra import PostgresEntraOptions, entra_parameters, entra_password
from duroxide_pg.errors import CannotConnect
from duroxide_pg.hints import Hint
from duroxide_pg.lanes import CommitLane
from duroxide_pg.queries import statements
from duroxide_pg.rows import TurnRow, UnreadableHistory, split_events, to_activity, to_status
from duroxide_pg.sources import Borrowed, Owned, Password, Pool, Source, dsn_of
from duroxide_pg.sweeping import sweep_regularly
from duroxide_pg.tokens import nonces, process_name, split_activity_token, split_turn_token
from duroxide_pg.waiting import Emptied, Waiting
from duroxide_pg.wakeups import TURNS, Wakeups

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")
_SESSION = {
    "default_transaction_isolation": "read committed",  # whatever the role's default is
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "enable_seqscan": "off",  # the tables are empty in the one minute and full in the next
    "jit": "off",
    "statement_timeout": "30s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
}
_CAPABILITIES = Capabilities(
    history_suffix=True,
    sticky_lease=True,
    eager_dispatch=True,
    fused_completion=True,
    change_feed=True,
    next_due=True,
    commit_hook=True,
    heartbeats=True,
    dead_letters=True,
    caller_transaction=True,
)
MOST = 100_000  # that one poll asks for
LONGEST_MS = 2**52  # that a lease is for: 140,000 years
CLOSE_S = 5  # for commits that are under way
_RELAXED = {**_SESSION, "synchronous_commit": "off"}  # leases: what a crash loses, expires


class PostgresProvider(PostgresAdmin):
    """Durable storage in one schema of a PostgreSQL database (14 or newer).

    A process holds a handful of connections, however much it runs: one to commit, two to poll, one to
    read, one to listen. They open when first used, and again when they break.

    Args:
        dsn: a libpq connection string or URL; what it does not say comes from `parameters`.
        schema: where `migrate.upgrade(dsn, schema)` has put the tables.
        commit_hook: the qualified name of an SQL function that every commit calls first, in its own
            transaction; see docs/reference/postgres.md.
        migrations: what `start` does about the schema: "verify" that it is what this release needs,
            "apply" what is missing, or "none".
        password: a password, or what is called for one at each new connection, for credentials that
            expire; may be async.
        pool: takes the place of a DSN: an open pool of psycopg or an engine of SQLAlchemy, which stays
            the caller's. It has to allow six connections for a worker, three for a client.
        is_pooled: the DSN leads to a pooler that gives each transaction another session (PgBouncer in
            transaction mode). Everything works by polling then, with more round trips.
        is_portable: the server has no LISTEN, no advisory locks and nothing that outlives a transaction
            in a session, as some kin of PostgreSQL. Includes `is_pooled`.
        clock: judges leases and visibility instead of the server's clock, for tests.
        parameters: libpq's, such as host, user, dbname, sslmode, sslrootcert; they win over the DSN.

    Raises:
        ValueError: an argument has a value that can't be meant, or libpq does not know it.
        TypeError: `pool` is of a kind that can't be used.
    """

    def __init__(
        self,
        dsn: str = "",
        *,
        schema: str = migrate.DEFAULT_SCHEMA,
        commit_hook: str | None = None,
        migrations: Literal["verify", "apply", "none"] = "verify",
        password: str | Password | None = None,
        pool: Pool | None = None,
        is_pooled: bool = False,
        is_portable: bool = False,
        clock: Clock | None = None,
        **parameters: Any,
    ) -> None:
        if commit_hook is not None and not _IDENTIFIER.fullmatch(commit_hook):
            raise ValueError(f"commit_hook {commit_hook!r} is not the name of a function")
        migrate.check_name(schema)
        if migrations not in ("verify", "apply", "none"):
            raise ValueError(f"migrations {migrations!r} is not 'verify', 'apply' or 'none'")
        if isinstance(password, str):
            password, parameters["password"] = None, password
        if pool is not None and (dsn or password or parameters):
            raise ValueError("give a pool, or how to connect, but not both")
        self._source: Source
        if pool is not None:
            self._source = Borrowed(pool)
        else:
            self._source = Owned(dsn_of(dsn, parameters), password)
        self._schema = schema
        self._clock = clock
        self._hook = commit_hook
        self._migrations = migrations
        self._is_pooled = is_pooled or is_portable
        self._is_portable = is_portable
        self._name = process_name()
        self._nonce = nonces(self._name)
        self._sql = statements(schema)
        self._turn_polls = self._hot("turns", _RELAXED)
        self._work = self._hot("activities", _RELAXED)
        self._reads = self._hot("reads", _SESSION)
        self._commits = self._hot("commits", _SESSION)
        self._waiting_commits = self._hot("commits, waiting", _SESSION)
        self._lane = self._new_lane(self._commits, waits=False)
        self._waiting_lane = self._new_lane(self._waiting_commits, waits=True)
        self._wakeups = Wakeups(
            waiter=self._name,
            channel=schema,
            connect=self._connect,
            release=self._source.release,
            connection=self._work,
            register=self._sql["register_waiter"],
            wake=self._sql["wake"],
            idle=self._sql["idle"],
            is_listening_allowed=clock is None and not self._is_pooled,
        )
        self._is_blocked_by_us = False
        self._emptied: dict[tuple[str, str], Emptied] = {}  # by worker and versions
        self._is_prepared = False
        self._sweeping: asyncio.Task[None] | None = None
        super().__init__(self._reads, self._sql, self._now_ms)

    @classmethod
    def connect(cls, database_url: str, **options: Any) -> Self:
        """A provider that makes or upgrades its schema, `duroxide`, when it starts."""
        return cls(database_url, migrations="apply", **options)

    @classmethod
    def connect_with_schema(cls, database_url: str, schema: str, **options: Any) -> Self:
        """A provider that makes or upgrades the schema of that name when it starts."""
        return cls(database_url, schema=schema, migrations="apply", **options)

    @classmethod
    def connect_with_entra(
        cls,
        host: str,
        port: int,
        database: str,
        user: str,
        options: PostgresEntraOptions | None = None,
        **more: Any,
    ) -> Self:
        """`connect` with tokens of Microsoft Entra ID, over TLS that verifies the server.

        Args:
            more: arguments of `PostgresProvider`.

        Raises:
            ExtraMissing: no credential is given and azure-identity is not installed.
        """
        return cls.connect_with_schema_and_entra(
            host, port, database, user, migrate.DEFAULT_SCHEMA, options, **more
        )

    @classmethod
    def connect_with_schema_and_entra(
        cls,
        host: str,
        port: int,
        database: str,
        user: str,
        schema: str,
        options: PostgresEntraOptions | None = None,
        **more: Any,
    ) -> Self:
        """`connect_with_schema` with tokens of Microsoft Entra ID; see `connect_with_entra`."""
        options = options or PostgresEntraOptions()
        return cls(
            schema=schema,
            migrations="apply",
            password=entra_password(options),
            **{**more, "host": host, "port": port, "dbname": database, "user": user},
            **entra_parameters(options),
        )

    def _hot(self, purpose: str, settings: Mapping[str, str]) -> HotConnection:
        return HotConnection(
            purpose,
            self._connect,
            settings,
            release=self._source.release,
            is_pooled=self._is_pooled,
        )

    def _new_lane(self, connection: HotConnection, *, waits: bool) -> CommitLane:
        return CommitLane(
            connection,
            self._sql["commit"],
            hook=self._hook,
            waits=waits,
            now_ms=self._now_ms,
            applied=self._applied,
        )

    @property
    def name(self) -> str:
        return "postgres"

    @property
    def schema(self) -> str:
        return self._schema

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    async def start(self) -> None:
        """Check that the schema is there and is what this release needs, and begin to listen.

        Raises:
            SetupError: one of `duroxide_pg.errors`, with its remedy.
        """
        if self._migrations != "none" and not self._is_prepared:
            conninfo = await self._source.conninfo()
            try:
                await asyncio.to_thread(self._prepare_schema, conninfo)
            except CannotConnect as error:
                words = self._source.not_let_in(error.__cause__)
                raise CannotConnect(error.problem, error.remedy + words) from error.__cause__
            self._is_prepared = True  # a blocking client starts it anew for each call
        self._wakeups.start()
        if self._sweeping is None and self._clock is None:  # what a test's clock says is not old
            self._sweeping = asyncio.create_task(
                sweep_regularly(self._reads, self._sql["sweep"]), name="duroxide_pg.sweep"
            )

    def _prepare_schema(self, dsn: str) -> None:
        ours = migrate.engine_migrations(self._schema)
        if self._migrations == "apply":
            ours.upgrade(dsn)
            return
        with migrate.connect(dsn) as connection:
            ours.require(connection)

    async def close(self) -> None:
        """Let commits end that are under way, for a few seconds at most, and close all connections."""
        await asyncio.gather(self._lane.close(CLOSE_S), self._waiting_lane.close(CLOSE_S))
        await self._end_service()
        self._is_prepared = False
        for connection in self._hot_connections():
            await connection.close()

    async def rest(self) -> None:
        """Give up all connections, after the calls that use them; later calls open what they need.

        Without `start` nothing listens then, so that waits look for themselves.
        """
        await self._end_service()
        for connection in self._hot_connections():
            await connection.rest()

    async def _end_service(self) -> None:
        if self._sweeping is not None:
            await end(self._sweeping)
            self._sweeping = None
        await self._wakeups.close()

    def _hot_connections(self) -> tuple[HotConnection, ...]:
        return (
            self._turn_polls,
            self._work,
            self._reads,
            self._commits,
            self._waiting_commits,
        )

    async def _connect(self, purpose: str) -> AsyncConnection[Any]:
        return await self._source.open(purpose)

    def _now_ms(self) -> int | None:
        return self._clock.now_ms() if self._clock is not None else None

    def _waiting(self, hint: Hint, topics: Sequence[str], wait_ms: int) -> Waiting:
        return Waiting(self._wakeups, hint, topics, wait_ms, self._clock)

    # Turns.

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
        waiting = self._waiting(self._wakeups.turns, [TURNS], wait_ms)
        if versions is not None and not versions:
            want = 0
        parameters = self._poll_parameters(worker, want, lease_ms, known, versions)
        await waiting.go_on_from(self._emptied.pop((worker, str(versions)), None))
        while True:
            parameters["nonce"], parameters["now"] = self._nonce(), self._now_ms()
            await waiting.look(is_busy=self._lane.is_busy)
            parameters.update(_held_columns(held))  # as they are by now
            head, *rows = await self._turn_polls.call(
                "poll_turns", self._sql["poll_turns"], parameters
            )
            waiting.answered()
            kept = frozenset(parameters["held_nonces"])
            turns = await self._to_turns([TurnRow(*row[:20]) for row in rows], known, kept)
            now_ms, next_due_ms, blocked = head[20:]
            self._is_blocked_by_us = blocked > 0
            if turns or not await waiting.go_on(now_ms, next_due_ms, is_blocked=blocked > 1):
                if len(turns) == want > 0:
                    self._wakeups.wake_others(TURNS)  # there may be more than we can take
                    self._wakeups.send_wakes()
                elif turns:
                    emptied = waiting.emptied(now_ms, next_due_ms, is_blocked=blocked > 1)
                    self._emptied[worker, str(versions)] = emptied
                return TurnPoll(turns=turns, now_ms=now_ms, next_due_ms=next_due_ms)

    def _poll_parameters(
        self,
        worker: str,
        want: int,
        lease_ms: int,
        known: Mapping[InstanceId, Cursor] | None,
        versions: Sequence[VersionRange] | None,
    ) -> dict[str, Any]:
        low = high = None
        if versions is not None:
            low = Numbers(pack_version(version_range.low) for version_range in versions)
            high = Numbers(pack_version(version_range.high) for version_range in versions)
        return {
            "worker": worker,
            "want": _count(want),
            "lease_ms": _span(lease_ms),
            "low": low,
            "high": high,
            "cached_by": self._lane.writer if known is not None else None,
            "try_locks": not self._is_portable,
        }

    async def _to_turns(
        self,
        rows: Sequence[TurnRow],
        known: Mapping[InstanceId, Cursor] | None,
        kept: frozenset[str | None],
    ) -> tuple[Any, ...]:
        """Turns with the history that the caller lacks; read now if the store left it out wrongly.

        Args:
            kept: nonces of leases for which the caller has the history, or hands the turn back.
        """
        known = known if known is not None else {}
        unread = [
            row.instance_id
            for row in rows
            if row.is_history_omitted
            and row.nonce not in kept
            and not row.has(known.get(row.instance_id))
        ]
        read: dict[str, Sequence[str]] = {}
        if unread:
            parameters = {"instance_ids": Texts(unread)}
            read = dict(
                await self._turn_polls.call("poll_turns", self._sql["read_histories"], parameters)
            )
        turns = []
        for row in rows:
            cursor = known.get(row.instance_id)
            if not row.is_history_omitted:
                history: Sequence[str] | None = row.history or ()
            elif row.has(cursor) or row.nonce in kept:
                history = None
            else:
                history = read.get(row.instance_id, ())
            turns.append(row.to_turn(history, cursor))
        return tuple(turns)

    # Activities.

    async def poll_activities(
        self,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        wait_ms: int = 0,
        tags: TagSelection = TagSelection(),  # noqa: B008  # frozen
        sessions: SessionOwner | None = None,
    ) -> ActivityPoll:
        keys = _tag_keys(tags)
        is_open = keys is None or None in keys
        topics = ["activities:*"] if is_open else [f"activities:{key}" for key in keys or ()]
        waiting = self._waiting(self._wakeups.activities, topics, wait_ms)
        parameters = {
            "worker": worker,
            "want": _count(want) if tags.mode is not TagMode.NONE else 0,
            "lease_ms": _span(lease_ms),
            "tags": Texts(keys) if keys is not None else None,
            "owner": sessions.owner if sessions is not None else None,
            "session_lease_ms": _span(sessions.lease_ms) if sessions else 0,
            "max_new": _count(sessions.max_new) if sessions else 0,
        }
        while True:
            parameters["nonce"], parameters["now"] = self._nonce(), self._now_ms()
            await waiting.look(is_busy=self._lane.is_busy)
            head, *rows = await self._work.call(
                "poll_activities", self._sql["poll_activities"], parameters
            )
            waiting.answered()
            now_ms, next_due_ms = head[12:]
            if rows or not await waiting.go_on(now_ms, next_due_ms, is_blocked=False):
                activities = tuple(to_activity(row[:12]) for row in rows)
                return ActivityPoll(activities=activities, now_ms=now_ms, next_due_ms=next_due_ms)

    # Commits.

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        """Write each item whole or not at all, all in one transaction, and answer item by item.

        Sent again with the same objects after a retryable error, it has the effect of one call. A
        caller that is cancelled only stops waiting.
        """
        refused = {id(item): error for item in batch if (error := _refusal(item)) is not None}
        storable = [item for item in batch if id(item) not in refused] if refused else batch
        results, busy = await self._lane.commit(storable, eager)
        for turn in busy:  # alone, so that whoever has the rows holds up nobody else
            alone, _ = await self._waiting_lane.commit([turn], eager)
            results.update(alone)
        for key, error in refused.items():
            results[key] = CommitResult(code=CommitCode.REFUSED, error=error)
        return [results[id(item)] for item in batch]

    def _applied(self, batch: Batch, answer: Answer) -> None:
        """A batch is durable: tell whom it concerns."""
        wakeups = self._wakeups
        kinds = batch.columns["m_visible"]
        # A message for later counts too: who waits for the next one that is due has to wait for less.
        if answer.has_more or kinds or batch.abandoned_turns or self._is_blocked_by_us:
            wakeups.turns.give()
            if not wakeups.turns.is_awaited and (answer.has_more or None in kinds):
                wakeups.wake_others(TURNS)
        tags = batch.columns["a_tag"]
        left = {
            tag
            for tag, is_eager in zip(tags, batch.columns["a_eager"], strict=True)
            if not is_eager
        }
        if left or batch.abandoned_activities:
            wakeups.activities.give()
            for tag in left:
                wakeups.wake_others(f"activities:{tag or ''}")
                wakeups.wake_others("activities:*")
        seen = [turn for turn in batch.turns if changes_what_clients_see(turn)]
        wakeups.changed(turn.instance_id for turn in seen if not _only_began(turn))
        wakeups.began(turn.instance_id for turn in seen if _only_began(turn))
        wakeups.send_wakes()

    # Leases.

    async def renew(
        self,
        *,
        turns: Sequence[TurnToken] = (),
        turn_lease_ms: int = 0,
        activities: Sequence[ActivityToken] = (),
        activity_lease_ms: int = 0,
    ) -> Renewal:
        turn_rows = [split_turn_token(token) for token in turns]
        rows = [split_activity_token(token) for token in activities]
        parameters = {
            "t_instance": Texts(instance_id for _, instance_id in turn_rows),
            "t_nonce": Texts(nonce for nonce, _ in turn_rows),
            "turn_lease_ms": _span(turn_lease_ms),
            "y_instance": Texts(instance_id for _, _, instance_id in rows),
            "y_id": Numbers(number for _, number, _ in rows),
            "y_nonce": Texts(nonce for nonce, _, _ in rows),
            "activity_lease_ms": _span(activity_lease_ms),
            "now": self._now_ms(),
        }
        ((lost_turns, lost_activities, now_ms),) = await self._work.call(
            "renew", self._sql["renew"], parameters
        )
        return Renewal(
            lost_turns=frozenset(turns[place - 1] for place in lost_turns or ()),
            lost_activities=frozenset(
                activities[place - 1] for place in lost_activities or () if place is not None
            ),
            now_ms=now_ms,
        )

    async def heartbeat(self, beats: Mapping[ActivityToken, str]) -> None:
        rows = sorted((split_activity_token(token)[::-1], text) for token, text in beats.items())
        parameters = {
            "y_instance": Texts(instance_id for (instance_id, _, _), _ in rows),
            "y_id": Numbers(number for (_, number, _), _ in rows),
            "y_nonce": Texts(nonce for (_, _, nonce), _ in rows),
            "y_data": Texts(text for _, text in rows),
            "now": self._now_ms(),
        }
        await self._work.call("heartbeat", self._sql["heartbeat"], parameters)

    async def renew_sessions(self, *, owner: str, lease_ms: int, idle_ms: int) -> int:
        parameters = {
            "owner": owner,
            "lease_ms": _span(lease_ms),
            "idle_ms": _span(idle_ms),
            "now": self._now_ms(),
        }
        ((count,),) = await self._work.call(
            "renew_sessions", self._sql["renew_sessions"], parameters
        )
        return int(count)

    # Reads.

    async def read_status(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, InstanceStatus]:
        known = [instance_id for instance_id in instance_ids if flaw_of(instance_id) is None]
        rows = await self._reads.call(
            "read_status", self._sql["read_status"], {"instance_ids": Texts(known)}
        )
        return {row[0]: to_status(row) for row in rows}

    async def read_history(
        self, instance_id: InstanceId, execution_id: ExecutionId | None = None
    ) -> Sequence[str]:
        if flaw_of(instance_id) is not None:
            return ()
        rows = await self._reads.call(
            "read_history",
            self._sql["read_history"],
            {"instance_id": instance_id, "execution_id": execution_id},
        )
        try:
            return tuple(event for _, _, text in rows for event in split_events(text))
        except UnreadableHistory as error:
            raise ProviderError("read_history", f"{instance_id!r}: {error}", False) from error

    async def read_key_values(self, instance_id: InstanceId) -> Mapping[str, KeyValue]:
        if flaw_of(instance_id) is not None:
            return {}
        rows = await self._reads.call(
            "read_key_values", self._sql["read_key_values"], {"instance_id": instance_id}
        )
        live = {}
        for key, is_changed, changed, stored, updated_at_ms in rows:
            value = changed if is_changed else stored
            if value is not None:
                live[key] = KeyValue(value=value, updated_at_ms=updated_at_ms)
        return live

    async def wait_for_change(self, instance_ids: Sequence[InstanceId], *, wait_ms: int) -> None:
        await self._wakeups.wait_for_change(instance_ids, wait_ms / 1000)

    def wake(self, *, turns: bool = False, activities: bool = False) -> None:
        """Make waiting polls of this process look again, and return even if they find nothing."""
        if turns:
            self._wakeups.turns.give(return_early=True)
        if activities:
            self._wakeups.activities.give(return_early=True)


def _count(wanted: int) -> int:
    return min(max(wanted, 0), MOST)


def _span(milliseconds: int) -> int:
    return min(max(milliseconds, 0), LONGEST_MS)


def _held_columns(held: Sequence[TurnToken]) -> dict[str, Texts]:
    kept = [split_turn_token(token) for token in held]
    return {
        "held_ids": Texts(instance_id for _, instance_id in kept),
        "held_nonces": Texts(nonce for nonce, _ in kept),
    }


def _only_began(turn: CommitTurn) -> bool:
    is_running = turn.status is ExecutionStatus.RUNNING
    return is_running and turn.custom_status is None and not turn.key_values


def _tag_keys(tags: TagSelection) -> list[str | None] | None:
    """The tags as the store has them, '' for none; None: any. A None in front: any but the others."""
    match tags.mode:
        case TagMode.DEFAULT_ONLY:
            return [""]
        case TagMode.TAGS:
            return [*sorted(tags.tags)]
        case TagMode.DEFAULT_AND:
            return ["", *sorted(tags.tags)]
        case TagMode.EXCEPT:
            return [None, *sorted(tags.tags)]
        case TagMode.ANY:
            return None
        case TagMode.NONE:
            return []


def _refusal(item: CommitItem) -> str | None:
    """Why the item can't be stored, or None."""
    error = unstorable(item)
    if error is None and isinstance(item, CommitTurn):
        if any("\n" in event for event in item.events):
            return "an event contains a line break outside of a string"
        if any(activity.instance_id != item.instance_id for activity in item.activities):
            return "an activity is not of the instance whose turn adds it"
        if any(activity.tag == "" for activity in item.activities):
            return "a tag is empty"
    return error
