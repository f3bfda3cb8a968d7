"""Measures the store now and then, for an observer that wants to know."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from duroxide.errors import ProviderError
from duroxide.providers.base import Provider, ProviderAdmin
from duroxide.runtime.telemetry import Observer

logger = logging.getLogger("duroxide.runtime")


class Gauges:
    """Asks for counts and queue depths at once and then at the observer's interval.

    A store without management, and one that nobody wants to know about, is not asked.
    """

    def __init__(self, provider: Provider, observer: Observer) -> None:
        self._provider = provider
        self._observer = observer

    async def run(self) -> None:
        """Measure until cancelled."""
        interval_s = self._observer.gauge_interval_s
        if interval_s is None or not hasattr(self._provider, "system_metrics"):
            return
        admin = cast("ProviderAdmin", self._provider)
        while True:
            try:
                metrics, depths = await admin.system_metrics(), await admin.queue_depths()
            except ProviderError as error:
                self._observer.store_failed("measure", error)
            except Exception:  # a defect of the provider must not end the measuring
                logger.exception("measuring the store raised what is not a ProviderError")
            else:
                self._observer.store_measured(metrics, depths)
            await asyncio.sleep(interval_s)
