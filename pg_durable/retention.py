"""Removes what ended long ago or is more than should be kept, and ends what the engine has lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import psycopg

from duroxide.errors import ProviderError
from duroxide.ids import InstanceId
from duroxide.providers.base import (
    DeleteResult,
    InstanceFilter,
    InstanceStatus,
    PruneOptions,
    PruneResult,
)
from pg_durable.home import Home

logger = logging.getLogger(__name__)

FIRST_SWEEP_S = 60.0
SWEPT_AT_ONCE = 1000
PRUNED_AT_ONCE = 10_000


class EngineStore(Protocol):
    """What the sweep asks of the engine's store."""

    async def delete_instances_by_filter(self, which: InstanceFilter) -> DeleteResult: ...

    async def read_status(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, InstanceStatus]: ...

    async def prune_executions_by_filter(
        self, which: InstanceFilter, options: PruneOptions
    ) -> PruneResult: ...


class Retention:
    """Sweeps every `interval_s`; of several workers one sweeps at a time.

    How long and how many instances are kept is read from df._settings at every sweep.
    """

    def __init__(self, home: Home, store: EngineStore, *, interval_s: float) -> None:
        self._home = home
        self._store = store
        self._interval_s = interval_s

    async def run(self) -> None:
        """Sweep until cancelled; a sweep that fails is only logged."""
        await asyncio.sleep(min(FIRST_SWEEP_S, self._interval_s))
        while True:
            try:
                await self.repair()
                while await self.sweep() == SWEPT_AT_ONCE:
                    pass
                await self._prune()
            except (psycopg.Error, ProviderError) as error:
                logger.warning("old instances were not removed, nor lost ones ended: %s", error)
            await asyncio.sleep(self._interval_s)

    async def repair(self) -> int:
        """End instances that the engine has ended or lost, and say so; returns how many."""
        ended = await self._home.repair(SWEPT_AT_ONCE)
        for instance_id, status, error in ended:
            logger.warning(
                "instance %s was not ended; now it is %s: %s", instance_id, status, error
            )
        return len(ended)

    async def sweep(self) -> int:
        """Remove some; returns how many.

        What the engine still runs (a cancelled instance that has not heard of it) stays for next time.
        """
        async with self._home.exclusive("pg_durable: retention") as is_ours:
            if not is_ours:
                return 0
            expired = await self._home.expired_instances(SWEPT_AT_ONCE)
            if not expired:
                return 0
            await self._store.delete_instances_by_filter(
                InstanceFilter(instance_ids=tuple(expired))
            )
            left = await self._store.read_status(expired)
            gone = [instance_id for instance_id in expired if instance_id not in left]
            await self._home.delete_instances(gone)
        logger.info("%s old instances were removed", len(gone))
        return len(gone)

    async def _prune(self) -> None:
        """Keep the newest iterations of each loop; the others have nothing left to say."""
        keep = await self._home.setting("keep_executions")
        await self._store.prune_executions_by_filter(
            InstanceFilter(limit=PRUNED_AT_ONCE), PruneOptions(keep_last=int(keep))
        )
