"""Activities that end here without having been run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from duroxide.failures import Failure, PoisonedActivity, PoisonFailure
from duroxide.ids import ActivityToken
from duroxide.providers.base import AbandonActivity, LeasedActivity
from duroxide.runtime.backoff import redelivery_delay_ms
from duroxide.runtime.deliveries import failed, finish_item
from duroxide.runtime.flusher import Flusher
from duroxide.runtime.leases import Leases
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.suspects import Suspects

logger = logging.getLogger("duroxide.runtime")


Ended: TypeAlias = Callable[[LeasedActivity, str, str, float], None]
"""Is told of an activity, its name, how it ended, and how many seconds it ran."""


class Declined:
    """Gives leases back, or records that nobody will run the activity; then tells `ended`."""

    def __init__(
        self,
        options: RuntimeOptions,
        *,
        flusher: Flusher,
        leases: Leases[ActivityToken],
        suspects: Suspects,
        ended: Ended,
    ) -> None:
        self._options = options
        self._flusher = flusher
        self._leases = leases
        self._suspects = suspects
        self._ended = ended

    async def leave_to_others(self, leased: LeasedActivity, name: str, why: str) -> None:
        """Leave it to another worker for a while; after too many deliveries it is poison."""
        if leased.attempt_count > self._options.attempts:
            return await self.poison(leased, name)
        base_ms, longest_ms = self._options.unregistered_backoff_ms
        delay_ms = redelivery_delay_ms(leased.attempt_count, base_ms=base_ms, longest_ms=longest_ms)
        logger.warning(
            "activity %r of %s is left to others for %s ms: %s",
            name,
            leased.instance_id,
            delay_ms,
            why,
            extra={"instance_id": leased.instance_id, "activity_name": name},
        )
        self._leases.ending(leased.token)
        await self._flusher.commit(AbandonActivity(token=leased.token, delay_ms=delay_ms))
        return self._ended(leased, name, "unregistered", 0.0)

    async def hand_back(self, leased: LeasedActivity, name: str, delay_ms: int = 0) -> None:
        """Somebody else may have it, now or after a pause, and it does not count."""
        self._leases.ending(leased.token)
        item = AbandonActivity(token=leased.token, delay_ms=delay_ms, count_attempt=False)
        await self._flusher.commit(item)
        return self._ended(leased, name, "handed_back", 0.0)

    async def turn_away(self, leased: LeasedActivity, name: str, delay_ms: int) -> None:
        """Another suspect runs here."""
        self._leases.ending(leased.token)
        item = AbandonActivity(token=leased.token, delay_ms=delay_ms, count_attempt=False)
        try:
            await self._flusher.commit(item)
        finally:
            self._suspects.turned_away()
        return self._ended(leased, name, "handed_back", 0.0)

    async def poison(self, leased: LeasedActivity, name: str) -> None:
        failure = Failure(
            kind=PoisonFailure(
                attempt_count=leased.attempt_count,
                max_attempts=self._options.attempts,
                subject=PoisonedActivity(
                    instance_id=leased.instance_id,
                    execution_id=leased.execution_id,
                    activity_name=name,
                    activity_id=leased.activity_id,
                ),
                message=leased.body,
            )
        )
        self._leases.ending(leased.token)
        await self._flusher.commit(finish_item(leased, failed(leased, failure)))
        return self._ended(leased, name, "poisoned", 0.0)
