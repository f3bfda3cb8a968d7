"""What a store may do beyond the minimum is checked only where the store declares it."""

from __future__ import annotations

import pytest

from duroxide.testing.provider_suite.driver import StoreDriver


def needs(store: StoreDriver, capability: str) -> None:
    if not getattr(store.provider.capabilities, capability):
        pytest.skip(f"the provider does not declare {capability}")
