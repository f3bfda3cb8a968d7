"""The storage contract as tests, for authors of providers.

A provider keeps the contract if it passes all groups. In a test module:

    class TestMyProvider(ProviderSuite):
        async def new_provider(self, clock: ManualClock) -> Provider:
            return MyProvider(now=clock.now_ms)

`new_provider` gives a fresh, empty store that is started and judges every lease and every visibility
by that clock: the suite moves the clock instead of sleeping. Needs pytest and pytest-asyncio.
"""

from duroxide.testing.provider_suite.atomicity import AtomicitySuite
from duroxide.testing.provider_suite.attempts import AttemptSuite
from duroxide.testing.provider_suite.batches import BatchSuite
from duroxide.testing.provider_suite.driver import LEASE_MS, StoreDriver, SuiteBase
from duroxide.testing.provider_suite.executions import ExecutionSuite
from duroxide.testing.provider_suite.leases import LeaseSuite
from duroxide.testing.provider_suite.locking import LockingSuite
from duroxide.testing.provider_suite.queues import QueueSuite


class ProviderSuite(
    AtomicitySuite,
    AttemptSuite,
    BatchSuite,
    ExecutionSuite,
    LeaseSuite,
    LockingSuite,
    QueueSuite,
):
    """All groups."""


__all__ = [
    "LEASE_MS",
    "AtomicitySuite",
    "AttemptSuite",
    "BatchSuite",
    "ExecutionSuite",
    "LeaseSuite",
    "LockingSuite",
    "ProviderSuite",
    "QueueSuite",
    "StoreDriver",
    "SuiteBase",
]
