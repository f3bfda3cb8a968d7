"""What happens when two sessions want the same rows: nobody waits who should not, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import AsyncConnection, sql

from duroxide.clock import SystemClock
from duroxide.errors import ProviderError
from duroxide.providers.base import (
    AbandonTurn,
    Activity,
    CommitCode,
    CommitTurn,
    Enqueue,
    LeasedActivity,
    LeasedTurn,
    Message,
    MessageKind,
    NewExecution,
)
from duroxide.state import ExecutionStatus
from duroxide.version import ENGINE_VERSION
from duroxide_pg.provider import PostgresProvider
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]

NEW = NewExecution(name="Greet", version="1.0.0", engine_version=ENGINE_VERSION)
DONE = '{"ActivityCompleted":{}}'


@pytest_asyncio.fixture
async def provider(installed_dsn: str) -> AsyncIterator[PostgresProvider]:
    empty(installed_dsn)
    provider = PostgresProvider(installed_dsn)
    await provider.start()
    yield provider
    await provider.close()


@pytest_asyncio.fixture
async def user(installed_dsn: str) -> AsyncIterator[AsyncConnection[Any]]:
    """A session with an open transaction."""
    async with await AsyncConnection.connect(installed_dsn) as connection:
        yield connection


async def started(provider: PostgresProvider, *names: str) -> list[LeasedTurn]:
    await provider.commit(
        [
            Enqueue(message=Message(instance_id=name, kind=MessageKind.START, body="start"))
            for name in names
        ]
    )
    poll = await provider.poll_turns(worker="w", want=len(names), lease_ms=10_000)
    assert sorted(turn.instance_id for turn in poll.turns) == sorted(names)
    return list(poll.turns)


def first_turn(turn: LeasedTurn, **more: Any) -> CommitTurn:
    fields: dict[str, Any] = {
        "instance_id": turn.instance_id,
        "token": turn.token,
        "execution_id": 1,
        "first_event_id": 1,
        "events": ('{"event_id":1}', '{"event_id":2}'),
        "consumed": tuple(message.message_id for message in turn.messages),
        "new_execution": NEW,
    }
    return CommitTurn(**{**fields, **more})


async def running_activity(provider: PostgresProvider, lease_ms: int = 10_000) -> LeasedActivity:
    (turn,) = await started(provider, "i1")
    scheduled = Activity(instance_id="i1", execution_id=1, activity_id=2, body="work")
    (result,) = await provider.commit([first_turn(turn, activities=(scheduled,))])
    assert result.ok
    (leased,) = (await provider.poll_activities(worker="w", want=1, lease_ms=lease_ms)).activities
    return leased


async def finish_in(user: AsyncConnection[Any], leased: LeasedActivity) -> str:
    cursor = await user.execute(
        "select o_instance_id from duroxide.complete_activity_v1(%s, 3::smallint, %s)",
        [leased.token, DONE],
    )
    row = await cursor.fetchone()
    assert row is not None
    return str(row[0])


async def until_blocked(dsn: str, purpose: str) -> None:
    """Wait until a connection of the provider waits for a lock."""
    async with asyncio.timeout(10), await AsyncConnection.connect(dsn, autocommit=True) as watcher:
        while True:
            cursor = await watcher.execute(
                "select count(*) from pg_stat_activity"
                " where application_name = %s and wait_event_type = 'Lock'",
                [f"duroxide {purpose}"],
            )
            if await cursor.fetchone() != (0,):
                return
            await asyncio.sleep(0.01)


async def until_over(provider: PostgresProvider, leased: LeasedActivity) -> None:
    """Wait for the end of a lease by the store's clock."""
    while True:
        poll = await provider.poll_turns(worker="w", want=0, lease_ms=1)
        if poll.now_ms >= leased.expires_at_ms:
            return
        await asyncio.sleep(0.02)


class TestFinishingInTheUsersTransaction:
    async def test_effect_and_completion_appear_together(
        self, provider: PostgresProvider, user: AsyncConnection[Any]
    ) -> None:
        leased = await running_activity(provider)
        assert await finish_in(user, leased) == "i1"
        assert (await provider.poll_turns(worker="w", want=1, lease_ms=1_000)).turns == ()
        await user.commit()
        (turn,) = (await provider.poll_turns(worker="w", want=1, lease_ms=1_000)).turns
        assert [message.body for message in turn.messages] == [DONE]

    async def test_an_open_transaction_keeps_the_lease_alive_without_blocking_renewal(
        self, provider: PostgresProvider, user: AsyncConnection[Any]
    ) -> None:
        leased = await running_activity(provider, lease_ms=100)
        await finish_in(user, leased)
        await until_over(provider, leased)
        async with asyncio.timeout(3):
            renewal = await provider.renew(activities=[leased.token], activity_lease_ms=1_000)
            poll = await provider.poll_activities(worker="thief", want=1, lease_ms=1_000)
        assert renewal.lost_activities == frozenset()
        assert poll.activities == (), "nobody else runs it meanwhile"
        await user.commit()
        renewal = await provider.renew(activities=[leased.token], activity_lease_ms=1_000)
        assert renewal.lost_activities == {leased.token}

    async def test_a_rolled_back_finish_leaves_the_activity_to_others(
        self, provider: PostgresProvider, user: AsyncConnection[Any]
    ) -> None:
        leased = await running_activity(provider, lease_ms=100)
        await finish_in(user, leased)
        await user.rollback()
        await until_over(provider, leased)
        poll = await provider.poll_activities(worker="other", want=1, lease_ms=1_000)
        assert [a.attempt_count for a in poll.activities] == [2]

    async def test_an_activity_cancelled_meanwhile_never_runs_again(
        self, provider: PostgresProvider, user: AsyncConnection[Any]
    ) -> None:
        leased = await running_activity(provider, lease_ms=100)
        await provider.commit(
            [Enqueue(message=Message(instance_id="i1", kind=MessageKind.CANCEL, body="stop"))]
        )
        (turn,) = (await provider.poll_turns(worker="w", want=1, lease_ms=10_000)).turns
        await finish_in(user, leased)
        cancelling = first_turn(
            turn,
            first_event_id=3,
            events=('{"event_id":3}',),
            new_execution=None,
            cancelled_activities=(2,),
        )
        async with asyncio.timeout(3):
            (result,) = await provider.commit([cancelling])
        assert result.ok, "the turn does not wait for the user's transaction"
        renewal = await provider.renew(activities=[leased.token], activity_lease_ms=1_000)
        assert renewal.lost_activities == {leased.token}
        await user.rollback()
        await until_over(provider, leased)
        poll = await provider.poll_activities(worker="other", want=1, lease_ms=1_000)
        assert poll.activities == ()

    @pytest.mark.parametrize("token", ["", "x", "a/b/c", "n/99999999999999999999/i1", "n/1/i1"])
    async def test_a_token_that_is_no_live_lease_is_PD001(
        self, provider: PostgresProvider, user: AsyncConnection[Any], token: str
    ) -> None:
        await running_activity(provider)
        with pytest.raises(psycopg.Error, match="activity lease lost") as raised:
            await user.execute("select duroxide.complete_activity_v1(%s, 3::smallint, '')", [token])
        assert raised.value.sqlstate == "PD001"

    async def test_a_second_finish_is_PD001(
        self, provider: PostgresProvider, user: AsyncConnection[Any]
    ) -> None:
        leased = await running_activity(provider)
        await finish_in(user, leased)
        await user.commit()
        with pytest.raises(psycopg.Error) as raised:
            await finish_in(user, leased)
        assert raised.value.sqlstate == "PD001"


class TestSendingInTheUsersTransaction:
    async def test_a_message_wakes_a_waiting_poll_when_its_transaction_commits(
        self, provider: PostgresProvider, user: AsyncConnection[Any]
    ) -> None:
        poll = asyncio.create_task(
            provider.poll_turns(worker="w", want=1, lease_ms=1_000, wait_ms=20_000)
        )
        await user.execute("select duroxide.send_v1('i1', 1::smallint, 'start')")
        await asyncio.sleep(0.2)
        assert not poll.done()
        sent_at = asyncio.get_running_loop().time()
        await user.commit()
        (turn,) = (await poll).turns
        assert turn.instance_id == "i1"
        assert asyncio.get_running_loop().time() - sent_at < 2, "long before the safety poll"

    @pytest.mark.parametrize(
        "call",
        [
            "duroxide.send_v1('i1', 0, 'x')",
            "duroxide.send_v1('i1', 9, 'x')",
            "duroxide.send_many_v1('{i1, i1}', '{1, -1}', '{x, x}')",
        ],
    )
    async def test_a_kind_that_there_is_not_is_refused_and_stops_no_poll(
        self, provider: PostgresProvider, user: AsyncConnection[Any], call: str
    ) -> None:
        with pytest.raises(psycopg.Error, match="there is no message of the kind") as raised:
            await user.execute(f"select {call}".encode())
        assert raised.value.sqlstate == "22023"
        await user.rollback()
        assert len(await started(provider, "i2")) == 1

    async def test_a_kind_may_be_written_as_a_plain_number(
        self, provider: PostgresProvider, user: AsyncConnection[Any]
    ) -> None:
        await user.execute("select duroxide.send_v1('i1', 5, 'hello')")
        await user.commit()
        (turn,) = (await provider.poll_turns(worker="w", want=9, lease_ms=1_000)).turns
        assert [message.kind for message in turn.messages] == [MessageKind.EVENT]
        await provider.commit([AbandonTurn(instance_id="i1", token=turn.token)])
        leased = await running_activity(provider)
        finish = "select duroxide.complete_activity_v1(%s, {}, 'done')"
        with pytest.raises(psycopg.Error, match="there is no message of the kind"):
            await user.execute(finish.format(0).encode(), [leased.token])
        await user.rollback()
        await user.execute(finish.format(3).encode(), [leased.token])

    async def test_a_rollback_sends_nothing(
        self, provider: PostgresProvider, user: AsyncConnection[Any]
    ) -> None:
        await user.execute("select duroxide.send_v1('i1', 1::smallint, 'start')")
        await user.rollback()
        assert (await provider.poll_turns(worker="w", want=1, lease_ms=1_000)).turns == ()


class TestTheCommitHook:
    @pytest_asyncio.fixture
    async def hooked(self, installed_dsn: str) -> AsyncIterator[PostgresProvider]:
        empty(installed_dsn)
        async with await AsyncConnection.connect(installed_dsn, autocommit=True) as connection:
            await connection.execute("drop schema if exists app cascade")
            await connection.execute(HOOK)
        provider = PostgresProvider(installed_dsn, commit_hook="app.project")
        await provider.start()
        yield provider
        await provider.close()

    async def test_it_writes_in_the_same_transaction_as_the_turn(
        self, hooked: PostgresProvider, user: AsyncConnection[Any]
    ) -> None:
        (turn,) = await started(hooked, "i1")
        item = first_turn(
            turn,
            status=ExecutionStatus.COMPLETED,
            output="42",
            projections=('{"a":1}', '"b"'),
        )
        (result,) = await hooked.commit([item])
        assert result.ok
        cursor = await user.execute("select id, name, status, output, projection from app.item")
        assert await cursor.fetchall() == [("i1", "Greet", "Completed", "42", [{"a": 1}, "b"])]

    async def test_a_refused_turn_is_not_projected(
        self, hooked: PostgresProvider, user: AsyncConnection[Any]
    ) -> None:
        (turn,) = await started(hooked, "i1")
        (result,) = await hooked.commit([first_turn(turn, first_event_id=7)])
        assert result.code is CommitCode.HISTORY_CONFLICT
        cursor = await user.execute("select count(*) from app.item")
        assert await cursor.fetchone() == (0,)

    async def test_a_locked_row_holds_up_its_own_turn_only(
        self, hooked: PostgresProvider, user: AsyncConnection[Any], installed_dsn: str
    ) -> None:
        one, two, three = await started(hooked, "i1", "i2", "i3")
        await user.execute("insert into app.item (id) values ('i1'), ('i2'), ('i3')")
        await user.commit()
        await user.execute("select from app.item where id = 'i1' for update")
        batch = asyncio.create_task(hooked.commit([first_turn(one), first_turn(two)]))
        await until_blocked(installed_dsn, "commits, waiting")
        assert set(await hooked.read_status(["i1", "i2"])) == {"i2"}, "its neighbour is durable"
        (result,) = await hooked.commit([first_turn(three)])
        assert result.ok, "and later batches go on"
        assert not batch.done()
        await user.rollback()
        assert [result.code for result in await batch] == [CommitCode.APPLIED] * 2
        assert set(await hooked.read_status(["i1", "i2", "i3"])) == {"i1", "i2", "i3"}

    @pytest.mark.parametrize("name", ["drop table x", "a.b.c", "f()", 'x"y', "1x"])
    def test_only_the_name_of_a_function_is_accepted(self, name: str) -> None:
        with pytest.raises(ValueError, match="commit_hook"):
            PostgresProvider("", commit_hook=name)


HOOK = """
create schema app;
create table app.item (id text primary key, name text, status text, output text, projection jsonb);
create function app.project(
    p_ids text[], p_executions bigint[], p_names text[], p_statuses text[], p_outputs text[],
    p_projections text[], p_wait boolean
) returns text[] language plpgsql as $$
declare
    v_locked text[];
begin
    if p_wait then
        perform from app.item where id = any (p_ids) order by id for update;
    end if;
    select array_agg(i) into v_locked
      from unnest(p_ids) as i
     where exists (select from app.item where id = i)
       and not exists (select from app.item where id = i for update skip locked);
    insert into app.item
    select p.id, p.name, p.status, p.output, p.projection::jsonb
      from unnest(p_ids, p_names, p_statuses, p_outputs, p_projections)
           as p (id, name, status, output, projection)
     where v_locked is null or p.id <> all (v_locked)
    on conflict (id) do update set status = excluded.status;
    return v_locked;
end;
$$;
"""


async def test_a_stricter_default_isolation_changes_nothing(installed_dsn: str) -> None:
    empty(installed_dsn)
    async with await AsyncConnection.connect(installed_dsn, autocommit=True) as connection:
        database = sql.Identifier(connection.info.dbname)
        await connection.execute(
            sql.SQL("alter database {} set default_transaction_isolation = serializable").format(
                database
            )
        )
        try:
            one, other = PostgresProvider(installed_dsn), PostgresProvider(installed_dsn)
            names = [f"i{number}" for number in range(40)]
            await one.commit(
                [
                    Enqueue(message=Message(instance_id=n, kind=MessageKind.START, body="x"))
                    for n in names
                ]
            )
            polls = await asyncio.gather(
                *(p.poll_turns(worker="w", want=4, lease_ms=9_000) for p in [one, other] * 5)
            )
            results = await asyncio.gather(
                *(
                    provider.commit([first_turn(turn) for turn in poll.turns])
                    for provider, poll in zip([one, other] * 5, polls, strict=True)
                )
            )
            taken = [turn.instance_id for poll in polls for turn in poll.turns]
            assert len(taken) == len(set(taken))
            assert all(result.ok for answers in results for result in answers)
            await one.close()
            await other.close()
        finally:
            await connection.execute(
                sql.SQL("alter database {} reset default_transaction_isolation").format(database)
            )


def test_the_store_clock_is_the_servers(installed_dsn: str) -> None:
    async def now_ms() -> int:
        provider = PostgresProvider(installed_dsn)
        poll = await provider.poll_turns(worker="w", want=1, lease_ms=1)
        await provider.close()
        return poll.now_ms

    assert abs(asyncio.run(now_ms()) - SystemClock().now_ms()) < 60_000


class TestClosing:
    async def test_a_row_that_a_user_holds_does_not_keep_a_process_from_ending(
        self,
        provider: PostgresProvider,
        user: AsyncConnection[Any],
        installed_dsn: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("duroxide_pg.provider.CLOSE_S", 0.2)
        (turn,) = await started(provider, "i1")
        await user.execute("select from duroxide.instance_locks for update")
        commit = asyncio.create_task(provider.commit([first_turn(turn)]))
        await until_blocked(installed_dsn, "commits")
        began = asyncio.get_running_loop().time()
        await provider.close()
        assert asyncio.get_running_loop().time() - began < 3
        with pytest.raises(ProviderError, match="closed") as raised:
            await commit
        assert raised.value.retryable
        await user.rollback()
        other = PostgresProvider(installed_dsn)
        (result,) = await other.commit([first_turn(turn)])
        assert result.ok, "the lease is alive, and nothing of the turn was written"
        await other.close()
