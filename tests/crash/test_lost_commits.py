"""The connection of a step is cut between its COMMIT and the answer: the effect happens once."""

from __future__ import annotations

import asyncio

import pytest

from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows
from tests.provider.postgres_proxy import Proxy

COMMIT = b"df._finish_step_v1("  # in one packet with the COMMIT


@pytest.mark.parametrize("is_applied", [True, False], ids=["applied", "not applied"])
async def test_a_step_whose_commit_is_not_answered_happens_once(
    installed: Database, workflows: Workflows, is_applied: bool
) -> None:
    """df-execution 12.27: lost connection."""
    workflows.run("create table effects (step text)")
    async with Proxy().to(installed.dsn) as proxy:
        if is_applied:
            proxy.lose_the_reply_to(COMMIT)
        else:
            proxy.lose(COMMIT)
        async with Worker(proxy.dsn, Settings.load({"shutdown_grace": 1.0}, {})):
            instance = workflows.start(
                "'insert into effects values (''one'')' ~> 'insert into effects values (''two'')'"
            )
            assert await asyncio.to_thread(workflows.wait, instance) == "completed"
        assert proxy.cuts == 1
    assert workflows.all("select step from effects order by step") == [("one",), ("two",)]
    left = "select count(*) from duroxide.worker_queue"
    assert workflows.one(left) == 0
