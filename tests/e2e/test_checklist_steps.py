"""Lines 22 to 26, 32 and 33 of the checklist: steps, signals, and workers that come and go."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import DEVNULL, Popen

import psycopg
import pytest
from psycopg import sql

from pg_durable import install
from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.crash.trap import Moment, Trap
from tests.e2e.test_workers import granted, passwords, run_with_worker
from tests.fixtures.postgres import Database
from tests.fixtures.standing import effect, effects
from tests.fixtures.workers import worker_thread
from tests.fixtures.workflows import Workflows, eventually


async def test_row_security_counts_in_a_step(installed: Database, workflows: Workflows) -> None:
    """df-execution 12.22: row security."""
    ann = granted(installed, workflows, "ann")
    workflows.run(
        f"""
        create table notes (who text, what text);
        insert into notes values ('{installed.role("ann")}', 'mine'), ('x', 'not mine');
        alter table notes enable row level security;
        create policy own on notes using (who = current_user);
        grant select on notes to {installed.role("ann")}
        """
    )
    instance = ann.start("'select what from notes'")
    assert await run_with_worker(installed, ann, instance) == "completed", ann.error(instance)
    assert ann.one("select df.result(%s)::jsonb", instance)["rows"] == [{"what": "mine"}]
    ann.connection.close()


def alter(installed: Database, role: str, change: str) -> None:
    text = "alter role {} " + change
    installed.server.execute(sql.SQL(text).format(sql.Identifier(installed.role(role))))


async def test_a_role_that_can_not_log_in_any_more_is_named(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.23: NOLOGIN."""
    ann = granted(installed, workflows, "ann")
    instance = ann.start("'select 1'")
    alter(installed, "ann", "nologin")
    assert await run_with_worker(installed, workflows, instance) == "failed"
    error = str(workflows.error(instance))
    assert installed.role("ann") in error
    assert "is not permitted to log in" in error
    ann.connection.close()


async def test_a_step_waits_for_a_connection_that_its_role_may_have(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.23: CONNECTION LIMIT 0."""
    ann = granted(installed, workflows, "ann")
    instance = ann.start("'select 1'")
    alter(installed, "ann", "connection limit 0")
    running = asyncio.create_task(run_with_worker(installed, workflows, instance))
    begun = "select count(*) from df.nodes where status = 'running'"
    await asyncio.to_thread(eventually, lambda: workflows.one(begun) == 1, what="it has begun")
    alter(installed, "ann", "connection limit 1")
    ann.connection.close()
    assert await running == "completed", workflows.error(instance)


async def test_a_database_that_the_role_may_not_enter_is_named(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.24: missing, no CONNECT."""
    missing = pytest.raises(psycopg.Error, match="no_such_database")
    with missing:
        workflows.one("select df.start('select 1', null, 'no_such_database')")
    ann = granted(installed, workflows, "ann")
    other = f"{installed.name}_closed"
    installed.server.execute(sql.SQL("create database {}").format(sql.Identifier(other)))
    try:
        closed = sql.SQL("revoke connect on database {} from public").format(sql.Identifier(other))
        installed.server.execute(closed)
        instance = ann.one("select df.start('select 1', null, %s)", other)
        known = passwords(installed)

        def credentials(role: str, database: str) -> Mapping[str, str]:
            return {"password": known[role]}

        async with Worker(
            installed.dsn, Settings.load({"shutdown_grace": 1.0}, {}), credentials=credentials
        ):
            assert await asyncio.to_thread(ann.wait, instance) == "failed"
        assert f"Failed to connect to database '{other}'" in str(ann.error(instance))
        assert "permission denied for database" in str(ann.error(instance))
    finally:
        ann.connection.close()
        installed.server.drop_database(other)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        ("do $x$ begin perform 1; end $x$", []),
        ("lock table effects in share mode; select 1 as n", [{"n": 1}]),
        ("copy effects (what) from stdin", "has no input to copy from"),
        ("copy effects to stdout", "has no reader"),
    ],
    ids=["empty", "do", "lock", "copy in", "copy out"],
)
def test_odd_texts_of_a_step(standing: Workflows, text: str, rows: object) -> None:
    """df-execution 12.25: DO, empty text, COPY, LOCK."""
    builder = "df.sql($t$ $t$)" if not text else f"df.sql($t${text}$t$)"
    instance = standing.start(builder)
    if standing.wait(instance) == "completed":
        assert standing.one("select df.result(%s)::jsonb", instance)["rows"] == rows
    else:
        assert str(rows) in str(standing.error(instance))


def test_a_step_may_not_wait_for_a_workflow(standing: Workflows) -> None:
    """df-execution 12.26: await refused."""
    other = standing.start("'select 1'")
    error = standing.fail(f"'select df.await_instance(''{other}'', 1)'")
    assert "df.await_instance" in error


def test_a_workflow_that_a_step_starts_exists_if_the_step_commits(standing: Workflows) -> None:
    """df-execution 12.26: nested start, nested start is atomic."""
    inner = "df.sql($i$insert into effects (instance, what) values ($o${sys_instance_id}$o$, $o$x$o$)$i$)"
    result = standing.finish(f"$n$select df.start({inner}) as id$n$")
    nested = str(result["rows"][0]["id"])
    assert standing.wait(nested) == "completed"
    before = standing.one("select count(*) from df.instances")
    standing.fail(f"$n$select df.start({inner}); select 1/0$n$")
    assert standing.one("select count(*) from df.instances") == before + 1  # the one that failed


def waits(session: Workflows, instance: str) -> int:
    waiters = "select count(*) from df._signal_waiters where instance_id = %s"
    return int(str(session.one(waiters, instance)))


def test_a_signal_that_comes_after_the_time_out_is_for_the_next_wait(standing: Workflows) -> None:
    """df-execution 12.32: after time-out."""
    instance = standing.start(
        f"(df.wait_for_signal('go', 1) |=> 'a') ~> {effect('over')}"
        " ~> (df.wait_for_signal('go') |=> 'b') ~> 'select $a.timed_out as a, $b.data as b'"
    )
    eventually(lambda: effects(standing, instance) == ["over"], what="the time is over")
    standing.one("select df.signal(%s, 'go', '5')", instance)
    assert standing.wait(instance) == "completed"
    assert standing.one("select df.result(%s)::jsonb", instance)["rows"] == [{"a": True, "b": 5}]


def test_two_waits_need_two_signals_and_one_wait_takes_one(standing: Workflows) -> None:
    """df-execution 12.32: two waits one signal, one wait two signals."""
    two = standing.start("df.wait_for_signal('go') ~> df.wait_for_signal('go')")
    one = standing.start("df.wait_for_signal('go') ~> df.wait_for_signal('done')")
    for instance, times in ((two, 1), (one, 2)):
        eventually(lambda: waits(standing, instance) == 1, what="it waits")  # noqa: B023
        standing.one(
            "select count(df.signal(%s, 'go', n::text)) from generate_series(1, %s::int) n",
            instance,
            times,
        )
    standing.one("select df.signal(%s, 'done', '0')", one)
    assert standing.wait(one) == "completed"  # the second 'go' was for nobody
    eventually(lambda: waits(standing, two) == 1, what="the second wait")
    assert standing.status(two) == "running"
    standing.one("select df.signal(%s, 'go', '2')", two)
    assert standing.wait(two) == "completed"
    assert standing.one("select df.result(%s)::jsonb", two)["data"] == 2


def test_a_nested_loop_takes_each_signal_once_and_hands_on_how_far_it_came(
    standing: Workflows,
) -> None:
    """df-execution 12.32: nested loop, between iterations."""
    take = "(df.wait_for_signal('go') |=> 's') ~> $$insert into effects (instance, what) values ('{sys_instance_id}', '$s.data') returning $s.data < 3$$"
    instance = standing.start(
        f"'select 1' ~> df.loop({take} |=> 'more', 'select $more')"
        " ~> df.wait_for_signal('go') |=> 'last' ~> 'select $last.data as n'"
    )
    standing.one(
        "select count(df.signal(%s, 'go', n::text)) from generate_series(1, 4) n", instance
    )
    assert standing.wait(instance) == "completed", standing.error(instance)
    assert effects(standing, instance) == ["1", "2", "3"]
    assert standing.one("select df.result(%s)::jsonb", instance)["rows"] == [{"n": 4}]


def test_more_instances_than_are_to_be_kept_are_removed_oldest_first(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.33: retention by count, orphans removed."""
    workflows.run("insert into df._settings values ('retain_instances', '2')")
    with worker_thread(installed.dsn, reconcile_interval=0.2):
        started = []
        for _ in range(4):
            started.append(workflows.start("'select 1' ~> df.loop('select 2', 'select false')"))
            assert workflows.wait(started[-1]) == "completed"
        left = "select array_agg(id order by created_at) from df.instances"
        eventually(lambda: workflows.one(left) == started[2:], what="the newest are left")
        engine = "select count(distinct split_part(instance_id, '::', 1)) from duroxide.instances"
        eventually(lambda: workflows.one(engine) == 2, what="nothing else is in the engine")


def test_waiting_for_a_free_place_holds_up_nothing_else(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.33: pool exhaustion."""
    workflows.run("create table gate (i int); create table seen (i int)")
    with worker_thread(installed.dsn, sql_concurrency=1):
        with psycopg.connect(installed.dsn) as holder:
            holder.execute("lock table gate")
            holding = workflows.start("'insert into gate values (2)'")
            active = "select count(*) from pg_stat_activity where query like '%%into gate%%' and wait_event_type = 'Lock'"
            eventually(lambda: workflows.one(active) == 1, what="the only place is taken")
            queued = [workflows.start("'insert into seen values (1)'") for _ in range(3)]
            quick = workflows.start("df.sleep(0)")
            assert workflows.wait(quick) == "completed"
            assert {workflows.status(instance) for instance in queued} == {"running"}
            assert workflows.one("select count(*) from seen") == 0
            holder.rollback()
        for instance in (holding, *queued):
            assert workflows.wait(instance) == "completed"
        assert workflows.one("select count(*) from seen") == 3


@pytest.mark.long
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER], ids=["before", "after"])
@pytest.mark.parametrize("statement", [b"create table df._signals", b"orchestrator_queue"])
def test_an_installation_that_dies_is_begun_again(
    database: Database, tmp_path: Path, moment: Moment, statement: bytes
) -> None:
    """df-execution 12.27: during migration."""
    process: list[Popen[bytes]] = []
    with Trap(statement, moment, lambda: process[0].kill()).to(database.dsn) as trap:
        command = [sys.executable, "-m", "pg_durable", "install", "--dsn", trap.dsn]
        process.append(Popen(command, stdout=DEVNULL, stderr=DEVNULL))
        assert trap.is_sprung.wait(30), "it never came to that statement"
        assert process[0].wait(10) == -9
    assert not install.check(database.dsn).complete
    assert install.install(database.dsn).complete
    with worker_thread(database.dsn):
        session = Workflows.connect(database.dsn)
        assert session.finish("'select 1 as n'")["rows"] == [{"n": 1}]
        session.connection.close()
