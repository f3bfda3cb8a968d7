"""A role with a lot of long steps holds up no other, and not the worker itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.e2e.test_workers import granted, passwords
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually

LEASED = (
    "select count(*) from duroxide.worker_queue"
    " where locked_until > extract(epoch from clock_timestamp()) * 1000"
)


async def test_what_is_at_its_cap_is_not_leased_and_holds_up_nobody(
    installed: Database, workflows: Workflows
) -> None:
    ann, bob = granted(installed, workflows, "ann"), granted(installed, workflows, "bob")
    known = passwords(installed)
    workflows.run("create table gate (open boolean); insert into gate values (false)")
    workflows.run("grant select on gate to public")
    wait = (
        "$w$do $$ begin while not (select open from gate) loop perform pg_sleep(0.01);"
        " end loop; end $$$w$"
    )

    def credentials(role: str, database: str) -> Mapping[str, str]:
        return {"password": known[role]}

    def check() -> None:
        many = [ann.start(wait) for _ in range(30)]
        running = (
            "select count(*) from pg_stat_activity where usename = %s"
            " and application_name = 'pg_durable:worker:workflow-sql'"
        )
        eventually(lambda: workflows.one(running, installed.role("ann")) == 2)
        for _ in range(3):
            assert bob.wait(bob.start("'select 1'")) == "completed"
        signalled = bob.start("df.wait_for_signal('go')")
        bob.one("select df.signal(%s, 'go')", signalled)
        assert bob.wait(signalled) == "completed"
        eventually(lambda: workflows.one(LEASED) == 2)
        assert workflows.one("select count(*) from duroxide.worker_queue") == 30
        workflows.run("update gate set open = true")
        for instance in many:
            assert ann.wait(instance) == "completed"

    settings = Settings.load(
        {
            "shutdown_grace": 1.0,
            "sql_concurrency": 3,
            "sql_concurrency_per_role": 2,
            "http_concurrency": 1,  # so that ann's steps are more than there are places of any kind
            "system_concurrency": 1,
        },
        {},
    )
    async with Worker(installed.dsn, settings, credentials=credentials):
        await asyncio.to_thread(check)
    ann.connection.close()
    bob.connection.close()
