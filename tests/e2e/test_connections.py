"""Whatever interrupts a worker, it leaves no connection open."""

from __future__ import annotations

import asyncio

import pytest
from psycopg import AsyncConnection, pq
from psycopg.errors import ObjectNotInPrerequisiteState

from pg_durable.home import Home
from pg_durable.steps import wire
from pg_durable.steps.connections import StepConnections
from tests.fixtures.postgres import Database


class Sessions(list[AsyncConnection]):
    """Opens sessions in a database, whoever asks, and keeps an account of them."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def connect(self, role: str, database: str | None) -> AsyncConnection:
        self.append(await AsyncConnection.connect(self._dsn, autocommit=True))
        return self[-1]


async def sleep_in_a_step(connections: StepConnections, began: asyncio.Event) -> None:
    async with connections.borrow("somebody", None) as connection:
        began.set()
        async for _ in wire.simple_query(connection.pgconn, b"select pg_sleep(60)"):
            pass


async def test_a_step_that_is_interrupted_twice_leaves_no_session(database: Database) -> None:
    sessions, began = Sessions(database.dsn), asyncio.Event()
    connections = StepConnections(sessions.connect)
    step = asyncio.create_task(sleep_in_a_step(connections, began))
    await began.wait()
    while sessions[0].info.transaction_status != pq.TransactionStatus.ACTIVE:  # noqa: ASYNC110  # libpq tells nobody
        await asyncio.sleep(0)
    step.cancel()
    await asyncio.sleep(0)  # it asks the server to cancel what runs
    assert not step.done()
    step.cancel()
    await asyncio.wait((step,))
    assert sessions[0].closed
    await connections.close()


async def test_a_session_that_the_server_ended_is_closed_and_replaced(database: Database) -> None:
    sessions = Sessions(database.dsn)
    connections = StepConnections(sessions.connect)
    async with connections.borrow("somebody", None) as connection:
        pid = connection.info.backend_pid
    async with connections.borrow("somebody else", None) as other:
        await other.execute("select pg_terminate_backend(%s, 5000)", [pid])
    async with connections.borrow("somebody", None) as connection:
        assert connection.info.backend_pid != pid
    await connections.close()
    assert all(session.closed for session in sessions)
    assert len(sessions) == 3


async def test_a_worker_that_gives_up_while_it_connects_leaves_nothing_running(
    database: Database,
) -> None:
    before = asyncio.all_tasks()
    opening = asyncio.create_task(Home(database.dsn).__aenter__())
    while not names_of(asyncio.all_tasks() - before):  # noqa: ASYNC110  # it has begun
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert names_of(asyncio.all_tasks() - before) == []


def names_of(tasks: set[asyncio.Task[object]]) -> list[str]:
    return [task.get_name() for task in tasks if "management" in task.get_name()]


async def test_one_session_serves_many_steps_one_after_the_other(database: Database) -> None:
    sessions = Sessions(database.dsn)
    connections = StepConnections(sessions.connect)
    for _ in range(30):
        async with connections.borrow("somebody", None):
            pass
        while connections._tasks:  # it is being handed back
            await asyncio.wait(connections._tasks)
    await connections.close()
    assert len(sessions) == 1


LEFT_BEHIND = b"""
set work_mem = '77MB';
set session characteristics as transaction isolation level serializable;
create temp table left_behind (n int);
create temp sequence numbers;
select nextval('numbers');
prepare left_statement as select 1;
declare left_cursor cursor with hold for select 1;
listen left_channel;
select pg_advisory_lock(77);
select set_config('app.left', 'yes', false);
"""
REMAINS = """
select current_setting('work_mem') = '77MB' as work_mem,
       current_setting('transaction_isolation') = 'serializable' as isolation,
       current_setting('app.left', true) = 'yes' as setting,
       to_regclass('pg_temp.left_behind') is not null as temporary,
       exists (select from pg_prepared_statements where name = 'left_statement') as statement,
       exists (select from pg_cursors where name = 'left_cursor') as cursor,
       exists (select from pg_listening_channels()) as listening,
       exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as lock,
       current_user <> session_user as role
"""


async def test_a_session_is_handed_over_as_new_but_for_its_plans(database: Database) -> None:
    sessions = Sessions(database.superuser_dsn)
    connections = StepConnections(sessions.connect)
    async with connections.borrow("somebody", None) as connection:
        async for result in wire.simple_query(connection.pgconn, LEFT_BEHIND):
            assert result.status != pq.ExecStatus.FATAL_ERROR, result.error_message
        await connection.execute("set role pg_monitor")
        (before,) = await (await connection.execute(REMAINS)).fetchall()
    assert all(before)
    while not any(connections._idle.values()):  # noqa: ASYNC110  # it is handed over in the background
        await asyncio.sleep(0)
    async with connections.borrow("somebody", None) as connection:
        (after,) = await (await connection.execute(REMAINS)).fetchall()
        with pytest.raises(ObjectNotInPrerequisiteState):
            await connection.execute("select lastval()")
    assert not any(after)
    assert len(sessions) == 1, "it was the same session"
    await connections.close()
