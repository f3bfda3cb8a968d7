"""Clients work from scripts, threads and loops; after a fork they refuse, and new ones work."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from duroxide import AsyncClient, Client, DuroxideError, SqliteProvider
from duroxide_pg.provider import PostgresProvider
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]


@dataclass(frozen=True)
class NewStore:
    """Makes providers of one store."""

    kind: type[Any]
    where: str

    def __call__(self) -> Any:
        return self.kind(self.where)


@pytest.fixture(params=["sqlite", "postgres"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> NewStore:
    if request.param == "sqlite":
        return NewStore(SqliteProvider, str(tmp_path / "store.db"))
    dsn = request.getfixturevalue("installed_dsn")
    empty(dsn)
    return NewStore(PostgresProvider, dsn)


def in_a_fork(work: Callable[[], str]) -> str:
    """What comes of it in a child of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    answer = ""
    while chunk := os.read(reading, 4096):
        answer += chunk.decode()
    os.close(reading)
    os.waitpid(child, 0)
    return answer


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_async_client_refuses_in_a_fork_and_a_new_one_works(new_store: NewStore) -> None:
    async def start(client: AsyncClient, instance_id: str) -> str:
        async with client:
            return await client.start("any", instance_id=instance_id)

    with asyncio.Runner() as runner:
        store = new_store()
        client = AsyncClient(store)
        runner.run(start(client, "i1"))
        said = in_a_fork(lambda: asyncio.run(asyncio.wait_for(start(client, "i2"), 20)))
        assert "ProviderError" in said
        assert "before the process forked" in said
        assert "anew in the child" in said
        assert in_a_fork(lambda: asyncio.run(start(AsyncClient(new_store()), "i3"))) == "i3"
        runner.run(start(client, "i4"))  # the parent goes on
        depths = runner.run(client.queue_depths())
        runner.run(store.close())
    assert depths.orchestrator_queue == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_blocking_client_made_in_the_fork_works(new_store: NewStore) -> None:
    before = Client(new_store())
    before.start_orchestration("i1", "any")

    def start(client: Client) -> str:
        client.start_orchestration("i2", "any")
        return str(client.get_queue_depths().orchestrator_queue)

    assert "before the process forked" in in_a_fork(lambda: start(before))
    assert in_a_fork(lambda: start(Client(new_store()))) == "2"
    assert before.get_queue_depths().orchestrator_queue == 2


def test_async_clients_work_in_the_loops_of_several_threads(new_store: NewStore) -> None:
    async def start(number: int) -> None:
        store = new_store()
        async with AsyncClient(store) as client:
            await client.start("any", instance_id=f"i{number}")
        await store.close()

    threads = [threading.Thread(target=lambda n=n: asyncio.run(start(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()  # closes what a loop was still opening as it ended; the server waits a minute for it
    assert Client(new_store()).get_queue_depths().orchestrator_queue == 4


async def test_a_blocking_client_works_on_the_thread_of_a_running_loop(new_store: NewStore) -> None:
    client = Client(new_store())
    client.start_orchestration("i1", "any")
    assert client.get_queue_depths().orchestrator_queue == 1


SCRIPT = """
from duroxide import Client, Runtime, {kind}

provider = {kind}({where!r})
runtime = Runtime(provider)


@runtime.register_orchestration("Hello")
def hello(ctx, name):
    return f"Hello, {{name}}!"
    yield


runtime.start()
client = Client(provider)
client.start_orchestration("h", "Hello", "Ann")
print(client.wait_for_orchestration("h").output)
{end}
"""


@pytest.mark.parametrize(
    "end",
    [
        "",
        pytest.param("runtime.shutdown()", marks=pytest.mark.long),
        pytest.param("raise SystemExit(3)", marks=pytest.mark.long),
    ],
)
def test_a_plain_script_ends_when_it_ends(new_store: NewStore, end: str) -> None:
    script = SCRIPT.format(kind=new_store.kind.__name__, where=new_store.where, end=end)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("Hello, Ann!\n", "")
    assert done.returncode == (3 if "3" in end else 0)


def test_what_is_raised_is_an_error_of_the_library(new_store: NewStore) -> None:
    with pytest.raises(DuroxideError, match="'nobody' not found"):
        Client(new_store()).get_instance_info("nobody")
