"""Lost replies, ended sessions, a schema that goes away: nothing is lost and nothing happens twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import psycopg
import pytest
import pytest_asyncio
from psycopg import AsyncConnection

from duroxide import (
    AsyncClient,
    AsyncRuntime,
    OrchestrationContext,
    OrchestrationFailed,
    Registry,
    RuntimeOptions,
    orchestration,
)
from duroxide.errors import ProviderError
from duroxide.ids import InstanceId
from duroxide.providers.base import (
    AbandonTurn,
    Activity,
    CommitCode,
    CommitItem,
    CommitTurn,
    EagerDispatch,
    Enqueue,
    FinishActivity,
    LeasedTurn,
    Message,
    MessageKind,
    NewExecution,
)
from duroxide.state import ExecutionStatus
from duroxide.version import ENGINE_VERSION
from duroxide_pg import migrate
from duroxide_pg import provider as provider_module
from duroxide_pg.provider import PostgresProvider
from tests.fixtures.postgres import Database
from tests.provider.postgres_proxy import Proxy
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]

NEW = NewExecution(name="Greet", version="1.0.0", engine_version=ENGINE_VERSION)
EAGER = EagerDispatch(worker="w", limit=10, lease_ms=10_000)


@pytest_asyncio.fixture
async def proxy(installed_dsn: str) -> AsyncIterator[Proxy]:
    empty(installed_dsn)
    async with Proxy().to(installed_dsn) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def provider(proxy: Proxy) -> AsyncIterator[PostgresProvider]:
    provider = PostgresProvider(proxy.dsn)
    await provider.start()
    yield provider
    await provider.close()


def message(name: str, body: str, kind: MessageKind = MessageKind.START) -> Message:
    return Message(instance_id=name, kind=kind, body=body)


async def started(provider: PostgresProvider, *names: str) -> list[LeasedTurn]:
    await provider.commit([Enqueue(message=message(name, "start")) for name in names])
    poll = await provider.poll_turns(worker="w", want=len(names), lease_ms=10_000)
    return list(poll.turns)


def turn_of(leased: LeasedTurn, **more: Any) -> CommitTurn:
    fields: dict[str, Any] = {
        "instance_id": leased.instance_id,
        "token": leased.token,
        "execution_id": 1,
        "first_event_id": leased.next_event_id,
        "events": ('{"event_id":1}', '{"event_id":2}'),
        "consumed": tuple(received.message_id for received in leased.messages),
        "new_execution": NEW,
    }
    return CommitTurn(**{**fields, **more})


async def count(dsn: str, table: str) -> int:
    async with await AsyncConnection.connect(dsn) as connection:
        cursor = await connection.execute(f"select count(*) from duroxide.{table}".encode())
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])


async def test_a_batch_whose_reply_is_lost_is_applied_once(
    provider: PostgresProvider, proxy: Proxy, installed_dsn: str
) -> None:
    one, two, three = await started(provider, "a", "b", "c")
    scheduled = Activity(instance_id="a", execution_id=1, activity_id=2, body="work")
    (first,) = await provider.commit([turn_of(one, activities=(scheduled,))], eager=EAGER)
    more = Activity(instance_id="b", execution_id=1, activity_id=2, body="more")
    batch: list[CommitItem] = [
        FinishActivity(
            token=first.activities[0].token,
            completion=message("a", "done", MessageKind.ACTIVITY),
        ),
        turn_of(two, activities=(more,), messages=(message("b", "note", MessageKind.EVENT),)),
        AbandonTurn(instance_id=three.instance_id, token=three.token),
        Enqueue(message=message("d", "hello")),
    ]
    proxy.lose_the_reply_to(b"more")
    results = await provider.commit(batch, eager=EAGER)
    assert proxy.cuts == 1
    assert [result.code for result in results] == [CommitCode.APPLIED] * 4
    assert [a.body for a in results[1].activities] == ["more"], "leased to us, as we were told"
    poll = await provider.poll_turns(worker="w", want=10, lease_ms=10_000)
    received = {turn.instance_id: [m.body for m in turn.messages] for turn in poll.turns}
    assert received == {"a": ["done"], "b": ["note"], "c": ["start"], "d": ["hello"]}
    assert [t.attempt_count for t in poll.turns if t.instance_id == "c"] == [2]
    assert await count(installed_dsn, "worker_queue") == 1


async def test_an_error_of_a_batch_is_remembered_until_it_is_sent_again(
    proxy: Proxy, installed_dsn: str
) -> None:
    provider = PostgresProvider(proxy.dsn)
    item = Enqueue(message=message("a", "only once"))
    proxy.lose_the_reply_to(b"only once")
    # The server can't be reached again before the provider gives up.
    real, provider._connect = provider._connect, refuse  # type: ignore[method-assign]
    opened = await real("commits")
    await opened.close()
    provider._commits._connect = once(real, then=refuse)
    with pytest.raises(ProviderError) as raised:
        await provider.commit([item])
    assert raised.value.retryable
    assert await count(installed_dsn, "orchestrator_queue") == 1, "it was applied"
    provider._commits._connect = real
    (other,) = await provider.commit([Enqueue(message=message("b", "next"))])
    (result,) = await provider.commit([item])
    assert other.ok
    assert result.ok
    assert await count(installed_dsn, "orchestrator_queue") == 2
    await provider.close()


async def refuse(purpose: str) -> AsyncConnection[Any]:
    raise ProviderError("connect", "nobody answers", True)


def once(first: Any, *, then: Any) -> Any:
    waiting = [first]

    async def connect(purpose: str) -> AsyncConnection[Any]:
        connection: AsyncConnection[Any] = await (waiting.pop() if waiting else then)(purpose)
        return connection

    return connect


async def test_ended_sessions_are_opened_again(
    provider: PostgresProvider, installed_dsn: str
) -> None:
    (turn,) = await started(provider, "a")
    for _ in range(3):
        with psycopg.connect(installed_dsn, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name like 'duroxide %' and datname = current_database()"
            )
        (result,) = await provider.commit([Enqueue(message=message("b", "again"))])
        assert result.ok
        assert (await provider.poll_turns(worker="w", want=0, lease_ms=1)).turns == ()
        await provider.read_status(["a"])
    (result,) = await provider.commit([turn_of(turn)])
    assert result.code is CommitCode.APPLIED


async def test_a_poll_that_waits_survives_the_end_of_all_sessions(
    provider: PostgresProvider, installed_dsn: str
) -> None:
    poll = asyncio.create_task(
        provider.poll_turns(worker="w", want=1, lease_ms=1_000, wait_ms=20_000)
    )
    await asyncio.sleep(0.3)
    with psycopg.connect(installed_dsn, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name like 'duroxide %' and datname = current_database()"
        )
        connection.execute("select duroxide.send_v1('a', 1::smallint, 'start')")
    async with asyncio.timeout(10):
        assert [turn.instance_id for turn in (await poll).turns] == ["a"]


async def test_a_schema_that_goes_away_is_a_retryable_error_and_may_come_back(
    database: Database,
) -> None:
    migrate.upgrade(database.dsn)
    provider = PostgresProvider(database.dsn)
    await provider.start()
    item = Enqueue(message=message("a", "start"))
    await provider.commit([item])
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("drop schema duroxide cascade")
    for call in (
        provider.poll_turns(worker="w", want=1, lease_ms=1_000),
        provider.commit([Enqueue(message=message("b", "start"))]),
    ):
        with pytest.raises(ProviderError, match="gone") as raised:
            await call
        assert raised.value.retryable
    migrate.upgrade(database.dsn)
    (result,) = await provider.commit([Enqueue(message=message("c", "start"))])
    assert result.ok
    poll = await provider.poll_turns(worker="w", want=5, lease_ms=1_000)
    assert "c" in [turn.instance_id for turn in poll.turns]
    await provider.close()


async def test_a_closed_provider_opens_no_connection(
    provider: PostgresProvider, installed_dsn: str
) -> None:
    await started(provider, "a")
    await provider.close()
    with pytest.raises(ProviderError, match="closed"):
        await provider.read_status([InstanceId("a")])
    with pytest.raises(ProviderError, match="closed"):
        await provider.poll_turns(worker="w", want=1, lease_ms=1)


SLOW_HOOK = """
create table speed (seconds float);
insert into speed values (60);
create function slow(text[], bigint[], text[], text[], text[], text[], boolean) returns text[]
language sql as $$ select '{}'::text[] from pg_sleep((select seconds from public.speed)); $$
"""


async def test_a_commit_that_takes_longer_than_it_may_is_sent_again_and_applied_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_module._SESSION, "statement_timeout", "50ms")
    migrate.upgrade(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(SLOW_HOOK)
        provider = PostgresProvider(database.dsn, commit_hook="public.slow")
        (leased,) = await started(provider, "a")
        turn = turn_of(leased)
        with pytest.raises(ProviderError, match="statement timeout") as raised:
            await provider.commit([turn])
        assert raised.value.retryable
        connection.execute("update speed set seconds = 0")
    (result,) = await provider.commit([turn])
    assert result.code is CommitCode.APPLIED
    assert await count(database.dsn, "history_log") == 1
    await provider.close()


async def test_a_value_that_can_not_be_sent_stops_nobody_else(provider: PostgresProvider) -> None:
    broken = Message(
        instance_id="b", kind=MessageKind.EVENT, body="", visible_at_ms=cast("int", 1.5)
    )
    items = [Enqueue(message=message("a", "start")), Enqueue(message=broken)]
    items.append(Enqueue(message=message("c", "start")))
    codes = [result.code for result in await provider.commit(items)]
    assert codes == [CommitCode.APPLIED, CommitCode.REFUSED, CommitCode.APPLIED]
    assert [leased.instance_id for leased in await started(provider, "d", "e")] == ["a", "c"]


@pytest.mark.parametrize("odd", ["a\0b", "a\ud800b"])
async def test_of_an_id_that_the_server_can_not_take_there_is_nothing(
    provider: PostgresProvider, odd: str
) -> None:
    """The server would refuse the whole question, with the ids of all who ask together."""
    assert await provider.read_status([odd]) == {}
    assert await provider.read_history(odd) == ()
    assert await provider.read_key_values(odd) == {}
    assert await provider.read_status(["fine", odd]) == {}


HOOK = """
create function {name}(ids text[], executions bigint[], names text[], statuses text[], outputs text[],
                       projections text[], wait boolean) returns text[]
language plpgsql as $$
begin
    if 'bad' = any (ids) then
        raise exception 'not this one' using errcode = '{state}';
    end if;
    return array(select i from unnest(ids) as i where i = 'shy');
end
$$
"""


@pytest.mark.parametrize(
    "state",
    ["P0001", "P0002", "P0004", "21000", "22012", "23505", "44000", "AB123", "PD001", "0A001"],
)
async def test_an_instance_that_the_commit_hook_refuses_fails_alone(
    installed_dsn: str, state: str
) -> None:
    empty(installed_dsn)
    name = f"public.refusing_{state.lower()}"
    with psycopg.connect(installed_dsn) as connection:
        connection.execute(HOOK.format(name=name, state=state).encode())
    provider = PostgresProvider(installed_dsn, commit_hook=name)
    await provider.start()
    leased = {turn.instance_id: turn for turn in await started(provider, "a", "bad", "c")}
    results = await provider.commit([turn_of(leased[name]) for name in ("a", "bad", "c")])
    assert [result.code for result in results] == [
        CommitCode.APPLIED,
        CommitCode.REFUSED,
        CommitCode.APPLIED,
    ]
    assert "not this one" in str(results[1].error)
    await provider.close()


@pytest.mark.parametrize("state", ["57014", "XX000", "40001"])
async def test_a_hook_that_never_succeeds_holds_up_nobody_else(
    installed_dsn: str, state: str
) -> None:
    """The server has answered, so that nothing was written, and nothing has to be settled first."""
    empty(installed_dsn)
    name = f"public.never_{state.lower()}"
    with psycopg.connect(installed_dsn) as connection:
        connection.execute(HOOK.format(name=name, state=state).encode())
    provider = PostgresProvider(installed_dsn, commit_hook=name)
    await provider.start()
    leased = {turn.instance_id: turn for turn in await started(provider, "bad", "c")}
    bad, fine = turn_of(leased["bad"]), turn_of(leased["c"])
    for _ in range(2):
        with pytest.raises(ProviderError) as failed:
            await provider.commit([bad])
        assert failed.value.retryable
        (result,) = await provider.commit([fine])
        assert result.ok
    with psycopg.connect(installed_dsn) as connection:
        connection.execute(
            HOOK.format(name=name, state=state)
            .replace("create", "create or replace", 1)
            .replace("'bad' =", "'none' =")
            .encode()
        )
    (result,) = await provider.commit([bad])  # which goes on under a number of its own
    assert result.ok
    await provider.close()


async def test_a_hook_that_names_nobody_as_locked_loses_nothing(installed_dsn: str) -> None:
    empty(installed_dsn)
    with psycopg.connect(installed_dsn) as connection:
        connection.execute(
            HOOK.format(name="public.naming_nobody", state="P0001")
            .replace("return array(", "return array[null]::text[] || array(")
            .encode()
        )
    provider = PostgresProvider(installed_dsn, commit_hook="public.naming_nobody")
    await provider.start()
    (leased,) = await started(provider, "a")
    (result,) = await provider.commit([turn_of(leased)])
    assert result.code is CommitCode.APPLIED
    assert "a" in await provider.read_status(["a"])
    await provider.close()


@pytest.mark.parametrize("name", ["bad", "shy"])
async def test_a_turn_that_gives_an_instance_up_needs_no_leave_of_the_hook(
    installed_dsn: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    empty(installed_dsn)
    hook = f"public.refusing_{name}"
    with psycopg.connect(installed_dsn) as connection:
        connection.execute(HOOK.format(name=hook, state="P0001").encode())
    provider = PostgresProvider(installed_dsn, commit_hook=hook)
    (leased,) = await started(provider, name)
    (refused,) = await provider.commit([turn_of(leased)])
    assert refused.code is CommitCode.REFUSED
    assert await provider.read_status([name]) == {}
    assert not caplog.records
    last = turn_of(leased, bury="delivered too often", status=ExecutionStatus.FAILED)
    (result,) = await provider.commit([last])
    assert result.code is CommitCode.APPLIED
    assert (await provider.read_status([name]))[name].status is ExecutionStatus.FAILED
    (record,) = caplog.records
    assert f"{name} was ended as Failed without its commit hook {hook}" in record.message
    await provider.close()


async def test_an_instance_whose_hook_always_refuses_can_be_cancelled_and_deleted(
    installed_dsn: str,
) -> None:
    empty(installed_dsn)
    hook = "public.refusing_always"
    with psycopg.connect(installed_dsn) as connection:
        connection.execute(HOOK.format(name=hook, state="P0001").encode())
    store = PostgresProvider(installed_dsn, commit_hook=hook)

    @orchestration
    async def waits(ctx: OrchestrationContext) -> None:
        await ctx.wait_event("never")

    options = RuntimeOptions(max_attempts=1, unregistered_backoff_ms=(10, 10))
    async with AsyncRuntime(store, Registry().add(waits), options), AsyncClient(store) as client:
        await client.start(waits, instance_id="bad")
        await client.cancel("bad", "enough")
        with pytest.raises(OrchestrationFailed, match="poison"):
            await client.result("bad", timeout=timedelta(seconds=20))
        await client.delete("bad")
        assert await client.status("bad") is None
    await store.close()
