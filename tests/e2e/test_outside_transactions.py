"""Steps that can't run in a transaction: at least once, or at most once for those who say so."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.fixtures.postgres import Database
from tests.fixtures.workers import QUICK, worker_process
from tests.fixtures.workflows import Workflows, eventually
from tests.provider.postgres_proxy import Proxy

SETTINGS = Settings.load({"shutdown_grace": 1.0, "turn_lease": 2.0, "activity_lease": 3.0}, {})


def step(text: str, **options: Any) -> str:
    return f"df.sql($step${text}$step$, '{json.dumps(options)}')"


def details(workflows: Workflows, instance: str) -> dict[str, Any]:
    found = workflows.one(
        "select status_details from df.nodes where instance_id = %s and node_type = 'SQL'", instance
    )
    return dict(found)


@pytest.mark.usefixtures("worker_here")
def test_what_can_not_run_in_a_transaction_runs_outside_and_says_so(workflows: Workflows) -> None:
    """df-execution 12.25: VACUUM, CREATE INDEX CONCURRENTLY, CALL with COMMIT."""
    workflows.run("create table items (i int)")
    workflows.run(
        "create procedure fill() language plpgsql as $$ begin"
        " insert into items values (1); commit; insert into items values (2); end $$"
    )
    for text in (
        "vacuum items",
        "create index concurrently items_i on items (i)",
        "reindex index concurrently items_i",
        "drop index concurrently items_i",
        "call fill()",
        "do $$ begin insert into items values (3); commit; end $$",
        "discard all",
    ):
        instance = workflows.start(step(text))
        assert workflows.wait(instance) == "completed", (text, workflows.error(instance))
        assert details(workflows, instance)["delivery"] == "at_least_once"
    assert workflows.all("select i from items order by i") == [(1,), (2,), (3,)]
    assert workflows.one("select count(*) from df._attempts") == 0
    ordinary = workflows.start("'insert into items values (4)'")
    assert workflows.wait(ordinary) == "completed"
    assert set(details(workflows, ordinary)) == {"execution_id"}


@pytest.mark.usefixtures("worker_here")
def test_such_a_statement_has_to_stand_alone(workflows: Workflows) -> None:
    instance = workflows.start("'select 1; vacuum'")
    assert workflows.wait(instance) == "failed"
    assert "VACUUM cannot run inside a transaction block" in workflows.error(instance)
    error = workflows.one("select df.error(%s)", instance)
    assert error["sqlstate"] == "25001"
    assert "a step of its own" in error["hint"]


@pytest.mark.usefixtures("worker_here")
def test_a_text_that_commits_says_so_whatever_is_open_after_it(workflows: Workflows) -> None:
    workflows.run("create table items (i int)")
    for text in (
        "insert into items values (1); commit",
        "insert into items values (2); commit; begin; insert into items values (3)",
        "begin; insert into items values (4); commit and chain; insert into items values (5)",
    ):
        instance = workflows.start(step(text))
        assert workflows.wait(instance) == "completed", (text, workflows.error(instance))
        assert details(workflows, instance)["delivery"] == "at_least_once", text
    left_open = workflows.start(step("begin; insert into items values (6)", tx="none"))
    assert workflows.wait(left_open) == "completed"
    assert workflows.all("select i from items order by i") == [(i,) for i in range(1, 7)]


@pytest.mark.usefixtures("worker_here")
def test_what_fails_after_a_commit_of_its_own_is_not_repeated(workflows: Workflows) -> None:
    """df-execution 5.5: only what proves that there was no effect is."""
    workflows.run("create table items (i int)")
    failed = workflows.start(
        step(
            "insert into items values (1); commit; do $$ begin raise serialization_failure; end $$"
        )
    )
    assert workflows.wait(failed) == "failed"
    assert workflows.one("select df.error(%s)", failed)["sqlstate"] == "40001"
    assert workflows.all("select i from items") == [(1,)]


@pytest.mark.usefixtures("worker_here")
def test_a_step_can_insist_on_a_transaction_or_do_without(workflows: Workflows) -> None:
    workflows.run("create table items (i int)")
    refused = workflows.start(step("vacuum items", tx="required"))
    assert workflows.wait(refused) == "failed"
    assert "forbids" in workflows.one("select df.error(%s)", refused)["hint"]
    ended = workflows.fail(step("insert into items values (1); commit", tx="required"))
    assert ended == "SQL execution failed: the text ends its transaction itself (COMMIT)"
    assert workflows.all("select i from items") == []
    without = workflows.start(step("insert into items values (2)", tx="none"))
    assert workflows.wait(without) == "completed"
    assert details(workflows, without)["delivery"] == "at_least_once"
    assert workflows.all("select i from items") == [(2,)]


@pytest.mark.usefixtures("worker_here")
def test_a_step_chooses_isolation_access_and_time_limit(workflows: Workflows) -> None:
    workflows.run("create table items (i int)")
    shown = (
        "select current_setting('transaction_isolation') as i,"
        " current_setting('transaction_read_only') as r,"
        " current_setting('transaction_deferrable') as d, current_setting('statement_timeout') as t"
    )
    result = workflows.finish(
        step(shown, isolation="serializable", read_only=True, deferrable=True, timeout_seconds=1.5)
    )
    assert result["rows"] == [{"i": "serializable", "r": "on", "d": "on", "t": "1500ms"}]
    written = step("insert into items values (1)", isolation="repeatable read")
    assert workflows.finish(written)["affected"] == 1
    refused = workflows.fail(step("insert into items values (2)", read_only=True))
    assert "cannot execute INSERT in a read-only transaction" in refused
    late = workflows.start(step("select pg_sleep(5)", timeout_seconds=0.05, tx="none"))
    assert workflows.wait(late) == "failed"
    assert workflows.one("select df.error(%s)", late)["sqlstate"] == "57014"


@pytest.mark.usefixtures("worker_here")
def test_a_step_is_repeated_as_often_as_it_says(workflows: Workflows) -> None:
    workflows.run("create sequence tries")
    text = (
        "do $$ begin perform nextval('tries');"
        " raise exception 'busy' using errcode = '40001'; end $$"
    )
    workflows.fail(step(text, retries=0))
    assert workflows.one("select last_value from tries") == 1
    workflows.fail(step(text, retries=1))
    assert workflows.one("select last_value from tries") == 3


@pytest.mark.parametrize("told", [pytest.param("retry", marks=pytest.mark.long), "fail"])
def test_a_worker_that_dies_over_such_a_step_repeats_it_or_says_that_it_does_not_know(
    installed: Database, workflows: Workflows, tmp_path: Path, told: str
) -> None:
    workflows.run("create table effects (i int)")
    workflows.run("create table gate (open boolean); insert into gate values (false)")
    text = (
        "do $$ begin insert into effects values (1); commit;"
        " while not (select open from gate) loop perform pg_sleep(0.02); commit; end loop; end $$"
    )
    settings = {name.removeprefix("PG_DURABLE_").lower(): value for name, value in QUICK.items()}
    with worker_process(
        installed.dsn, tmp_path / "log", poll_interval="0.5", **settings
    ) as process:
        instance = workflows.start(step(text, on_ambiguous=told))
        eventually(lambda: workflows.one("select count(*) from effects") == 1)
        process.kill()
        workflows.one(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where application_name = 'pg_durable:worker:workflow-sql' and datname = current_database()"
        )
        workflows.run("update gate set open = true")
        process.start()
        status = workflows.wait(instance)
    if told == "retry":
        assert status == "completed"
        assert workflows.one("select count(*) from effects") == 2
    else:
        assert status == "failed"
        assert "outcome of attempt 1 is unknown" in workflows.error(instance)
        assert "on_ambiguous" in workflows.one("select df.error(%s)", instance)["hint"]
        assert workflows.one("select count(*) from effects") == 1


async def test_a_text_that_commits_by_itself_is_marked_when_it_must_not_run_twice(
    installed: Database, workflows: Workflows
) -> None:
    workflows.run("create table effects (i int)")
    async with Worker(installed.dsn, SETTINGS):
        instance = workflows.start(
            step("insert into effects values (1); commit", on_ambiguous="fail")
        )
        assert await asyncio.to_thread(workflows.wait, instance) == "completed"
    assert details(workflows, instance)["delivery"] == "at_most_once"
    assert workflows.all("select i from effects") == [(1,)]


@pytest.mark.parametrize("is_applied", [True, False], ids=["applied", "not applied"])
async def test_a_record_that_is_not_answered_repeats_no_effect(
    installed: Database, workflows: Workflows, is_applied: bool
) -> None:
    workflows.run("create table effects (i int)")
    async with Proxy().to(installed.dsn) as proxy:
        (proxy.lose_the_reply_to if is_applied else proxy.lose)(b"df._finish_step_v1(")
        async with Worker(proxy.dsn, SETTINGS):
            instance = workflows.start(step("insert into effects values (1)", tx="none"))
            assert await asyncio.to_thread(workflows.wait, instance) == "completed"
        assert proxy.cuts == 1
    assert workflows.all("select i from effects") == [(1,)]
    assert workflows.one("select count(*) from duroxide.worker_queue") == 0


async def test_a_database_can_be_created_by_a_step(
    installed: Database, workflows: Workflows
) -> None:
    name = f"{installed.name}_made"
    workflows.one("select df.setvar('name', %s)", name)
    owner = sql.Identifier(workflows.connection.info.user)  # of other tests' databases as well
    installed.server.execute(sql.SQL("alter role {} createdb").format(owner))
    try:
        async with Worker(installed.dsn, SETTINGS):
            instance = workflows.start("'create database {name:ident}'")
            assert await asyncio.to_thread(workflows.wait, instance) == "completed"
        assert workflows.one("select count(*) from pg_database where datname = %s", name) == 1
    finally:
        installed.server.execute(sql.SQL("alter role {} nocreatedb").format(owner))
        installed.server.drop_database(name)


@pytest.mark.long
async def test_a_stricter_isolation_level_has_until_the_first_renewal_of_its_lease(
    installed: Database, workflows: Workflows
) -> None:
    settings = Settings.load({"shutdown_grace": 1.0, "activity_lease": 0.9}, {})
    text = "select pg_sleep({})"
    async with Worker(installed.dsn, settings):
        quick = workflows.start(step(text.format(0.01), isolation="serializable", retries=0))
        slow = workflows.start(step(text.format(0.6), isolation="serializable", retries=0))
        relaxed = workflows.start(step(text.format(0.6), retries=0))
        for instance, status in ((quick, "completed"), (slow, "failed"), (relaxed, "completed")):
            assert await asyncio.to_thread(workflows.wait, instance) == status
    error = workflows.one("select df.error(%s)", slow)
    assert error["sqlstate"] == "40001"
    assert "activity_lease" in error["hint"]
