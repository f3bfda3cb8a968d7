"""An SQL step in the home database: its effect and the record of it commit together.

    BEGIN; the author's text                              one round trip
    SET CONSTRAINTS ALL IMMEDIATE; RESET ROLE;
    SELECT df._finish_step_v1(token, record); COMMIT      one round trip

`_finish_step_v1` refuses a token whose lease is over, so of several executors one commits; a failed one
has no effect. A step for which this can't be is one of `outside`. The rules are in
docs/reference/steps.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import AsyncConnection, pq

from pg_durable.identity import Actor, CannotLogIn, Identity
from pg_durable.quoting import quote_identifier, quote_literal
from pg_durable.steps.connections import StepConnections
from pg_durable.steps.desk import Desk
from pg_durable.steps.failures import StatementFailed, StepFailed, from_connection, from_server
from pg_durable.steps.headstart import EarlyStep
from pg_durable.steps.outside import (
    NOT_IN_A_TRANSACTION,
    NeedsNoTransaction,
    Sleep,
    TwoCommits,
    timeout_of,
)
from pg_durable.steps.record import WrongSession, record
from pg_durable.steps.roles import Roles
from pg_durable.steps.rows import ResultLimits, ResultTooLarge
from pg_durable.steps.step import LeaseGone, SqlStep, TryAgain
from pg_durable.steps.text import roll_back, run_text, transaction_end, unbound_hint

logger = logging.getLogger(__name__)

LEASE_LOST, INSTANCE_CANCELLED = "PD001", "PD002"
_READ_ONLY_TRANSACTION = "25006"
_REMEMBERED = 10_000  # nodes that are known to need no transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    limits: ResultLimits = field(default_factory=ResultLimits)
    timeout_ms: int = 0  # statement_timeout; 0: what the role has
    attempts: int = 3  # for failures that prove that there was no effect
    backoff_s: float = 0.5  # before the second attempt, doubling
    at_most_once: bool = False  # what follows if a step outside of a transaction may have run


class SqlSteps:
    """Runs SQL steps.

    Args:
        home_database: where the record of every step goes.
        jitter: from [0, 1), one number a call.
    """

    def __init__(
        self,
        connections: StepConnections,
        desk: Desk,
        options: StepOptions = StepOptions(),
        *,
        identity: Identity,
        home_database: str,
        jitter: Callable[[], float],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._connections = connections
        self._desk = desk
        self._roles = Roles(desk)
        self._options = options
        self._identity = identity
        self._home_database = home_database
        self._jitter = jitter
        self._sleep = sleep
        self._two_commits = TwoCommits(
            connections,
            desk,
            identity,
            options.limits,
            timeout_ms=options.timeout_ms,
            at_most_once=options.at_most_once,
            sleep=sleep,
        )
        self._need_no_transaction: OrderedDict[tuple[str, str], None] = OrderedDict()

    def begin_early(self, step: SqlStep) -> EarlyStep | None:
        """Run the text of a step that is about to be leased, if that can't be noticed.

        It has to be one that only its record can commit, and there has to be a session for it.

        Raises:
            StepFailed: it can't be run at all.
        """
        step = self._roles.known(step)
        role = step.submitted_by
        if (
            step.database not in (None, self._home_database)
            or self._identity.actor(role).set_role is not None
            or not self._connections.has_any(role, None)
            or step.options.isolation != "read committed"  # its snapshot would not show the lease
            or not self._in_transaction(step)
        ):
            return None
        early = EarlyStep(step)
        early.begin(self._connections.spawn, self._attempt(step, early))
        return early

    async def run(self, step: SqlStep, early: EarlyStep | None = None) -> None:
        """Run the step and return once effect and record are committed.

        Args:
            early: what `begin_early` has begun for it.

        Raises:
            StepFailed: for good; nothing of it is committed.
            LeaseGone: the step is not ours any more; nothing of it is committed.
        """
        step = self._roles.known(step)
        try:
            await self._run(step, early)
        except (CannotLogIn, WrongSession) as error:
            current = await self._roles.current(step)
            if current.submitted_by == step.submitted_by:
                raise _as_failure(error) from error
            try:
                await self._run(current)  # as the role is called now
            except WrongSession as wrong:
                raise _as_failure(wrong) from wrong

    async def _run(self, step: SqlStep, early: EarlyStep | None = None) -> None:
        if self._identity.actor(step.submitted_by).set_role is not None:
            step = await self._roles.current(step)
        place = None if step.database == self._home_database else step.database
        in_transaction = self._in_transaction(step)
        if place is None and in_transaction:
            try:
                return await self._repeat(lambda: self._attempt(step), step, early)
            except NeedsNoTransaction:
                in_transaction = False
        step = await self._roles.current(step)  # nothing would be rolled back afterwards
        try:
            await self._outside(step, place, in_transaction=in_transaction)
        except NeedsNoTransaction:
            self._remember(step)
            await self._outside(step, place, in_transaction=False)

    async def _outside(self, step: SqlStep, place: str | None, *, in_transaction: bool) -> None:
        await self._two_commits.run(
            step,
            place=place,
            in_transaction=in_transaction,
            attempts=self._attempts(step),
            pause=self._pause,
        )

    def _in_transaction(self, step: SqlStep) -> bool:
        """Whether to try the step in one transaction.

        Raises:
            StepFailed: the text ends its transaction, which its options forbid.
        """
        match step.options.tx:
            case "none":
                return False
            case "required":
                word = transaction_end(step.query)
                if word is not None:
                    raise StepFailed(
                        f"SQL execution failed: the text ends its transaction itself ({word})",
                        {"hint": f'leave {word} out, or do without "tx": "required"'},
                    )
                return True
        if (step.workflow_id, step.node_id) in self._need_no_transaction:
            return False
        # What commits by itself has had its effect before the record, whatever transaction is open after it.
        return transaction_end(step.query) is None

    def _remember(self, step: SqlStep) -> None:
        self._need_no_transaction[step.workflow_id, step.node_id] = None
        if len(self._need_no_transaction) > _REMEMBERED:
            self._need_no_transaction.popitem(last=False)

    def _attempts(self, step: SqlStep) -> int:
        retries = step.options.retries
        return self._options.attempts if retries is None else 1 + retries

    async def _pause(self, attempt: int) -> None:
        delay = self._options.backoff_s * 2 ** (attempt - 1)
        await self._sleep(delay * (0.5 + self._jitter() / 2))

    async def _repeat(
        self, attempt: Callable[[], Awaitable[None]], step: SqlStep, early: EarlyStep | None
    ) -> None:
        attempts = self._attempts(step)
        number = 1
        while True:
            try:
                if early is not None:
                    begun, early = early, None
                    if await begun.finish(step):
                        return None
                return await attempt()
            except TryAgain as error:
                if error.counts and number == attempts:
                    raise error.failure from error
                await self._pause(number)
                number += error.counts

    async def _attempt(self, step: SqlStep, early: EarlyStep | None = None) -> None:
        actor = self._identity.actor(step.submitted_by)
        failure: StatementFailed | None = None
        lost_in_commit: psycopg.Error | None = None
        pid = 0
        try:
            async with self._connections.borrow(actor.session_role, None) as connection:
                pid = connection.info.backend_pid
                try:
                    result = await run_text(
                        connection,
                        step.query,
                        self._options.limits,
                        before=self._before(step, actor),
                    )
                    if early is not None:
                        step = await early.leased()
                    try:
                        await self._finish(connection, step, result)
                    except psycopg.OperationalError as error:
                        lost_in_commit = error
                        raise
                except StatementFailed as error:
                    failure = error
                    await roll_back(connection)
        except psycopg.OperationalError as error:
            if lost_in_commit is None:
                raise TryAgain(from_connection(error), counts=pid != 0) from error
            await self._settle(step, pid, lost_in_commit)
        except ResultTooLarge as error:
            raise StepFailed(f"SQL execution failed: {error}") from error
        if failure is not None:
            raise self._of_server(step, actor, failure)

    def _of_server(self, step: SqlStep, actor: Actor, failure: StatementFailed) -> Exception:
        error = failure.error
        if failure.is_ours and error.sqlstate in (LEASE_LOST, INSTANCE_CANCELLED):
            return LeaseGone(error.message)
        if error.sqlstate in NOT_IN_A_TRANSACTION and step.options.tx != "required":
            self._remember(step)
            return NeedsNoTransaction(error.message)
        if error.sqlstate in NOT_IN_A_TRANSACTION:
            return from_server(error, hint='"tx": "required" forbids to run it outside of one')
        if failure.is_ours and error.sqlstate == "42501":
            return actor.refused(error.message)
        if error.sqlstate.startswith(("40", "57P")):
            return TryAgain(from_server(error, hint=_snapshot_hint(step, failure)))
        if error.sqlstate.startswith("53"):  # a full disk, no memory: the record can wait for space
            return TryAgain(from_server(error), counts=not failure.is_ours)
        return from_server(error, hint=unbound_hint(step.query, error))

    def _before(self, step: SqlStep, actor: Actor) -> list[str]:
        statements = [
            step.options.begin,
            f"SET LOCAL df.instance_id = {quote_literal(step.workflow_id)}",
            f"SET LOCAL df.node_id = {quote_literal(step.node_id)}",
            f"SET LOCAL df.iteration = {step.iteration}",
        ]
        timeout_ms = timeout_of(step, self._options.timeout_ms)
        if timeout_ms:
            statements.append(f"SET LOCAL statement_timeout = {timeout_ms}")
        if actor.set_role is not None:
            statements.append(f"SET LOCAL ROLE {quote_identifier(actor.set_role)}")
        return statements

    async def _finish(self, connection: AsyncConnection, step: SqlStep, result: str) -> None:
        """Record the result and commit, in the step's transaction if it is still open."""
        details: dict[str, Any] = dict(self._identity.actor(step.submitted_by).details)
        is_open = connection.info.transaction_status == pq.TransactionStatus.INTRANS
        if not is_open:  # the text has committed by itself
            details["delivery"] = "at_least_once"
        try:
            await record(connection, step, result, begin=not is_open, details=details)
        except StatementFailed as error:
            if not is_open or error.error.sqlstate != _READ_ONLY_TRANSACTION:
                raise
            # The transaction is read-only, so it has no effect to commit with the record.
            await roll_back(connection)
            await record(connection, step, result, begin=True, details=details)

    async def _settle(self, step: SqlStep, pid: int, error: psycopg.Error) -> None:
        """Find out whether a COMMIT whose answer was lost took place; never call it a failure.

        Raises:
            TryAgain: it did not.
        """
        logger.warning("instance %s: the answer to a commit was lost", step.workflow_id)
        while not await self._desk.backend_is_gone(pid):
            await self._sleep(0.2)
        if await self._desk.is_leased(step.token):
            raise TryAgain(from_connection(error)) from error


def _as_failure(error: CannotLogIn | WrongSession) -> StepFailed:
    if isinstance(error, CannotLogIn):
        return error
    return StepFailed(f"SQL execution failed: {error}")


def _snapshot_hint(step: SqlStep, failure: StatementFailed) -> str | None:
    if failure.is_ours and step.options.isolation != "read committed":
        return (
            f"under {step.options.isolation} a step has to end before its lease is renewed for the first "
            "time, after a third of the worker's activity_lease"
        )
    return None
