"""A role that becomes a superuser after it started a workflow gets no step run with those rights."""

from __future__ import annotations

from psycopg import sql

from tests.e2e.test_workers import granted, run_with_worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows


async def test_a_step_of_a_role_that_became_a_superuser_is_refused_unless_that_is_allowed(
    installed: Database, workflows: Workflows
) -> None:
    """df-execution 12.23: superuser on and off."""
    session = granted(installed, workflows, "promoted")
    refused = session.start("'select 1'")
    allowed = session.start("df.wait_for_signal('go') ~> 'select 1'")
    role = sql.Identifier(installed.role("promoted"))
    installed.server.execute(sql.SQL("alter role {} superuser").format(role))
    assert await run_with_worker(installed, session, refused) == "failed"
    assert "is a superuser, but" in str(session.error(refused))
    details = session.one("select error_details from df.instances where id = %s", refused)
    assert "enable_superuser_instances" in details["hint"]
    workflows.run("insert into df._settings values ('enable_superuser_instances', 'on')")
    session.one("select df.signal(%s, 'go')", allowed)
    assert await run_with_worker(installed, session, allowed) == "completed"
    session.connection.close()
