"""The storage contract as tests, for authors of providers.

A provider keeps the contract if it passes all groups. In a test module:

    class TestMyProvider(ProviderSuite):
        async def new_provider(self, clock: ManualClock) -> Provider:
            return MyProvider(now=clock.now_ms)

`new_provider` gives a fresh, empty store that is started and judges every lease and every visibility
by that clock: the suite moves the clock instead of sleeping. Needs pytest and pytest-asyncio.

A check named `test_` and a phrase that is no sentence has the name by which the reference catalogue
of duroxide providers knows it; `catalogue` lists them all, and `confirms` marks those with other names.
Two hooks that a subclass may override, `corrupt_history` and `failing_reads`, let the suite look at
what a store does when its own storage is damaged; a third, `caller_transaction`, opens the transaction
of a caller. Checks that need one are skipped without it.
"""

from duroxide.testing.provider_suite.atomicity import AtomicitySuite
from duroxide.testing.provider_suite.attempts import AttemptSuite
from duroxide.testing.provider_suite.batches import BatchSuite
from duroxide.testing.provider_suite.callertransactions import CallerTransactionSuite
from duroxide.testing.provider_suite.cancellation import CancellationSuite
from duroxide.testing.provider_suite.catalogue import confirmed_by, confirms
from duroxide.testing.provider_suite.corruption import CorruptionSuite
from duroxide.testing.provider_suite.creation import CreationSuite
from duroxide.testing.provider_suite.deadletters import DeadLetterSuite
from duroxide.testing.provider_suite.deletion import BulkDeletionSuite, DeletionSuite, PruneSuite
from duroxide.testing.provider_suite.driver import LEASE_MS, StoreDriver, SuiteBase
from duroxide.testing.provider_suite.eagerdispatch import EagerDispatchSuite
from duroxide.testing.provider_suite.equivalence import EquivalenceSuite
from duroxide.testing.provider_suite.executions import ExecutionSuite
from duroxide.testing.provider_suite.fusedcompletion import FusedCompletionSuite
from duroxide.testing.provider_suite.heartbeats import HeartbeatSuite
from duroxide.testing.provider_suite.historysuffix import HistorySuffixSuite
from duroxide.testing.provider_suite.incarnations import IncarnationSuite
from duroxide.testing.provider_suite.keyvalues import KeyValueSuite
from duroxide.testing.provider_suite.leases import LeaseSuite
from duroxide.testing.provider_suite.listing import ManagementSuite, PagesSuite
from duroxide.testing.provider_suite.locking import LockingSuite
from duroxide.testing.provider_suite.polling import PollingSuite
from duroxide.testing.provider_suite.queues import QueueSuite
from duroxide.testing.provider_suite.races import RaceSuite
from duroxide.testing.provider_suite.sessions import SessionSuite
from duroxide.testing.provider_suite.status import CustomStatusSuite
from duroxide.testing.provider_suite.stickylease import StickyLeaseSuite
from duroxide.testing.provider_suite.suspension import SuspensionSuite
from duroxide.testing.provider_suite.tags import TagSuite
from duroxide.testing.provider_suite.versions import VersionSuite


class ProviderSuite(
    AtomicitySuite,
    AttemptSuite,
    BatchSuite,
    BulkDeletionSuite,
    CallerTransactionSuite,
    CancellationSuite,
    CorruptionSuite,
    CreationSuite,
    CustomStatusSuite,
    DeadLetterSuite,
    DeletionSuite,
    EagerDispatchSuite,
    EquivalenceSuite,
    ExecutionSuite,
    FusedCompletionSuite,
    HeartbeatSuite,
    HistorySuffixSuite,
    IncarnationSuite,
    KeyValueSuite,
    LeaseSuite,
    LockingSuite,
    ManagementSuite,
    PagesSuite,
    PollingSuite,
    PruneSuite,
    QueueSuite,
    RaceSuite,
    SessionSuite,
    StickyLeaseSuite,
    SuspensionSuite,
    TagSuite,
    VersionSuite,
):
    """All groups."""


__all__ = [
    "LEASE_MS",
    "AtomicitySuite",
    "AttemptSuite",
    "BatchSuite",
    "BulkDeletionSuite",
    "CallerTransactionSuite",
    "CancellationSuite",
    "CorruptionSuite",
    "CreationSuite",
    "CustomStatusSuite",
    "DeadLetterSuite",
    "DeletionSuite",
    "EagerDispatchSuite",
    "EquivalenceSuite",
    "ExecutionSuite",
    "FusedCompletionSuite",
    "HeartbeatSuite",
    "HistorySuffixSuite",
    "IncarnationSuite",
    "KeyValueSuite",
    "LeaseSuite",
    "LockingSuite",
    "ManagementSuite",
    "PagesSuite",
    "PollingSuite",
    "ProviderSuite",
    "PruneSuite",
    "QueueSuite",
    "RaceSuite",
    "SessionSuite",
    "StickyLeaseSuite",
    "StoreDriver",
    "SuiteBase",
    "SuspensionSuite",
    "TagSuite",
    "VersionSuite",
    "confirmed_by",
    "confirms",
]
