"""Stores that misbehave on purpose, each a real one underneath."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from duroxide.errors import ProviderError
from duroxide.providers.base import CommitItem, CommitResult, EagerDispatch, Renewal
from duroxide.providers.memory import MemoryProvider


class Scripted(MemoryProvider):
    """Raises what it is told to, before or after it has written; records the batches it was given."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]  # passes everything on
        self.batches: list[tuple[CommitItem, ...]] = []
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.renewals: list[Exception] = []
        self.gate: asyncio.Event | None = None
        self.called = asyncio.Event()
        self.renewed = 0

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        self.batches.append(tuple(batch))
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.before:
            raise self.before.pop(0)
        results = await super().commit(batch, eager=eager)
        if self.after:
            raise self.after.pop(0)
        return results

    async def renew(self, **tokens: object) -> Renewal:
        self.renewed += 1
        if self.renewals:
            raise self.renewals.pop(0)
        return await super().renew(**tokens)  # type: ignore[arg-type]  # passes everything on


def outage(operation: str = "commit") -> ProviderError:
    return ProviderError(operation, "connection lost", retryable=True)


def refusal(operation: str = "commit") -> ProviderError:
    return ProviderError(operation, "value out of range", retryable=False)
