"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

_PATIENCE_S = 0.5


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks until all have ended; their results or errors stay to be looked at.

    Once is not enough: `asyncio.wait_for` of Python 3.11, in which psycopg waits for the server, forgets
    a cancellation that comes in the moment in which the answer does.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_PATIENCE_S)
