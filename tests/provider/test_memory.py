"""The reference store keeps its own contract."""

from __future__ import annotations

from duroxide.providers.base import Capabilities, Provider
from duroxide.providers.memory import MemoryProvider
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite import ProviderSuite
from tests.provider.damage import DamagedMemory


class TestMemoryProvider(DamagedMemory, ProviderSuite):
    async def new_provider(self, clock: ManualClock) -> Provider:
        return MemoryProvider(clock)


class TestWithoutCapabilities(DamagedMemory, ProviderSuite):
    """What is required can be had without anything that is optional."""

    async def new_provider(self, clock: ManualClock) -> Provider:
        return MemoryProvider(clock, capabilities=Capabilities())
