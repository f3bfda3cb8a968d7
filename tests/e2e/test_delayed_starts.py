"""What is asked of a workflow before it starts holds when it does, however long that takes."""

from __future__ import annotations

import pytest

from tests.fixtures.standing import effect, effects
from tests.fixtures.workflows import Workflows, eventually

UNDUE = (
    "select count(*) from duroxide.orchestrator_queue where instance_id = %s and visible_at > now()"
)
DUE = "select count(*) from duroxide.orchestrator_queue where instance_id = %s and visible_at <= now()"


def start_later(workflows: Workflows, steps: str, delay: str) -> str:
    return str(
        workflows.one(f"select df.start({steps}, jsonb_build_object('delay', %s::text))", delay)
    )


@pytest.mark.parametrize("request_text", ["df.cancel", "df.pause"])
def test_what_is_asked_meanwhile_waits_with_the_start(
    standing: Workflows, request_text: str
) -> None:
    """The engine drops messages to an instance that does not exist after some minutes."""
    instance = start_later(standing, "'select 1'", "1 hour")
    standing.one(f"select {request_text}(%s)", instance)
    assert standing.one(DUE, instance) == 0
    assert standing.one(UNDUE, instance) == 2
    standing.one("select df.cancel(%s)", instance)


def test_a_workflow_that_is_cancelled_before_its_start_does_nothing(standing: Workflows) -> None:
    ghost = f'df.sql({effect("ghost")}, \'{{"tx": "none"}}\')'  # which nothing would roll back
    instance = start_later(standing, ghost, "0.3 s")
    standing.one("select df.cancel(%s)", instance)
    assert standing.status(instance) == "cancelled"
    ended = "select count(*) from df.instance_executions(%s) where status = 'Failed'"
    eventually(lambda: standing.one(ended, instance) == 1, what="the engine heard of it")
    assert effects(standing, instance) == []


def test_a_workflow_that_is_paused_before_its_start_goes_on_when_it_is_resumed(
    standing: Workflows,
) -> None:
    instance = start_later(standing, "'select 1' ~> 'select 2 as n'", "0.3 s")
    standing.one("select df.pause(%s)", instance)
    eventually(lambda: standing.status(instance) == "running")
    nodes = "select count(*) from df.nodes where instance_id = %s and query ~ 'n$' and status <> 'pending'"
    assert standing.one(nodes, instance) == 0
    standing.one("select df.resume(%s)", instance)
    assert standing.wait(instance) == "completed"
