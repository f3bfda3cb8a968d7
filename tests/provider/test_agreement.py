"""The embedded store answers like the reference, whatever is asked in whatever order."""

from __future__ import annotations

from hypothesis import settings

from duroxide.providers.base import Provider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite.agreement import ProvidersAgree


class SqliteAgrees(ProvidersAgree):
    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = SqliteProvider(None, clock=clock)
        await provider.start()
        return provider


TestSqliteAgrees = SqliteAgrees.TestCase
TestSqliteAgrees.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
