"""A server with a standby ends for good; the worker goes on with the one that is promoted."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from duroxide.errors import ProviderError
from duroxide.providers.base import Enqueue, Message, MessageKind
from duroxide_pg import migrate
from duroxide_pg.provider import PostgresProvider
from pg_durable import install
from pg_durable.embedded.folders import give
from tests.faults.load import all_ended, some_effects, start, worker
from tests.fixtures.cluster import Cluster, cluster, empty_cluster, folder_for_servers, running
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import eventually


def standby_of(primary: Cluster, base: Path) -> Cluster:
    """A server without data yet becomes a copy of another one, which it goes on to follow."""
    made = empty_cluster(base, hot_standby="on")
    if not (made.binaries.bindir / "pg_basebackup").exists():
        pytest.skip(f"{made.binaries.bindir} has no pg_basebackup")
    shutil.copy(primary.folder.pgpass, made.folder.pgpass)
    with primary.folder.pgdata.joinpath("pg_hba.conf").open("a") as file:
        file.write("local replication all trust\n")
    with psycopg.connect(primary.superuser_dsn, autocommit=True) as admin:
        admin.execute("select pg_reload_conf()")
    base.chmod(0o755)
    home = base / "home"
    home.mkdir()
    give(home, made.account)
    data = home / "pgdata"
    primary.run(
        "pg_basebackup", "--pgdata", str(data), "--host", str(primary.socket_dir),
        "--username", "postgres", "--write-recovery-conf", "--checkpoint", "fast",
    )  # fmt: skip
    os.rename(data, made.folder.pgdata)
    return made


@pytest.mark.long
def test_the_standby_takes_over_and_nothing_is_lost(tmp_path: Path) -> None:
    with cluster(wal_level="replica") as primary, folder_for_servers() as base:
        install.install(primary.dsn)
        standby = standby_of(primary, base)
        with running(standby):
            with psycopg.connect(primary.superuser_dsn, autocommit=True) as admin:
                admin.execute("alter system set synchronous_standby_names = '*'")
                admin.execute("select pg_reload_conf()")
                synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'"
                eventually(lambda: admin.execute(synchronous).fetchone() == (1,), what="it follows")
            dsn = primary.dsn_with(standby)
            started = start(dsn, 30, first=True)
            with worker(dsn, tmp_path / "worker.log"):
                some_effects(dsn, 5)
                primary.stop()
                with psycopg.connect(standby.superuser_dsn, autocommit=True) as admin:
                    admin.execute("select pg_promote()")
                all_ended(dsn, started)


async def test_a_server_of_the_list_that_is_away_is_passed_over(
    database: Database, tmp_path: Path
) -> None:
    migrate.upgrade(database.dsn)
    parameters = conninfo_to_dict(database.dsn)
    hosts = {"host": f"{tmp_path},{parameters['host']}", "target_session_attrs": "read-write"}
    provider = PostgresProvider(make_conninfo(database.dsn, **hosts))
    await provider.start()
    message = Message(instance_id="i", kind=MessageKind.START, body="start")
    (result,) = await provider.commit([Enqueue(message=message)])
    assert result.ok
    assert (await provider.poll_activities(worker="w", want=1, lease_ms=1)).activities == ()
    async with asyncio.timeout(10):
        while not provider._wakeups.is_listening:  # noqa: ASYNC110  # tells nobody
            await asyncio.sleep(0.01)
    await provider.close()


async def test_a_server_that_takes_no_writes_is_passed_over(
    database: Database,
) -> None:
    migrate.upgrade(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        name = psycopg.sql.Identifier(database.name)
        command = psycopg.sql.SQL("alter database {} set default_transaction_read_only = on")
        owner.execute(command.format(name))
    dsn = make_conninfo(database.dsn, target_session_attrs="read-write")
    provider = PostgresProvider(dsn, migrations="none")
    with pytest.raises(ProviderError, match="read-only") as raised:
        await provider.read_status(["i"])
    assert raised.value.retryable, "another one may be promoted"
    await provider.close()
