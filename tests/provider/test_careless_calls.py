"""What comes from a form or a command line and can't be meant: told at once, on each of the stores."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import duroxide
from duroxide import (
    AsyncClient,
    AsyncRuntime,
    ClientError,
    InstanceNotFound,
    InstanceQuery,
    OrchestrationContext,
    ProviderError,
    Registry,
    orchestration,
)
from duroxide.providers.base import InstanceFilter, Provider, PruneOptions
from tests.provider.postgres_store import installed_dsn
from tests.provider.test_client_features import client, store

__all__ = ["client", "installed_dsn", "store"]


@orchestration
async def loop(ctx: OrchestrationContext, left: int) -> int:
    if left:
        ctx.continue_as_new(left - 1)
    return left


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: InstanceFilter(limit=-1), "limit must not be negative, but is -1"),
        (lambda: PruneOptions(keep_last=-1), "keep_last must not be negative, but is -1"),
        (lambda: PruneOptions(keep_last=2.0), "keep_last must be a whole number, not 2.0"),  # type: ignore[arg-type]
        (
            lambda: InstanceFilter(completed_before_ms=1e12),  # type: ignore[arg-type]
            "completed_before_ms must be a whole number, not 1000000000000.0",
        ),
        (
            lambda: InstanceFilter(instance_ids="order-1"),  # type: ignore[arg-type]
            "instance_ids must be several in a list or tuple, not the text 'order-1'",
        ),
        (lambda: InstanceFilter(instance_ids=(5,)), "5 is no text"),  # type: ignore[arg-type]
        (lambda: InstanceQuery(names="order"), "names must be several"),  # type: ignore[arg-type]
        (lambda: InstanceQuery(statuses=("Done",)), "'Done' is not a valid"),  # type: ignore[arg-type]
        (lambda: duroxide.PruneOptions(keep_last=-1).to_base(), "keep_last must not be negative"),
    ],
)
def test_options_that_can_not_be_meant_are_refused(call: Callable[[], Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        call()


async def test_beyond_all_numbers_means_everything_or_nothing(
    store: Provider, client: AsyncClient
) -> None:
    async with AsyncRuntime(store, Registry().add(loop)):
        await client.start(loop, 2, instance_id="i")
        await client.wait("i")
    assert (await client.prune("i", PruneOptions(keep_last=10**30))).executions_deleted == 0
    never = PruneOptions(completed_before_ms=-(10**30))
    assert (await client.prune("i", never)).executions_deleted == 0
    ever = PruneOptions(completed_before_ms=10**30)
    assert (await client.prune("i", ever)).executions_deleted == 2
    everything = InstanceFilter(limit=10**30, completed_before_ms=10**30)
    assert (await client.delete_many(everything)).instances_deleted == 1


async def test_the_options_of_the_official_sdk_will_do(
    store: Provider, client: AsyncClient
) -> None:
    """`duroxide.PruneOptions` is what `from duroxide import PruneOptions` gives."""
    async with AsyncRuntime(store, Registry().add(loop)):
        await client.start(loop, 3, instance_id="i")
        await client.wait("i")
    kept = duroxide.PruneOptions(keep_last=3)
    assert (await client.prune("i", kept)).executions_deleted == 1
    which = duroxide.InstanceFilter(instance_ids=["i"])
    assert (await client.prune_many(which, duroxide.PruneOptions())).executions_deleted == 2
    assert (await client.delete_many(which)).instances_deleted == 1


async def test_a_list_by_words_and_a_negative_limit(client: AsyncClient) -> None:
    words: Any = ("Completed",)
    assert (await client.page(InstanceQuery(statuses=words))).instances == ()
    with pytest.raises(ValueError, match="limit must not be negative, but is -1"):
        await client.instances(limit=-1)


@pytest.mark.parametrize(
    ("impossible", "flaw"), [("a\0", "a NUL character"), ("\ud800", "a lone surrogate")]
)
async def test_who_waits_for_an_impossible_id_is_told_and_disturbs_nobody(
    store: Provider, client: AsyncClient, impossible: str, flaw: str
) -> None:
    """All who wait in a process share their reads."""
    soon = timedelta(seconds=20)
    async with AsyncRuntime(store, Registry().add(loop)):
        waiting = asyncio.create_task(client.wait("i", soon))
        for wait in (client.wait, lambda i: client.wait_for_key_value(i, "key")):
            with pytest.raises(ClientError, match=f"an instance id contains {flaw}"):
                await wait(impossible)
        await client.start(loop, 0, instance_id="i")
        assert (await waiting).output == "0"
    assert await client.status(impossible) is None
    assert await client.key_values(impossible) == {}
    with pytest.raises(InstanceNotFound):
        await client.history(impossible)
    with pytest.raises(InstanceNotFound):
        await client.delete(impossible)


async def test_an_id_too_long_for_an_index_is_refused_with_the_remedy(installed_dsn: str) -> None:
    provider = duroxide.PostgresProvider(installed_dsn)
    await provider.start()
    incompressible = secrets.token_hex(4_000)
    with pytest.raises(ProviderError, match="keep each below 1,000 bytes") as caught:
        await AsyncClient(provider).start(loop, 0, instance_id=incompressible)
    assert not caught.value.retryable
    await provider.close()
