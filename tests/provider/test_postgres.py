"""PostgreSQL keeps the storage contract."""

from __future__ import annotations

import pytest

from duroxide.providers.base import Provider
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite import ProviderSuite
from duroxide_pg.provider import PostgresProvider
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]


class TestPostgresProvider(ProviderSuite):
    @pytest.fixture(autouse=True)
    def _store_is_empty(self, installed_dsn: str) -> None:
        empty(installed_dsn)
        self.dsn = installed_dsn

    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = PostgresProvider(self.dsn, clock=clock)
        await provider.start()
        return provider
