"""Every statement of the hot path probes indexes, empty or full, with statistics or without."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    Activity,
    CommitTurn,
    Cursor,
    EagerDispatch,
    Enqueue,
    FinishActivity,
    LeasedTurn,
    Message,
    MessageKind,
    NewExecution,
    SessionOwner,
    TagMode,
    TagSelection,
)
from duroxide.state import ClearKeyValues, ExecutionStatus, SetKeyValue
from duroxide.version import ENGINE_VERSION, VersionRange
from duroxide_pg import migrate
from duroxide_pg.provider import PostgresProvider
from tests.fixtures.postgres import Database

BACKLOG = """
insert into duroxide.instances (instance_id, orchestration_name, started_at, created_at, updated_at)
select 'far' || i, 'x', now(), now(), now() from generate_series(1, %(n)s) as i;
insert into duroxide.history_log
select 'far' || i, 1, 1, 1, '[{}]', now() from generate_series(1, %(n)s) as i;
insert into duroxide.orchestrator_queue (instance_id, kind, work_item, visible_at)
select 'far' || i, 4, 'x', now() + interval '1 day' from generate_series(1, %(n)s) as i;
insert into duroxide.worker_queue
       (instance_id, execution_id, activity_id, work_item, visible_at, tag_key, session_id)
select 'far' || i, 1, 2, 'x', now() + interval '1 day', case when i %% 2 = 0 then 'gpu' else '' end,
       case when i %% 10 = 0 then 's' || i %% 100 end
  from generate_series(1, %(n)s) as i;
"""
# Walks over distinct keys start at the first entry of an index, without a condition; probes of tables
# that are nearly always empty, or have a row for each idle process, may read all of it.
FREE = {
    "worker_queue_ready",
    "worker_queue_session",
    "late_cancellations_pkey",
    "wake_waiters_pkey",
}


def require_auto_explain(dsn: str) -> None:
    """Skip the test on a server without it: the embedded wheel brings no modules."""
    with psycopg.connect(dsn) as connection:
        try:
            connection.execute("load 'auto_explain'")
        except psycopg.errors.UndefinedFile:
            pytest.skip("this server has no auto_explain")


class Explained(PostgresProvider):
    """Collects the plan of everything that it runs."""

    def __init__(self, dsn: str, schema: str = migrate.DEFAULT_SCHEMA) -> None:
        super().__init__(dsn, schema=schema)
        self.plans: list[dict[str, Any]] = []

    async def _connect(self, purpose: str) -> AsyncConnection[Any]:
        connection = await super()._connect(purpose)
        await connection.execute("load 'auto_explain'")
        for setting, value in {
            "auto_explain.log_min_duration": "0",
            "auto_explain.log_nested_statements": "on",
            "auto_explain.log_format": "json",
            "auto_explain.log_analyze": "on",
            "auto_explain.log_buffers": "on",
            "auto_explain.log_timing": "off",
            "client_min_messages": "log",
        }.items():
            await connection.execute("select set_config(%s, %s, false)", [setting, value])
        connection.add_notice_handler(self._explained)
        return connection

    def _explained(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        text = diagnostic.message_primary or ""
        if "plan:" in text:
            self.plans.append(json.loads(text[text.index("{") :]))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def unindexed(plans: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    found = set()
    for plan in plans:
        for node in nodes(plan["Plan"]):
            kind = node["Node Type"]
            index = node.get("Index Name", "")
            is_walk = kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node
            if kind == "Seq Scan" or (is_walk and index not in FREE):
                found.add((kind, index or node["Relation Name"], plan["Query Text"][:200]))
    return found


def written_after_a_search(plans: list[dict[str, Any]]) -> set[str]:
    """Writes of rows that a subquery has found, which look for them again instead of going there."""
    found = set()
    for plan in plans:
        if ".row_id" not in plan["Query Text"]:
            continue
        below = list(nodes(plan["Plan"]))
        targets = {n["Alias"] for n in below if n.get("Operation") in ("Update", "Delete")}
        assert targets
        if any(
            n["Node Type"] != "Tid Scan"
            for n in below
            if n.get("Alias") in targets and "Operation" not in n
        ):
            found.add(plan["Query Text"][:200])
    return found


def start(name: str) -> Enqueue:
    return Enqueue(message=Message(instance_id=name, kind=MessageKind.START, body="x"))


def commit_of(turn: LeasedTurn, **more: Any) -> CommitTurn:
    fields: dict[str, Any] = {
        "instance_id": turn.instance_id,
        "token": turn.token,
        "execution_id": 1,
        "first_event_id": turn.next_event_id,
        "events": ('{"event_id":1}',),
        "consumed": tuple(message.message_id for message in turn.messages),
    }
    return CommitTurn(**{**fields, **more})


async def exercise(provider: Explained, name: str = "i") -> None:
    """Everything that runtimes ask for, in batches."""
    await provider.commit([start(f"{name}{number}") for number in range(5)])
    poll = await provider.poll_turns(
        worker="w",
        want=10,
        lease_ms=5_000,
        versions=[VersionRange(ENGINE_VERSION, ENGINE_VERSION)],
    )
    *turns, last = poll.turns
    assert len(turns) == 4
    new = NewExecution(name="n", version="1.0.0", engine_version=ENGINE_VERSION)
    results = await provider.commit(
        [
            commit_of(
                turn,
                new_execution=new,
                activities=tuple(
                    Activity(
                        instance_id=turn.instance_id,
                        execution_id=1,
                        activity_id=n,
                        body="x",
                        tag="gpu" if n == 4 else None,
                        session_id="mine" if n == 5 else None,
                    )
                    for n in range(2, 6)
                ),
                cancelled_activities=(99,),
                cancelled_timers=(98,),
                messages=(
                    Message(
                        instance_id=turn.instance_id,
                        kind=MessageKind.TIMER,
                        body="x",
                        timer=(1, 7),
                    ),
                ),
                key_values=(ClearKeyValues(), SetKeyValue(key="k", value="v", updated_at_ms=1)),
                keep_lease_ms=5_000 if turn is turns[0] else None,
            )
            for turn in turns
        ]
        + [AbandonTurn(instance_id=last.instance_id, token=last.token, delay_ms=60_000)],
        eager=EagerDispatch(worker="w", limit=4, lease_ms=5_000),
    )
    assert all(result.ok for result in results)
    eager = [activity for result in results for activity in result.activities]
    polled = await provider.poll_activities(
        worker="w",
        want=50,
        lease_ms=5_000,
        tags=TagSelection(TagMode.ANY),
        sessions=SessionOwner(owner="w", lease_ms=5_000, max_new=2),
    )
    assert len(polled.activities) == 12
    await provider.renew(
        turns=[turns[0].token],
        turn_lease_ms=5_000,
        activities=[activity.token for activity in polled.activities],
        activity_lease_ms=5_000,
    )
    *done, given_back = polled.activities
    await provider.commit(
        [
            FinishActivity(
                token=a.token,
                completion=Message(instance_id=a.instance_id, kind=MessageKind.ACTIVITY, body="x"),
            )
            for a in done
        ]
        + [AbandonActivity(token=given_back.token)]
    )
    poll = await provider.poll_turns(
        worker="w", want=10, lease_ms=5_000, held=[turns[0].token], known={f"{name}0": Cursor(1, 1)}
    )
    results = await provider.commit(
        [
            commit_of(
                turn,
                status=ExecutionStatus.COMPLETED,
                output="x",
                finished=tuple(a.token for a in eager if a.instance_id == turn.instance_id),
            )
            for turn in poll.turns
        ]
    )
    assert len(results) == 4
    assert all(result.ok for result in results)
    await provider.read_status([f"{name}0", f"{name}1"])
    await provider.read_history(f"{name}0")


@pytest.mark.parametrize("statistics", ["none", "of empty tables", "fresh"])
@pytest.mark.parametrize("backlog", [0, 10_000, pytest.param(1_000_000, marks=pytest.mark.long)])
async def test_hot_statements_probe_indexes(
    database: Database, backlog: int, statistics: str
) -> None:
    dsn = database.superuser_dsn
    require_auto_explain(dsn)
    migrate.upgrade(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        if statistics == "of empty tables":
            connection.execute("vacuum analyze")
        with psycopg.ClientCursor(connection) as cursor:
            cursor.execute(BACKLOG, {"n": backlog})
        if statistics == "fresh":
            connection.execute("vacuum analyze")
    provider = Explained(dsn)
    try:
        await exercise(provider)
    finally:
        await provider.close()
    assert len(provider.plans) > 50
    assert unindexed(provider.plans) == set()
    assert written_after_a_search(provider.plans) == set()


def pages(plans: list[dict[str, Any]]) -> Counter[str]:
    """Pages that each of our calls looked at, and everything below it, by the name of its function."""
    found: Counter[str] = Counter()
    for plan in plans:
        called = re.match(r"(--[^\n]*\n|\s)*select \S+ from \S*?\.(\w+_v\d+)\(", plan["Query Text"])
        if called is not None and not called[2].startswith("_"):
            root = plan["Plan"]
            found[called[2]] += root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    return found


@pytest.mark.parametrize("backlog", [10_000, pytest.param(1_000_000, marks=pytest.mark.long)])
async def test_a_call_looks_at_no_more_pages_however_much_is_queued(
    database: Database, backlog: int
) -> None:
    dsn = database.superuser_dsn
    require_auto_explain(dsn)
    looked_at = {}
    for schema in ("empty", "duroxide"):
        migrate.upgrade(dsn, schema)
        with psycopg.connect(dsn, autocommit=True) as connection:
            if schema == "duroxide":
                with psycopg.ClientCursor(connection) as cursor:
                    cursor.execute(BACKLOG, {"n": backlog})
            connection.execute("vacuum analyze")
        provider = Explained(dsn, schema)
        try:
            await exercise(provider)
            provider.plans.clear()  # the first calls of a session read the catalog as well
            with psycopg.connect(dsn, autocommit=True) as connection:
                # What the first round gave back would come again in the second.
                left = sql.SQL("delete from {} where instance_id like 'i%'")
                connection.execute(left.format(sql.Identifier(schema, "worker_queue")))
            await exercise(provider, "again")
        finally:
            await provider.close()
        looked_at[schema] = pages(provider.plans)
    empty, full = looked_at["empty"], looked_at["duroxide"]
    assert set(empty) == {"poll_turns_v1", "commit_v1", "poll_activities_v1", "renew_v1"}
    for call, count in full.items():
        # An index of a million rows is two or three levels deeper than one of a few.
        assert count < 2.5 * empty[call], (call, count, empty[call])
