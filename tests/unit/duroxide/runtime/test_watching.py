"""Waiting for an instance, on a store that has bad moments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from duroxide.client import AsyncClient
from duroxide.context import OrchestrationContext
from duroxide.decorators import orchestration
from duroxide.errors import ProviderError
from duroxide.ids import InstanceId
from duroxide.providers.base import InstanceStatus
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import Registry
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.state import KeyValue
from tests.unit.duroxide.runtime.stores import outage, refusal


@orchestration
async def tells(ctx: OrchestrationContext) -> None:
    ctx.set_kv_value("k", "v")
    ctx.set_custom_status("s")


class Moody(MemoryProvider):
    """Whatever a waiting client asks raises what is in `errors`, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[ProviderError] = []

    def _raise_next(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    async def read_status(
        self, instance_ids: Sequence[InstanceId]
    ) -> Mapping[InstanceId, InstanceStatus]:
        self._raise_next()
        return await super().read_status(instance_ids)

    async def read_key_values(self, instance_id: InstanceId) -> Mapping[str, KeyValue]:
        self._raise_next()
        return await super().read_key_values(instance_id)

    async def wait_for_change(self, instance_ids: Sequence[InstanceId], *, wait_ms: int) -> None:
        self._raise_next()
        await super().wait_for_change(instance_ids, wait_ms=wait_ms)


async def the_end(client: AsyncClient) -> Any:
    return (await client.wait("i")).status.value


async def a_status(client: AsyncClient) -> Any:
    return (await client.wait_for_custom_status("i")).custom_status


async def a_value(client: AsyncClient) -> Any:
    return await client.wait_for_key_value("i", "k")


WAITS = pytest.mark.parametrize(
    ("wait", "answer"), [(the_end, "Completed"), (a_status, "s"), (a_value, "v")]
)


@WAITS
async def test_a_store_that_fails_for_now_ends_no_wait(
    wait: Callable[[AsyncClient], Awaitable[Any]], answer: str
) -> None:
    store = Moody()
    async with AsyncClient(store) as client, AsyncRuntime(store, Registry().add(tells)):
        await client.start(tells, instance_id="i")
        await client.wait("i")
        store.errors = [outage("read"), outage("read"), outage("read")]
        assert await wait(client) == answer
        assert store.errors == []


@WAITS
async def test_a_store_that_will_never_answer_ends_the_wait(
    wait: Callable[[AsyncClient], Awaitable[Any]], answer: str
) -> None:
    store = Moody()
    async with AsyncClient(store) as client:
        store.errors = [refusal("read")]
        with pytest.raises(ProviderError, match="value out of range"):
            await wait(client)
