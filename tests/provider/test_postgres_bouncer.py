"""The same promises behind PgBouncer in transaction mode, where each transaction has another session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from duroxide import (
    AsyncClient,
    AsyncRuntime,
    OrchestrationContext,
    Registry,
    RuntimeOptions,
    activity,
    orchestration,
)
from duroxide.providers.base import Enqueue, Message, MessageKind, Provider
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite import ProviderSuite
from duroxide_pg import migrate
from duroxide_pg.provider import PostgresProvider
from tests.fixtures.bouncer import SERVER_SESSIONS, bouncer
from tests.fixtures.postgres import Database
from tests.provider.damage import DamagedPostgres
from tests.provider.postgres_store import empty, installed_dsn
from tests.provider.test_postgres_races import first_turn

__all__ = ["installed_dsn"]


@pytest.fixture(scope="module")
def pooled_dsn(installed_dsn: str) -> Iterator[str]:
    with bouncer(installed_dsn) as dsn:
        yield dsn


@pytest.mark.long
class TestPostgresProviderBehindPgBouncer(DamagedPostgres, ProviderSuite):
    @pytest.fixture(autouse=True)
    def _store_is_empty(self, installed_dsn: str, pooled_dsn: str) -> None:
        empty(installed_dsn)
        self.dsn, self.pooled = installed_dsn, pooled_dsn

    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = PostgresProvider(self.pooled, clock=clock, is_pooled=True)
        await provider.start()
        return provider


@activity
async def double(number: int) -> int:
    return 2 * number


@orchestration
async def gather(ctx: OrchestrationContext, count: int) -> int:
    numbers = await ctx.gather(*[ctx.call(double, number) for number in range(count)])
    await ctx.sleep(timedelta(milliseconds=20))
    more = await ctx.queue("more", int).get()
    return sum(numbers) + more


async def test_workers_and_clients_behind_the_pooler_run_a_workload_by_polling(
    pooled_dsn: str, installed_dsn: str
) -> None:
    empty(installed_dsn)
    registry = Registry().add(double, gather)
    providers = [PostgresProvider(pooled_dsn, is_pooled=True) for _ in range(3)]
    client = AsyncClient(providers[0])
    async with asyncio.timeout(60):
        async with (
            AsyncRuntime(providers[1], registry, RuntimeOptions()),
            AsyncRuntime(providers[2], registry, RuntimeOptions()),
        ):
            ids = [await client.start(gather, 5, instance_id=f"i{number}") for number in range(20)]
            for instance_id in ids:
                await client.enqueue(instance_id, "more", 1)
            states = await asyncio.gather(*(client.wait(each) for each in ids))
        assert {state.output for state in states} == {"21"}
        for provider in providers:
            await provider.close()
    with psycopg.connect(installed_dsn) as connection:
        sessions = connection.execute(
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        ).fetchone()
    assert sessions is not None
    assert sessions[0] <= SERVER_SESSIONS


HOOK = """
create table settings (name text, value text);
create function note(text[], bigint[], text[], text[], text[], text[], boolean) returns text[]
language sql as $$
    insert into public.settings select name, setting from pg_settings
     where name in ('transaction_isolation', 'transaction_read_only', 'lock_timeout', 'statement_timeout');
    select '{}'::text[];
$$
"""


async def test_each_transaction_brings_its_isolation_level_and_its_timeouts(
    database: Database,
) -> None:
    migrate.upgrade(database.dsn)
    owner = str(conninfo_to_dict(database.dsn)["user"])
    role = sql.SQL("alter role {} in database {} set").format(
        sql.Identifier(owner), sql.Identifier(database.name)
    )
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(HOOK)
        for name, value in (("isolation", "serializable"), ("read_only", "on")):
            setting = sql.Identifier(f"default_transaction_{name}")
            connection.execute(sql.SQL("{} {} = {}").format(role, setting, sql.Literal(value)))
    with bouncer(database.dsn) as dsn:
        provider = PostgresProvider(dsn, is_pooled=True, commit_hook="public.note")
        await provider.start()
        message = Message(instance_id="i", kind=MessageKind.START, body="start")
        (result,) = await provider.commit([Enqueue(message=message)])
        assert result.ok
        (turn,) = (await provider.poll_turns(worker="w", want=1, lease_ms=10_000)).turns
        (result,) = await provider.commit([first_turn(turn)])
        assert result.ok
        await provider.close()
    with psycopg.connect(database.dsn) as connection:
        settings: dict[str, str] = dict(
            connection.execute("select name, value from settings").fetchall()
        )
    assert settings == {
        "transaction_isolation": "read committed",
        "transaction_read_only": "off",
        "lock_timeout": "5000",
        "statement_timeout": "30000",
    }
