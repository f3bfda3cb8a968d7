"""The storage contract without LISTEN, advisory locks and anything that a session keeps.

That nothing is left in a session is what the tests behind PgBouncer show, with the same connections.
"""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from duroxide.providers.base import Enqueue, Message, MessageKind, Provider
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite import LockingSuite, ProviderSuite
from duroxide_pg.provider import PostgresProvider
from duroxide_pg.queries import schema_script, statements
from tests.provider.damage import DamagedPostgres
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]

NAMES = [f"i{number:02}" for number in range(40)]
LOCK_ALL = (
    "select pg_advisory_lock(hashtext('duroxide'), hashtext(name)) from unnest(%s::text[]) as name"
)


class Portable(DamagedPostgres):
    @pytest.fixture(autouse=True)
    def _store_is_empty(self, installed_dsn: str) -> None:
        empty(installed_dsn)
        self.dsn = installed_dsn

    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = PostgresProvider(self.dsn, clock=clock, is_portable=True)
        await provider.start()
        return provider


class TestThePartThatLocks(Portable, LockingSuite):
    pass


@pytest.mark.long
class TestEveryPart(Portable, ProviderSuite):
    pass


@pytest.mark.parametrize("is_portable", [True, False])
async def test_only_the_portable_mode_finds_instances_whose_advisory_locks_are_taken(
    installed_dsn: str, is_portable: bool
) -> None:
    empty(installed_dsn)
    provider = PostgresProvider(installed_dsn, is_portable=is_portable)
    start = [Message(instance_id=name, kind=MessageKind.START, body="{}") for name in NAMES]
    await provider.commit([Enqueue(message=message) for message in start])
    with psycopg.connect(installed_dsn) as somebody:
        somebody.execute(LOCK_ALL, [NAMES])
        poll = await provider.poll_turns(worker="w", want=len(NAMES), lease_ms=60_000)
    assert len(poll.turns) == (len(NAMES) if is_portable else 0)
    await provider.close()


def test_advisory_locks_are_nowhere_but_in_the_poll() -> None:
    hot = [statement.text.decode() for statement in statements("duroxide").values()]
    assert sum("advisory" in text for text in hot) == 0
    assert schema_script("duroxide").count("advisory") == 1


async def test_processes_that_poll_at_once_share_the_instances(installed_dsn: str) -> None:
    empty(installed_dsn)
    providers = [PostgresProvider(installed_dsn, is_portable=True) for _ in range(4)]
    start = [Message(instance_id=name, kind=MessageKind.START, body="{}") for name in NAMES]
    await providers[0].commit([Enqueue(message=message) for message in start])
    taken: list[str] = []
    while len(taken) < len(NAMES):
        polls = await asyncio.gather(
            *(each.poll_turns(worker=str(each), want=5, lease_ms=60_000) for each in providers)
        )
        assert any(poll.turns for poll in polls)
        taken += [turn.instance_id for poll in polls for turn in poll.turns]
    assert sorted(taken) == NAMES
    for provider in providers:
        await provider.close()
