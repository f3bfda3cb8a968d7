"""An SQL step in the home database: its effect and the record of it commit together.

    BEGIN; the author's text                              one round trip
    SET CONSTRAINTS ALL IMMEDIATE; RESET ROLE;
    SELECT df._finish_step_v1(token, record); COMMIT      one round trip

`_finish_step_v1` refuses a token whose lease is over, so of several executors one commits; a failed one
has no effect. A step in another database commits there first and is recorded after that: it takes
effect at least once. The rules are in docs/reference/steps.md.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import psycopg
from psycopg import AsyncConnection, pq

from duroxide.codec import encode_work
from duroxide.work import ActivityCompletion
from pg_durable.quoting import quote_literal
from pg_durable.steps import wire
from pg_durable.steps.catalog import describe_types
from pg_durable.steps.connections import StepConnections
from pg_durable.steps.failures import (
    ServerError,
    StatementFailed,
    StepFailed,
    from_connection,
    from_server,
)
from pg_durable.steps.rows import Answers, ResultLimits, ResultTooLarge, document, unknown_types

logger = logging.getLogger(__name__)

LEASE_LOST, INSTANCE_CANCELLED = "PD001", "PD002"
_READ_ONLY_TRANSACTION = "25006"
# The text can't run in a transaction block, or ends it: neither has had an effect yet.
_NOT_IN_A_TRANSACTION = frozenset({"25001", "2D000"})
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlStep:
    """One statement text to run, and the leased activity that it finishes."""

    instance_id: str
    execution_id: int
    activity_id: int
    token: str
    node_id: str
    query: str
    submitted_by: str
    database: str | None
    stamp: str  # scope and generation, for status_details

    def completion(self, result: str) -> str:
        return encode_work(
            ActivityCompletion(
                instance=self.instance_id,
                execution_id=self.execution_id,
                id=self.activity_id,
                result=result,
            )
        )

    def projection(self, result: str) -> str:
        record = {
            "node": self.node_id,
            "status": "completed",
            "stamp": self.stamp,
            "result": result,
        }
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


class LeaseGone(Exception):
    """Somebody else has the step, or nobody needs it any more; the attempt was rolled back."""


class Referee(Protocol):
    """Answers from outside the step's own session whether a lost COMMIT took place."""

    async def backend_is_gone(self, pid: int) -> bool: ...

    async def is_leased(self, token: str) -> bool:
        """Whether the activity row is there, held under this token."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    limits: ResultLimits = field(default_factory=ResultLimits)
    timeout_ms: int = 0  # statement_timeout; 0: what the role has
    attempts: int = 3  # for failures that prove that there was no effect
    backoff_s: float = 0.5  # before the second attempt, doubling


class _TryAgain(Exception):
    """The attempt had no effect, and the reason may pass."""

    def __init__(self, failure: StepFailed) -> None:
        super().__init__(failure)
        self.failure = failure


Sleep: TypeAlias = Callable[[float], Awaitable[None]]


class SqlSteps:
    """Runs SQL steps.

    Args:
        home_database: where the record of every step goes.
        jitter: from [0, 1), one number a call.
    """

    def __init__(
        self,
        connections: StepConnections,
        referee: Referee,
        options: StepOptions = StepOptions(),
        *,
        home_database: str,
        jitter: Callable[[], float],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._connections = connections
        self._home_database = home_database
        self._referee = referee
        self._options = options
        self._jitter = jitter
        self._sleep = sleep

    async def run(self, step: SqlStep) -> None:
        """Run the step and return once effect and record are committed.

        Raises:
            StepFailed: for good; nothing of it is committed.
            LeaseGone: the step is not ours any more; nothing of it is committed.
        """
        for attempt in range(1, self._options.attempts + 1):
            try:
                return await self._attempt(step)
            except _TryAgain as error:
                if attempt == self._options.attempts:
                    raise error.failure from error
                delay = self._options.backoff_s * 2 ** (attempt - 1)
                await self._sleep(delay * (0.5 + self._jitter() / 2))
        raise AssertionError("unreachable")

    async def _attempt(self, step: SqlStep, *, in_transaction: bool = True) -> None:
        failure: ServerError | None = None
        lost_in_commit: psycopg.Error | None = None
        pid = 0
        try:
            async with self._connections.borrow(step.submitted_by, self._place(step)) as connection:
                pid = connection.info.backend_pid
                try:
                    result = await self._run_text(connection, step, in_transaction)
                    try:
                        if self._place(step) is None:
                            await self._finish(connection, step, result)
                        else:
                            await self._finish_elsewhere(connection, step, result)
                    except psycopg.OperationalError as error:
                        lost_in_commit = error
                        raise
                except StatementFailed as error:
                    failure = error.error
                    await _roll_back(connection)
        except psycopg.OperationalError as error:
            if lost_in_commit is None:
                raise _TryAgain(from_connection(error)) from error
            await self._settle(step, pid, lost_in_commit)
        except ResultTooLarge as error:
            raise StepFailed(f"SQL execution failed: {error}") from error
        if failure is not None:
            await self._failed(step, failure, in_transaction)

    def _place(self, step: SqlStep) -> str | None:
        """The database of the step; None: the one that has the record."""
        return None if step.database == self._home_database else step.database

    async def _failed(self, step: SqlStep, error: ServerError, in_transaction: bool) -> None:
        if error.sqlstate in (LEASE_LOST, INSTANCE_CANCELLED):
            raise LeaseGone(error.message)
        if in_transaction and error.sqlstate in _NOT_IN_A_TRANSACTION:
            return await self._attempt(step, in_transaction=False)
        if in_transaction and error.sqlstate.startswith(("40", "57P")):
            raise _TryAgain(from_server(error))
        raise from_server(error)

    async def _run_text(
        self, connection: AsyncConnection, step: SqlStep, in_transaction: bool
    ) -> str:
        """Run the author's text and decode what it returned."""
        prefix = self._prefix(step) if in_transaction else []
        answers = Answers(self._options.limits, skip=len(prefix))
        text = "".join(f"{statement};" for statement in prefix) + step.query
        error: ServerError | None = None
        async for result in wire.simple_query(connection.pgconn, text.encode()):
            match result.status:
                case pq.ExecStatus.TUPLES_CHUNK | pq.ExecStatus.SINGLE_TUPLE:
                    answers.rows(result)
                case pq.ExecStatus.FATAL_ERROR:
                    error = ServerError.of(result)
                case pq.ExecStatus.COPY_IN:
                    connection.pgconn.put_copy_end(b"a workflow step has no input to copy from")
                case pq.ExecStatus.COPY_OUT | pq.ExecStatus.COPY_BOTH:
                    raise StepFailed(
                        "SQL execution failed: COPY TO STDOUT has no reader in a workflow step; "
                        "use SELECT, or COPY to a file or program"
                    )
                case _:
                    answers.finished(result)
        if error is not None:
            raise StatementFailed(error)
        statement = answers.kept
        try:
            types = await describe_types(connection, unknown_types(statement))
        except psycopg.OperationalError:
            raise
        except psycopg.Error as refused:
            raise StepFailed(f"SQL execution failed: {refused}") from refused
        return document(statement, types, self._options.limits)

    def _prefix(self, step: SqlStep) -> list[str]:
        statements = [
            _BEGIN,
            f"SET LOCAL df.instance_id = {quote_literal(step.instance_id)}",
            f"SET LOCAL df.node_id = {quote_literal(step.node_id)}",
        ]
        if self._options.timeout_ms:
            statements.append(f"SET LOCAL statement_timeout = {self._options.timeout_ms}")
        return statements

    async def _finish(self, connection: AsyncConnection, step: SqlStep, result: str) -> None:
        """Record the result and commit, in the step's transaction if it is still open."""
        is_open = connection.info.transaction_status == pq.TransactionStatus.INTRANS
        try:
            await self._commit(connection, step, result, begin=not is_open)
        except StatementFailed as error:
            if not is_open or error.error.sqlstate != _READ_ONLY_TRANSACTION:
                raise
            # The author made the transaction read-only, so it has no effect to commit with the record.
            await _roll_back(connection)
            await self._commit(connection, step, result, begin=True)

    async def _finish_elsewhere(
        self, connection: AsyncConnection, step: SqlStep, result: str
    ) -> None:
        """Commit the effect where it is, then the record at home; dying in between repeats the step."""
        if connection.info.transaction_status == pq.TransactionStatus.INTRANS:
            commands: list[tuple[bytes, list[bytes]]] = [
                (b"SET CONSTRAINTS ALL IMMEDIATE", []),
                (b"COMMIT", []),
            ]
            for answer in await wire.pipeline(connection.pgconn, commands):
                if answer.status == pq.ExecStatus.FATAL_ERROR:
                    raise StatementFailed(ServerError.of(answer))
        async with self._connections.borrow(step.submitted_by, None) as home:
            try:
                await self._commit(home, step, result, begin=True)
            except StatementFailed:
                await _roll_back(home)
                raise

    async def _commit(
        self, connection: AsyncConnection, step: SqlStep, result: str, *, begin: bool
    ) -> None:
        record = [step.token, step.completion(result), step.projection(result)]
        commands: list[tuple[bytes, list[bytes]]] = [
            (_BEGIN.encode() if begin else b"SET CONSTRAINTS ALL IMMEDIATE", []),
            (b"RESET ROLE", []),
            (b"SELECT df._finish_step_v1($1, $2, $3)", [text.encode() for text in record]),
            (b"COMMIT", []),
        ]
        for position, answer in enumerate(await wire.pipeline(connection.pgconn, commands)):
            if answer.status == pq.ExecStatus.FATAL_ERROR:
                error = ServerError.of(answer)
                if (
                    position == 2
                    and error.sqlstate[:2] in ("3F", "42")
                    and error.sqlstate != "42501"
                ):
                    raise LeaseGone(f"the schema df is gone or changed: {error.message}")
                raise StatementFailed(error)

    async def _settle(self, step: SqlStep, pid: int, error: psycopg.Error) -> None:
        """Find out whether a COMMIT whose answer was lost took place; never call it a failure.

        Raises:
            _TryAgain: it did not.
        """
        logger.warning("instance %s: the answer to a commit was lost", step.instance_id)
        while not await self._referee.backend_is_gone(pid):
            await self._sleep(0.2)
        if await self._referee.is_leased(step.token):
            raise _TryAgain(from_connection(error)) from error


async def _roll_back(connection: AsyncConnection[Any]) -> None:
    if connection.info.transaction_status != pq.TransactionStatus.IDLE:
        await connection.execute("ROLLBACK", prepare=False)
