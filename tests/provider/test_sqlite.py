"""The embedded store, in a file and in memory, keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from duroxide.providers.base import Provider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite import ProviderSuite


class TestSqliteFile(ProviderSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder" / "store.db"

    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = SqliteProvider(self.path, clock=clock)
        await provider.start()
        return provider


class TestSqliteInMemory(ProviderSuite):
    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = SqliteProvider(None, clock=clock)
        await provider.start()
        return provider
