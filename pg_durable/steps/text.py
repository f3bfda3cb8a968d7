"""The author's text: sent as it is, and what it answered decoded before anything commits."""

from __future__ import annotations

import re
from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection, pq

from pg_durable.lexer import Context, tokenize
from pg_durable.steps import wire
from pg_durable.steps.catalog import describe_types
from pg_durable.steps.failures import ServerError, StatementFailed, StepFailed
from pg_durable.steps.rows import Answers, ResultLimits, Statement, document, unknown_types

# The first word of a statement that ends the transaction around it. Inside BEGIN ATOMIC, END ends a body.
_ENDS = re.compile(
    r"(?:^|;)\s*(commit|end|rollback|abort|prepare\s+transaction)\b"
    r"(?!\s+(?:prepared\b|(?:(?:work|transaction)\s+)?to\b))",
    re.IGNORECASE,
)
# What substitution leaves as it is if nothing has that name.
_PLACEHOLDER = re.compile(
    r"\$(?P<result>[A-Za-z_][A-Za-z0-9_]*)|(?<![$\w])\{(?P<variable>[A-Za-z_][A-Za-z0-9_]*)(?::\w+)?\}"
)
_MAY_END = re.compile(r"\b(?:commit|end|rollback|abort|prepare)\b", re.IGNORECASE)
_HAS_BODY = re.compile(r"\bbegin\s+atomic\b", re.IGNORECASE)


async def run_text(
    connection: AsyncConnection, text: str, limits: ResultLimits, *, before: Sequence[str] = ()
) -> str:
    """Run a text and return the result document.

    Args:
        before: statements of ours, sent in the same message.

    Raises:
        StatementFailed: the server refused a statement; `is_ours` says whether it was one of `before`.
        StepFailed: the answer can't be had or decoded.
        ResultTooLarge: it exceeds a limit.
        psycopg.OperationalError: the connection is lost.
    """
    answers = Answers(limits, skip=len(before))
    whole = "".join(f"{statement};" for statement in before) + text
    error: ServerError | None = None
    async for result in wire.simple_query(connection.pgconn, whole.encode()):
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
        raise StatementFailed(error, is_ours=answers.has_to_skip)
    statement = answers.kept
    try:
        await _restore_encoding(connection, statement)
        types = await describe_types(connection, unknown_types(statement))
    except psycopg.OperationalError:
        raise
    except psycopg.Error as refused:
        raise StepFailed(f"SQL execution failed: {refused}") from refused
    return document(statement, types, limits)


async def _restore_encoding(connection: AsyncConnection, statement: Statement) -> None:
    """Undo what the author's text has set; the server tells of it only after the last statement.

    Raises:
        StepFailed: the answer may have come in another encoding.
    """
    encoding = (connection.pgconn.parameter_status(b"client_encoding") or b"").decode()
    if encoding == "UTF8":
        return
    if not statement.is_ascii:
        raise StepFailed(
            f"SQL execution failed: the text has set client_encoding to {encoding}, and what it returned "
            "can't be read for sure",
            {"hint": "leave SET client_encoding out; steps work with UTF8"},
        )
    await connection.execute(b"SET client_encoding TO UTF8", prepare=False)


def unbound_hint(text: str, error: ServerError) -> str | None:
    """What to do if the server could not read a text for a placeholder that stood for nothing."""
    if error.sqlstate != "42601":  # syntax_error
        return None
    code = (token.text for token in tokenize(text) if token.context is Context.CODE)
    left = next((found for part in code for found in _PLACEHOLDER.finditer(part)), None)
    if left is None:
        return None
    name = left["result"] or left["variable"]
    if left["result"]:
        return f"no result is bound to {name} here; bind one with |=> '{name}'"
    return f"there was no variable {name} when the workflow was started; set it with df.setvar()"


def transaction_end(text: str) -> str | None:
    """The first word in a text, such as COMMIT, that ends the transaction which it runs in."""
    if _MAY_END.search(text) is None:
        return None
    code = "".join(
        token.text
        if token.context is Context.CODE
        else " "
        if token.context is Context.COMMENT
        else "''"
        for token in tokenize(text)
    )
    words = [" ".join(found[1].upper().split()) for found in _ENDS.finditer(code)]
    if _HAS_BODY.search(code):
        words = [word for word in words if word != "END"]
    return words[0] if words else None


async def roll_back(connection: AsyncConnection) -> None:
    if connection.info.transaction_status != pq.TransactionStatus.IDLE:
        await connection.execute("ROLLBACK", prepare=False)
