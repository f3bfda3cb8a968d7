"""Once in a while: remove what ended processes have left behind in the store."""

from __future__ import annotations

import asyncio
import logging

from duroxide.errors import ProviderError
from duroxide_pg.connections import HotConnection
from duroxide_pg.jitter import uniform
from duroxide_pg.queries import Statement

logger = logging.getLogger("duroxide_pg")

FIRST_S = 60.0
"""Within how long of its start a process sweeps first; a random part, for many may start at once."""
INTERVAL_S = 3600.0


async def sweep_regularly(connection: HotConnection, sweep: Statement) -> None:
    """Sweep soon and then about once an hour, until cancelled.

    Any process does it for all. One that fails is not tried again before the next time: nothing
    depends on it but the size of two small tables.
    """
    await asyncio.sleep(uniform(0, FIRST_S))
    while True:
        try:
            await connection.call("sweep", sweep, {}, tries=1)
        except ProviderError as error:
            logger.debug("could not sweep: %s", error)
        await asyncio.sleep(uniform(0.5, 1.5) * INTERVAL_S)
