"""The health report finds what is really wrong with a database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio

from duroxide.providers.base import AbandonTurn, Activity, Enqueue, Message, MessageKind
from duroxide_pg import migrate
from duroxide_pg.health import Health, Limits
from duroxide_pg.provider import PostgresProvider
from tests.fixtures.commands import pg_durable
from tests.fixtures.postgres import Database
from tests.fixtures.workers import installed
from tests.provider.test_postgres_races import first_turn

__all__ = ["installed"]

STRICT = Limits(
    transaction_s=0, transactions=1_000_000, unprocessed_s=0.05, lease_s=0.05, dead_rows=100
)
OF_THE_TEST_SERVER = {"setting"}  # it does not wait for the disk


@pytest_asyncio.fixture
async def provider(database: Database) -> AsyncIterator[PostgresProvider]:
    migrate.upgrade(database.dsn)
    provider = PostgresProvider(database.dsn, migrations="none")
    yield provider
    await provider.close()


def kinds(report: Health) -> set[str]:
    return {finding.about for finding in report.findings} - OF_THE_TEST_SERVER


async def until(provider: PostgresProvider, kind: str, limits: Limits = STRICT) -> Health:
    """Ask until the report has it: ages grow, and the server counts rows a little later."""
    for _ in range(300):
        report = await provider.health(limits)
        if kind in kinds(report):
            return report
        await provider.poll_activities(worker="other", want=0, lease_ms=1, wait_ms=20)
    raise AssertionError(f"{kind} was not found: {report}")


async def test_an_empty_store_is_well(provider: PostgresProvider) -> None:
    report = await provider.health()
    assert kinds(report) == set()
    assert {table.name for table in report.tables} >= {"instances", "worker_queue"}
    assert report.oldest_message_s is None
    assert report.oldest_activity_s is None


async def test_what_nobody_takes_is_found_and_what_somebody_has_is_not(
    provider: PostgresProvider,
) -> None:
    start = Message(instance_id="i1", kind=MessageKind.START, body="start")
    await provider.commit([Enqueue(message=start)])
    report = await until(provider, "unprocessed")
    assert (report.oldest_message_s or 0) >= 0.05
    (turn,) = (await provider.poll_turns(worker="w", want=1, lease_ms=60_000)).turns
    assert (await provider.health(STRICT)).oldest_message_s is None
    work = Activity(instance_id="i1", execution_id=1, activity_id=2, body="work", tag="gpu")
    await provider.commit([first_turn(turn, activities=(work,))])
    report = await until(provider, "unprocessed")
    assert (report.oldest_activity_s or 0) >= 0.05


async def test_a_lease_that_ended_and_that_nobody_took_over_is_found(
    provider: PostgresProvider,
) -> None:
    start = Message(instance_id="i1", kind=MessageKind.START, body="start")
    await provider.commit([Enqueue(message=start)])
    assert (await provider.poll_turns(worker="dead", want=1, lease_ms=1)).turns
    report = await until(provider, "old-lease")
    assert report.ended_leases == 1


async def test_an_instance_whose_turns_always_fail_is_named(
    provider: PostgresProvider, database: Database
) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(
            "create function refusing(text[], bigint[], text[], text[], text[], text[], boolean)"
            " returns text[] language plpgsql as $$ begin raise 'not this one'; end $$"
        )
    hooked = PostgresProvider(database.dsn, commit_hook="public.refusing")
    start = Message(instance_id="i1", kind=MessageKind.START, body="start")
    await hooked.commit([Enqueue(message=start)])
    for _ in range(4):
        (turn,) = (await hooked.poll_turns(worker="w", want=1, lease_ms=60_000)).turns
        (refused,) = await hooked.commit([first_turn(turn)])
        assert not refused.ok
        await hooked.commit([AbandonTurn(instance_id="i1", token=turn.token)])
    await hooked.close()
    report = await provider.health()
    (finding,) = [each for each in report.findings if each.about == "failing"]
    assert "among them of i1" in finding.problem
    assert report.failing_instances == ("i1",)


async def test_a_transaction_that_is_open_for_long_is_named(
    provider: PostgresProvider, database: Database
) -> None:
    with psycopg.connect(database.dsn, application_name="somebody") as connection:
        connection.execute("select txid_current()")
        pid = connection.info.backend_pid
        report = await provider.health(STRICT)
    (finding,) = [each for each in report.findings if each.about == "long-transaction"]
    assert "somebody" in finding.problem
    assert f"pg_terminate_backend({pid})" in finding.remedy


async def test_removed_rows_and_missing_indexes_are_found(
    provider: PostgresProvider, database: Database
) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("drop index duroxide.instances_created")
        connection.execute("alter table duroxide.writers set (autovacuum_enabled = off)")
        connection.execute(
            "insert into duroxide.writers select n::text, n, null, null, null, now()"
            " from generate_series(1, 500) as n"
        )
        connection.execute("delete from duroxide.writers")
    report = await until(provider, "bloat")
    assert report.missing_indexes == ("instances_created",)


@pytest.mark.parametrize("is_behind", [False, True])
def test_the_command_prints_sentences_and_says_by_its_status_if_there_are_any(
    installed: Database, is_behind: bool
) -> None:
    if is_behind:
        with psycopg.connect(installed.dsn, autocommit=True) as connection:
            connection.execute("drop index duroxide.instances_created")
    done = pg_durable("health", "--dsn", installed.dsn)
    assert "orchestrator_queue" in done.output
    assert ("missing-index: the index duroxide.instances_created" in done.output) == is_behind
    problems = [line for line in done.output.splitlines() if "; " in line]
    assert done.status == (1 if problems else 0)
