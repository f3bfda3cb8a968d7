"""One exchange with the server at a time, through libpq and without blocking.

A step sends what its author wrote: any number of statements, of which only the server knows how many.
The simple protocol takes them in one message and answers in text. Rows arrive in chunks, so that a
result that is too large ends before it fills the memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

_ROWS_IN_A_CHUNK = 256


async def simple_query(pgconn: PGconn, text: bytes) -> AsyncIterator[PGresult]:
    """Send statements and yield their results, rows in chunks; the last result of each is complete.

    Raises:
        psycopg.OperationalError: the connection is lost.
    """
    pgconn.send_query(text)
    if pq.version() >= 170000:
        pgconn.set_chunked_rows_mode(_ROWS_IN_A_CHUNK)
    else:
        pgconn.set_single_row_mode()
    await _flush(pgconn)
    while (result := await _next_result(pgconn)) is not None:
        yield result


async def pipeline(
    pgconn: PGconn, commands: Sequence[tuple[bytes, Sequence[bytes]]]
) -> list[PGresult]:
    """Send commands with their text parameters in one round trip; the server skips what follows an error.

    Raises:
        psycopg.OperationalError: the connection is lost.
    """
    pgconn.enter_pipeline_mode()
    for command, parameters in commands:
        pgconn.send_query_params(command, parameters)
    pgconn.pipeline_sync()
    await _flush(pgconn)
    results: list[PGresult] = []
    while True:
        result = await _next_result(pgconn)
        if result is None:
            continue  # the end of one command's results
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            break
        results.append(result)
    pgconn.exit_pipeline_mode()
    return results


async def _next_result(pgconn: PGconn) -> PGresult | None:
    while pgconn.is_busy():
        await _wait(pgconn.socket, writing=False)
        pgconn.consume_input()
    result = pgconn.get_result()
    if result is None and pgconn.status == pq.ConnStatus.BAD:
        raise psycopg.OperationalError("the connection is lost")
    return result


async def _flush(pgconn: PGconn) -> None:
    while pgconn.flush():
        # The server may itself be blocked on sending to us, so read as well.
        await _wait(pgconn.socket, writing=True)
        pgconn.consume_input()


async def _wait(descriptor: int, *, writing: bool) -> None:
    """Until the socket can be read, or (`writing`) either read or written."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    if writing:
        loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
        if writing:
            loop.remove_writer(descriptor)
