"""Steps whose effect and record are two commits: outside of a transaction, or in another database.

The effect comes first. A worker that dies between the two leaves it unknown whether there was one, and
the step is delivered again: it runs again (at least once), or fails if the author or the operator has
said `on_ambiguous = fail` (at most once). So that the second delivery knows of the first, the step is
marked as begun in df._attempts, in a commit of its own, before its text is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, pq

from pg_durable.identity import Actor, Identity
from pg_durable.quoting import quote_identifier, quote_literal
from pg_durable.steps import wire
from pg_durable.steps.connections import StepConnections
from pg_durable.steps.desk import Desk
from pg_durable.steps.failures import (
    ServerError,
    StatementFailed,
    StepFailed,
    from_connection,
    from_server,
)
from pg_durable.steps.record import record
from pg_durable.steps.rows import ResultLimits, ResultTooLarge
from pg_durable.steps.step import LeaseGone, SqlStep, TryAgain
from pg_durable.steps.text import roll_back, run_text

logger = logging.getLogger(__name__)

NOT_IN_A_TRANSACTION = frozenset({"25001", "2D000"})
"""The text can't run in a transaction block, or ends it: neither has had an effect yet."""

_GIVE_UP_RECORDING_AFTER = 20
_LONGEST_PAUSE_S = 5.0
_ALONE = "it can't run together with other statements: give it a step of its own"

Sleep: TypeAlias = Callable[[float], Awaitable[None]]
Pause: TypeAlias = Callable[[int], Awaitable[None]]
"""Waits before the attempt after this one."""


class NeedsNoTransaction(Exception):
    """The server has refused the text inside a transaction."""


class TwoCommits:
    """Runs steps whose effect does not commit with its record.

    Args:
        at_most_once: whether a step that does not say so fails, rather than runs again, if it may have run.
    """

    def __init__(
        self,
        connections: StepConnections,
        desk: Desk,
        identity: Identity,
        limits: ResultLimits,
        *,
        timeout_ms: int,
        at_most_once: bool,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._connections = connections
        self._desk = desk
        self._identity = identity
        self._limits = limits
        self._timeout_ms = timeout_ms
        self._at_most_once = at_most_once
        self._sleep = sleep

    def is_at_most_once(self, step: SqlStep) -> bool:
        told = step.options.on_ambiguous
        return self._at_most_once if told is None else told == "fail"

    async def run(
        self, step: SqlStep, *, place: str | None, in_transaction: bool, attempts: int, pause: Pause
    ) -> None:
        """Run the step and return once its record is committed.

        Args:
            place: the database of the effect; None: that of the record.
            in_transaction: whether the effect is one transaction.
            attempts: at most this many, while failures prove that there was no effect.

        Raises:
            StepFailed: for good.
            LeaseGone: the step is not ours any more.
            NeedsNoTransaction: nothing has happened; `in_transaction` was asked for.
        """
        actor = self._identity.actor(step.submitted_by)
        attempt = 1
        while True:
            try:
                result = await self._take_effect(step, actor, place, in_transaction)
                break
            except TryAgain as error:
                await self._forget(step)  # it is known that there was no effect, or does not matter
                if error.counts and attempt == attempts:
                    raise error.failure from error
                await pause(attempt)
                attempt += error.counts
            except NeedsNoTransaction:
                await self._forget(step)
                raise
        await self._record(step, actor, result)
        await self._forget(step)

    async def _forget(self, step: SqlStep) -> None:
        with suppress(
            psycopg.Error
        ):  # one that stays is replaced by the node's next, or goes with it
            await self._desk.end_attempt(step)

    async def _take_effect(
        self, step: SqlStep, actor: Actor, place: str | None, in_transaction: bool
    ) -> str:
        begun = pid = 0
        failure: StatementFailed | None = None
        result = ""
        try:
            async with self._connections.borrow(actor.session_role, place) as connection:
                pid = connection.info.backend_pid
                begun = await self._begin(step, in_transaction)
                try:
                    await self._set_up(connection, step, actor)
                    result = await self._text(connection, step, in_transaction)
                except StatementFailed as error:
                    failure = error
                    await roll_back(connection)
                if actor.set_role is not None:
                    await connection.execute("RESET ROLE")
        except psycopg.OperationalError as error:
            if begun and self.is_at_most_once(step):
                raise _unknown(begun, from_connection(error).message) from error
            await self._until_gone(pid)
            is_home_away = pid == 0 and place is None
            raise TryAgain(from_connection(error), counts=not is_home_away) from error
        except ResultTooLarge as error:
            raise StepFailed(f"SQL execution failed: {error}") from error
        if failure is not None:
            raise self._of_server(failure.error, in_transaction)
        return result

    def _of_server(self, error: ServerError, in_transaction: bool) -> Exception:
        is_refused = error.sqlstate in NOT_IN_A_TRANSACTION
        if in_transaction and is_refused:
            return NeedsNoTransaction(error.message)
        if in_transaction and error.sqlstate.startswith(("40", "57P")):
            return TryAgain(from_server(error))
        return from_server(error, hint=_ALONE if is_refused else None)

    async def _begin(self, step: SqlStep, in_transaction: bool) -> int:
        """Mark the step as begun; returns 0 if nobody would look at the mark."""
        at_most_once = self.is_at_most_once(step)
        if in_transaction and not at_most_once:
            return 0
        if not await self._desk.is_leased(step.token):
            raise LeaseGone(f"step {step.activity} is not ours any more")
        attempt = await self._desk.begin_attempt(step)
        if attempt > 1 and at_most_once:
            raise _unknown(attempt - 1, "the worker that ran it is gone")
        return attempt

    async def _set_up(self, connection: AsyncConnection, step: SqlStep, actor: Actor) -> None:
        """What a transaction would have as SET LOCAL; the session is reset at hand-over."""
        statements = [
            f"SET df.instance_id = {quote_literal(step.workflow_id)}",
            f"SET df.node_id = {quote_literal(step.node_id)}",
            f"SET df.iteration = {step.iteration}",
        ]
        timeout_ms = timeout_of(step, self._timeout_ms)
        if timeout_ms:
            statements.append(f"SET statement_timeout = {timeout_ms}")
        if actor.set_role is not None:
            statements.append(f"SET ROLE {quote_identifier(actor.set_role)}")
        try:
            for statement in statements:
                await connection.execute(statement.encode(), prepare=False)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            raise actor.refused(str(error)) from error

    async def _text(self, connection: AsyncConnection, step: SqlStep, in_transaction: bool) -> str:
        """Run the text, and commit what it leaves open: a record without its effect would be a lie."""
        before = (step.options.begin,) if in_transaction else ()
        result = await run_text(connection, step.query, self._limits, before=before)
        if connection.info.transaction_status != pq.TransactionStatus.IDLE:
            commands: list[tuple[bytes, list[bytes]]] = [
                (b"SET CONSTRAINTS ALL IMMEDIATE", []),
                (b"COMMIT", []),
            ]
            for answer in await wire.pipeline(connection.pgconn, commands):
                if answer.status == pq.ExecStatus.FATAL_ERROR:
                    raise StatementFailed(ServerError.of(answer))
        return result

    async def _record(self, step: SqlStep, actor: Actor, result: str) -> None:
        """Record the result at home. The effect is there, so this is tried for long."""
        details: dict[str, Any] = {
            **actor.details,
            "delivery": "at_most_once" if self.is_at_most_once(step) else "at_least_once",
        }
        for attempt in range(_GIVE_UP_RECORDING_AFTER):
            pid = 0
            try:
                async with self._connections.borrow(actor.session_role, None) as home:
                    pid = home.info.backend_pid
                    try:
                        return await record(home, step, result, begin=True, details=details)
                    except StatementFailed as error:
                        await roll_back(home)
                        if not error.error.sqlstate.startswith("40"):  # a deadlock passes
                            raise LeaseGone(error.error.message) from error
                await self._sleep(min(_LONGEST_PAUSE_S, 0.1 * 2**attempt))
            except psycopg.OperationalError as error:
                logger.warning(
                    "instance %s: a step is not recorded yet: %s", step.workflow_id, error
                )
                await self._sleep(min(_LONGEST_PAUSE_S, 0.1 * 2**attempt))
                await self._until_gone(pid)
                if not await self._desk.is_leased(step.token):
                    return None  # it was recorded, or somebody else has the step
        raise LeaseGone("the home database can't be reached to record the step")

    async def _until_gone(self, pid: int) -> None:
        """Wait until a session whose answer was lost can't do anything any more."""
        while pid and not await self._desk.backend_is_gone(pid):
            await self._sleep(0.2)


def timeout_of(step: SqlStep, worker_ms: int) -> int:
    """statement_timeout of a step; 0: what the role has."""
    own = step.options.timeout_seconds
    return worker_ms if own is None else max(1, round(own * 1000))


def _unknown(attempt: int, why: str) -> StepFailed:
    return StepFailed(
        f"SQL execution failed: outcome of attempt {attempt} is unknown: {why}",
        {
            "hint": "look whether the statement took effect; then go on by hand. "
            '"on_ambiguous": "retry" would run it again instead',
            "attempt": attempt,
        },
    )
