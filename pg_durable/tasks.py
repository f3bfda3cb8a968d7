"""Ending a task for certain."""

from __future__ import annotations

import asyncio
from typing import Any

_PATIENCE_S = 0.5


async def end(task: asyncio.Future[Any]) -> None:
    """Cancel a task until it has ended; its result or error stays to be looked at.

    Once is not enough: `asyncio.wait_for` of Python 3.11, in which psycopg waits for the server, forgets
    a cancellation that comes in the moment in which the answer does.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=_PATIENCE_S)
