"""A store that holds sealed texts keeps the whole contract, and nothing readable."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from duroxide import OrchestrationContext, RetryPolicy, activity, orchestration
from duroxide.client import AsyncClient
from duroxide.errors import CodecError
from duroxide.providers.base import Provider
from duroxide.providers.memory import MemoryProvider
from duroxide.providers.sealing import SealedProvider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.registry import Registry
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.runtime.telemetry import Observer
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite import ProviderSuite
from duroxide.testing.replay import assert_replays
from duroxide_pg.provider import PostgresProvider
from tests.provider.postgres_store import TABLES, installed_dsn

__all__ = ["installed_dsn"]


class Scrambled:
    """Compresses and scrambles, differently each time, as a cipher with a nonce does."""

    def __init__(self, key: int) -> None:
        self.key = key
        self.nonces = itertools.count(1)

    def seal(self, data: bytes) -> bytes:
        nonce = next(self.nonces) % 251
        body = bytes(b ^ self.key ^ nonce for b in zlib.compress(data))
        return bytes([self.key, nonce]) + body

    def open(self, data: bytes) -> bytes:
        if data[0] != self.key:
            raise ValueError("another key")
        return zlib.decompress(bytes(b ^ self.key ^ data[1] for b in data[2:]))


class TestSealedProvider(ProviderSuite):
    async def new_provider(self, clock: ManualClock) -> Provider:
        return SealedProvider(MemoryProvider(clock), Scrambled(5))


@activity
def keep(secret: str) -> str:
    return f"kept {secret}"


@activity
def lose(secret: str) -> None:
    raise ValueError(f"lost {secret}")


@orchestration
async def inner(ctx: OrchestrationContext, secret: str) -> str:
    return await ctx.call(keep, secret)


@orchestration
async def keeps_secrets(ctx: OrchestrationContext, secret: str) -> list[str]:
    ctx.set_custom_status(f"on {secret}")
    ctx.set_kv_value("k", f"value of {secret}")
    told = await ctx.queue("q", str).get()
    found = [told, await ctx.call(keep, secret), await ctx.call_child(inner, secret, id="child")]
    try:
        await ctx.call(lose, secret, retry=RetryPolicy(max_attempts=1))
    except Exception as error:
        found.append(str(error))
    return found


REGISTRY = Registry().add(keep, lose, inner, keeps_secrets)
SECRET = "xyzzy-plugh"


class Refusals(Observer):
    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.reasons: list[str] = []

    def turn_refused(self, instance_id: str, reason: str) -> None:
        self.reasons.append(reason)
        self.came.set()


async def play(provider: SealedProvider) -> None:
    async with AsyncClient(provider) as client:
        await client.start(keeps_secrets, SECRET, instance_id="i")
        async with AsyncRuntime(provider, REGISTRY, RuntimeOptions(cache="verify")):
            await client.enqueue("i", "q", f"told {SECRET}")
            assert await client.result("i") == [
                f"told {SECRET}",
                f"kept {SECRET}",
                f"kept {SECRET}",
                f"Activity 'lose' call failed: ValueError: lost {SECRET}",
            ]
        state = await client.status("i")
        assert state is not None
        assert state.custom_status == f"on {SECRET}"
        assert (await client.key_values("i"))["k"].value == f"value of {SECRET}"
        assert_replays(list(await client.history("i")), keeps_secrets)
        outputs = [s.output for s in await provider.list_instances()]
        assert any(SECRET in (output or "") for output in outputs)


async def test_nothing_that_a_user_wrote_is_readable_in_a_file(tmp_path: Path) -> None:
    provider = SealedProvider(SqliteProvider(tmp_path / "store.db"), Scrambled(7))
    await play(provider)
    await provider.close()
    stored = _bytes_in(tmp_path)
    assert b"ActivityScheduled" in stored  # what tools need to see
    assert b"xyzzy" not in stored


async def test_own_transactions_and_dead_letters_pass_the_seal(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    provider = SealedProvider(SqliteProvider(path), Scrambled(7))
    impatient = RuntimeOptions(max_attempts=1, unregistered_backoff_ms=(1, 1))
    async with AsyncClient(provider) as client:
        with closing(sqlite3.connect(path)) as mine, mine:
            await client.within(mine).start(keeps_secrets, SECRET, instance_id="i")
        async with AsyncRuntime(provider, Registry(), impatient):
            await client.wait("i")
        (letter,) = (await client.dead_letters()).letters
        assert SECRET in letter.body
        assert await client.requeue("i") == 1
        async with AsyncRuntime(provider, REGISTRY):
            await client.enqueue("i", "q", f"told {SECRET}")
            assert (await client.result("i"))[0] == f"told {SECRET}"
    await provider.close()
    assert b"xyzzy" not in _bytes_in(tmp_path)


def _bytes_in(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.iterdir())


async def test_nothing_that_a_user_wrote_is_readable_in_a_server(installed_dsn: str) -> None:
    provider = SealedProvider(PostgresProvider(installed_dsn), Scrambled(7))
    await play(provider)
    await provider.close()
    with psycopg.connect(installed_dsn) as connection:
        kinds = connection.execute("select event_type, event_data from duroxide.history").fetchall()
        rows = [
            str(connection.execute(f"select t::text from duroxide.{table} as t").fetchall())
            for table in TABLES
        ]
    assert {"OrchestrationStarted", "ActivityScheduled", "OrchestrationCompleted"} <= {
        kind for kind, _ in kinds
    }
    assert "ActivityScheduled" in "".join(rows)
    assert "xyzzy" not in "".join(rows)


async def test_a_seal_may_come_while_instances_run_and_reads_what_was_written_before() -> None:
    store = MemoryProvider()
    async with AsyncClient(store) as client, AsyncRuntime(store, REGISTRY):
        await client.start(keeps_secrets, SECRET, instance_id="i")
        await client.wait_for_key_value("i", "k")
    sealed = SealedProvider(store, Scrambled(7))
    async with AsyncClient(sealed) as client, AsyncRuntime(sealed, REGISTRY):
        await client.enqueue("i", "q", "told")
        assert (await client.result("i"))[0] == "told"
    texts = await store.read_history("i")
    assert SECRET in texts[0]
    assert SECRET not in texts[-1]


async def test_without_the_right_key_an_instance_waits_and_says_why() -> None:
    store = MemoryProvider()
    right = SealedProvider(store, Scrambled(7))
    async with AsyncClient(right) as client, AsyncRuntime(right, REGISTRY):
        await client.start(keeps_secrets, SECRET, instance_id="i")
        await client.wait_for_key_value("i", "k")
        await client.enqueue("i", "other", "wakes it")
    wrong, refusals = SealedProvider(store, Scrambled(9)), Refusals()
    async with AsyncClient(right) as client:
        await client.enqueue("i", "q", "told")
        async with AsyncRuntime(wrong, REGISTRY, RuntimeOptions(observer=refusals)):
            await asyncio.wait_for(refusals.came.wait(), 10)
        assert "can't be" in refusals.reasons[0]
        with pytest.raises(CodecError, match="does this process have the seal"):
            await wrong.read_history("i")
        async with AsyncRuntime(right, REGISTRY):
            assert (await client.result("i"))[0] == "told"


def test_what_would_pass_the_seal_by_is_not_there() -> None:
    sealed = SealedProvider(MemoryProvider(), Scrambled(7))
    with pytest.raises(AttributeError, match="does not pass the seal"):
        sealed.enqueue_in  # noqa: B018 - the access is the test
