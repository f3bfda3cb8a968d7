"""The end of a step: its result recorded and the transaction committed, in one round trip."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, pq

from duroxide.activity_context import FinishedAs
from pg_durable.steps import wire
from pg_durable.steps.failures import ServerError, StatementFailed
from pg_durable.steps.step import LeaseGone, SqlStep

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_FINISH = 2  # the place of df._finish_step_v1 among the commands


class WrongSession(Exception):
    """The session is not one of the role that submitted the workflow; the transaction was not committed."""


async def record(
    connection: AsyncConnection,
    step: SqlStep,
    result: str,
    *,
    begin: bool,
    details: dict[str, Any] | None = None,
) -> None:
    """Record the result and commit.

    Args:
        begin: in a transaction of its own; else in the one that is open.
        details: of this run, for status_details.

    Raises:
        LeaseGone: the schema is gone or changed.
        WrongSession: another role submitted the workflow.
        StatementFailed: anything else, the loss of the lease included; the transaction is to be rolled back.
        psycopg.OperationalError: the connection was lost, and with it whether it committed.
    """
    completion = step.completion(result)
    values = [step.token, completion, step.projection(result, details)]
    commands: list[tuple[bytes, list[bytes]]] = [
        (BEGIN.encode() if begin else b"SET CONSTRAINTS ALL IMMEDIATE", []),
        (b"RESET ROLE", []),
        (b"SELECT df._finish_step_v1($1, $2, $3)", [value.encode() for value in values]),
        (b"COMMIT", []),
    ]
    answers = await wire.pipeline(connection.pgconn, commands)
    for position, answer in enumerate(answers):
        if answer.status != pq.ExecStatus.FATAL_ERROR:
            continue
        error = ServerError.of(answer)
        if position == _FINISH and error.sqlstate == "42501":
            raise WrongSession(error.message)
        if position == _FINISH and error.sqlstate[:2] in ("3F", "42"):
            raise LeaseGone(f"the schema df is gone or changed: {error.message}")
        raise StatementFailed(error, is_ours=position == _FINISH)
    message_id = answers[_FINISH].get_value(0, 0)
    if message_id is not None:
        step.record.message = FinishedAs(message_id=int(message_id), body=completion)
