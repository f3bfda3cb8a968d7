"""Whatever ends an instance, df says that it ended: poison, other code, lost state."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import replace

import pytest

from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually

SETTINGS = Settings.load(
    {"shutdown_grace": 1.0, "max_attempts": 1, "turn_lease": 1.0, "poll_interval": 0.5}, {}
)
SWEEPING = Settings.load({"shutdown_grace": 1.0, "reconcile_interval": 0.2}, {})


async def ended(installed: Database, workflows: Workflows, instance: str) -> str:
    async with Worker(installed.dsn, SETTINGS):
        assert await asyncio.to_thread(workflows.wait, instance) == "failed"
    assert workflows.one(
        "select completed_at is not null from df.instances where id = %s", instance
    )
    assert workflows.one("select count(*) from df._signal_waiters") == 0
    return str(workflows.error(instance))


async def test_a_workflow_that_no_worker_can_run_fails(
    installed: Database, workflows: Workflows
) -> None:
    instance = workflows.start("'select 1'")
    workflows.run(
        "update duroxide.orchestrator_queue"
        " set work_item = replace(work_item, 'execute-function-graph', 'execute-something-else')"
    )
    assert (await ended(installed, workflows, instance)).startswith("poison: ")
    assert "execute-something-else" in workflows.one("select df.error(%s)", instance)["reason"]
    explained = workflows.one("select df.explain(%s)", instance)
    assert re.search(r"^Reason: +orchestration '.*-else' is not registered here", explained, re.M)
    assert "Hint:     a worker of another release" in explained


@pytest.mark.long
async def test_a_workflow_whose_history_is_another_ones_fails(
    installed: Database, workflows: Workflows
) -> None:
    async with Worker(installed.dsn, SWEEPING):
        instance = workflows.start("'select 1' ~> df.wait_for_signal('go')")
        claimed = "select count(*) = 1 from df._signal_waiters"
        await asyncio.to_thread(eventually, lambda: workflows.one(claimed))
    workflows.run(
        "update duroxide.history_log set events = replace(events, 'execute-sql', 'other')"
    )
    workflows.one("select df.signal(%s, 'go')", instance)
    assert (await ended(installed, workflows, instance)).startswith("poison: ")
    reason = workflows.one("select df.error(%s)", instance)["reason"]
    assert "recorded" in reason
    assert "pg_durable::activity::other" in reason


async def test_a_graph_that_was_tampered_with_fails(
    installed: Database, workflows: Workflows
) -> None:
    instance = workflows.start("'select 1'")
    workflows.run("update df._snapshots set graph = replace(graph, 'select 1', 'select 2')")
    assert "not the one that was started" in await ended(installed, workflows, instance)


REFUSES = """
create function refuse() returns trigger language plpgsql as $$
begin
    if current_setting('application_name') like 'duroxide commits%' then
        raise exception 'nobody ends this';
    end if;
    return new;
end
$$;
create trigger refuse before update on df.instances for each row
    when (new.label = 'refused' and new.completed_at is not null) execute function refuse();
"""


async def test_a_workflow_whose_end_can_not_be_written_with_its_turn_fails(
    installed: Database, workflows: Workflows, caplog: pytest.LogCaptureFixture
) -> None:
    workflows.run(REFUSES)
    instance = workflows.start("'select 1'", "refused")
    async with Worker(installed.dsn, replace(SETTINGS, reconcile_interval=0.2)):
        assert await asyncio.to_thread(workflows.finish, "'select 2'")
        assert await asyncio.to_thread(workflows.wait, instance) == "failed"
    assert str(workflows.error(instance)).startswith("poison: ")
    assert "nobody ends this" in workflows.one("select df.error(%s)", instance)["reason"]
    assert f"{instance} was ended as Failed without its commit hook" in caplog.text


async def test_the_sweep_ends_what_the_engine_has_lost_and_says_so(
    installed: Database, workflows: Workflows, caplog: pytest.LogCaptureFixture
) -> None:
    lost = workflows.start("'select 1'")
    failed, completed = workflows.start("'select 1'"), workflows.start("'select 2'")
    waiting = workflows.one("""select df.start('select 3', '{"delay": "1 hour"}'::jsonb)""")
    workflows.run("delete from duroxide.orchestrator_queue where visible_at < now()")
    for instance, status in ((failed, "Failed"), (completed, "Completed")):
        workflows.one(
            "insert into duroxide.instances (instance_id, orchestration_name, status, output,"
            " started_at, created_at, updated_at, incarnation)"
            " values (%s, 'x', %s, 'because', now(), now(), now(), 'x') returning 1",
            instance,
            status,
        )
    with caplog.at_level(logging.WARNING, "pg_durable.retention"):
        async with Worker(installed.dsn, SWEEPING):
            for instance in (lost, failed, completed):
                await asyncio.to_thread(workflows.wait, instance)
    states = dict(
        workflows.all("select id, status || coalesce(': ' || error, '') from df.instances")
    )
    assert states == {
        lost: "failed: engine state lost",
        failed: "failed: because",
        completed: "completed",
        waiting: "pending",
    }
    assert f"instance {lost} was not ended" in caplog.text
