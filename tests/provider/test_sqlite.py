"""The embedded store, in a file and in memory, keeps the contract."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from duroxide.client import AsyncClient
from duroxide.errors import ProviderError
from duroxide.providers.base import Enqueue, Message, MessageKind, Provider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.providers.wakeup import ChangeFeed
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite import ProviderSuite
from tests.provider.damage import DamagedSqlite


class TestSqliteFile(DamagedSqlite, ProviderSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder" / "store.db"

    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = SqliteProvider(self.path, clock=clock)
        await provider.start()
        return provider


class TestSqliteInMemory(DamagedSqlite, ProviderSuite):
    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = SqliteProvider(None, clock=clock)
        await provider.start()
        return provider


async def test_a_change_in_the_very_moment_a_wait_ends_is_not_lost() -> None:
    feed = ChangeFeed()
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.01
    waiting = asyncio.create_task(feed.wait(["i1"], 0.01))
    await asyncio.sleep(0)
    while loop.time() < end:  # the loop is busy until after the time is over
        pass
    loop.call_later(0, feed.tell, ["i1"])  # comes in the same round as the end
    assert await waiting


async def test_another_process_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    mine = SqliteProvider(path)
    await mine.start()
    poll = asyncio.create_task(mine.poll_turns(worker="w", want=1, lease_ms=1_000, wait_ms=30_000))
    await asyncio.sleep(0.05)
    program = f"""
import asyncio
from duroxide import AsyncClient, SqliteProvider

async def main():
    provider = SqliteProvider({str(path)!r})
    async with AsyncClient(provider) as client:
        await client.start("Greet", instance_id="i1")
    await provider.close()

asyncio.run(main())
"""
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await other.wait() == 0
    async with asyncio.timeout(5):
        answer = await poll
    assert [turn.instance_id for turn in answer.turns] == ["i1"]
    await mine.close()


async def test_a_file_of_a_newer_release_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    connection = sqlite3.connect(path)
    connection.execute("pragma user_version = 99")
    connection.close()
    with pytest.raises(ProviderError, match=r"newer.db has schema version 99.*upgrade"):
        await SqliteProvider(path).start()


async def test_a_folder_that_can_not_be_made_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ProviderError, match=r"cannot open .*file/store\.db"):
        await SqliteProvider(tmp_path / "file" / "store.db").start()


def open_files() -> set[str]:
    return {os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux to tell")
async def test_a_file_that_was_refused_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma user_version = 99")
    with pytest.raises(ProviderError, match="schema version 99"):
        await SqliteProvider(path).start()
    assert str(path) not in open_files()


async def test_what_is_committed_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    first = SqliteProvider.open(f"sqlite:{path}")
    async with AsyncClient(first) as client:
        await client.start("Greet", instance_id="i1")
    await first.close()
    second = SqliteProvider(path, durability="full")
    await second.start()
    answer = await second.poll_turns(worker="w", want=1, lease_ms=1_000)
    assert [turn.instance_id for turn in answer.turns] == ["i1"]
    await second.close()


async def test_a_file_of_the_last_schema_is_upgraded_with_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "older.db"
    first = SqliteProvider(path)
    async with AsyncClient(first) as client:
        await client.start("Greet", instance_id="i1")
    await first.close()
    connection = sqlite3.connect(path)
    connection.executescript(
        "drop index instances_suspended; alter table instances drop column suspended_at_ms;"
        "alter table instances drop column incarnation;"
        "pragma user_version = 2;"
    )
    connection.close()
    providers = [SqliteProvider(path), SqliteProvider(path)]
    for provider in providers:
        await provider.start()
    answer = await providers[0].poll_turns(worker="w", want=1, lease_ms=1_000)
    assert [turn.instance_id for turn in answer.turns] == ["i1"]
    for provider in providers:
        await provider.close()


async def test_what_another_process_commits_just_before_us_is_noticed(tmp_path: Path) -> None:
    ours, theirs = (SqliteProvider(tmp_path / "shared.db") for _ in range(2))
    await ours.start()
    await theirs.start()
    poll = asyncio.create_task(ours.poll_turns(worker="w", want=1, lease_ms=1_000, wait_ms=60_000))
    await asyncio.sleep(0.2)  # it waits
    message = Message(instance_id="i1", kind=MessageKind.START, body="start")
    await theirs.commit([Enqueue(message=message)])
    await ours.read_status(["anything"])
    async with asyncio.timeout(5):
        assert [turn.instance_id for turn in (await poll).turns] == ["i1"]
    await ours.close()
    await theirs.close()


async def test_a_file_with_tables_of_others_by_our_names_is_refused(tmp_path: Path) -> None:
    """The official SDK's, say; and a program's own `sessions` would be filled with ours."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table sessions (id)")
        connection.execute("create table orders (id)")
    with pytest.raises(ProviderError, match="tables that are not of this package"):
        await SqliteProvider(path).start()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("drop table sessions")
    provider = SqliteProvider(path)
    await provider.start()  # other tables are welcome
    await provider.close()


async def test_a_provider_opens_on_first_use_but_not_again_once_it_was_closed() -> None:
    provider = SqliteProvider.in_memory()
    assert await AsyncClient(provider).status("nobody") is None
    await provider.close()
    with pytest.raises(ProviderError, match="the provider is closed: start"):
        await AsyncClient(provider).status("nobody")
    await provider.start()
    assert await AsyncClient(provider).status("nobody") is None
    await provider.close()


def test_a_durability_that_can_not_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match="durability must be 'normal' or 'full', not 'none'"):
        SqliteProvider(None, durability="none")  # type: ignore[arg-type]
