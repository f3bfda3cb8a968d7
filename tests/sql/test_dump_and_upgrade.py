"""A dump holds everything, workflows under way included; an upgrade lets them run on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from duroxide_pg.errors import SchemaTooNew
from duroxide_pg.migrate import Migrations
from pg_durable import install
from pg_durable.commands.worker_process import WorkerProcess
from tests.fixtures.postgres import Database
from tests.sql.catalog import contents
from tests.sql.sessions import rows, start, value


@contextmanager
def worker(dsn: str, folder: Path) -> Iterator[WorkerProcess]:
    with (folder / "worker.log").open("a+b") as log, WorkerProcess(dsn, log=log) as process:
        process.start()
        yield process


def program(database: Database, name: str) -> str:
    bindir = database.server.bindir
    found = shutil.which(name, path=None if bindir is None else str(bindir))
    if found is None:
        pytest.skip(f"this PostgreSQL has no {name}")
    return found


@pytest.fixture
def copy(database: Database) -> Iterator[str]:
    """The DSN of a second, empty database of the same owner."""
    name = f"{database.name}_copy"
    with psycopg.connect(database.dsn) as connection:
        owner = connection.info.user
    database.server.admin.execute(f"create database {name} owner {owner}".encode())
    yield database.dsn.replace(f"/{database.name}?", f"/{name}?")
    database.server.admin.execute(f"drop database {name} with (force)".encode())


def test_a_restored_dump_is_the_same_database_and_goes_on(
    database: Database, copy: str, tmp_path: Path
) -> None:
    dump, psql = program(database, "pg_dump"), program(database, "psql")
    install.install(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        with worker(database.dsn, tmp_path):
            done = start(connection, "'SELECT 1 AS n'")
            assert value(connection, "select df.await_instance(%s)", done) == "completed"
            waiting = start(
                connection,
                "'SELECT 2 AS n' |=> 'a' ~> df.wait_for_signal('go') ~> 'SELECT $a AS n'",
            )
            while value(connection, "select count(*) from df._signal_waiters") == 0:
                pass
        queued = start(connection, "'SELECT 3 AS n'")
        connection.execute("select df.setvar('k', 'v')")
        original = contents(connection)
    script = subprocess.run([dump, database.dsn], capture_output=True, check=True).stdout
    subprocess.run(
        [psql, copy, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"],
        input=script, capture_output=True, check=True,
    )  # fmt: skip
    with psycopg.connect(copy, autocommit=True) as connection:
        assert contents(connection) == original
        assert install.check(copy).complete
        assert value(connection, "select df.result(%s)::jsonb #>> '{rows,0,n}'", done) == "1"
        assert value(connection, "select df.getvar('k')") == "v"
        with worker(copy, tmp_path):
            connection.execute("select df.signal(%s, 'go')", [waiting])
            for instance_id, n in (
                (waiting, "2"),
                (queued, "3"),
                (start(connection, "'SELECT 4 AS n' ~> 'SELECT 4 AS n'"), "4"),
            ):
                assert value(connection, "select df.await_instance(%s)", instance_id) == "completed"
                assert (
                    value(connection, "select df.result(%s)::jsonb #>> '{rows,0,n}'", instance_id)
                    == n
                )
    with psycopg.connect(database.dsn) as connection:  # the copy's worker left the original alone
        assert value(connection, "select df.status(%s)", queued) == "pending"


@pytest.fixture
def later_release(tmp_path: Path) -> Migrations:
    """The revisions of a release to come: those of today and one more, which only adds."""
    folder = tmp_path / "versions"
    shutil.copytree(install.migrations().versions, folder)
    first = next(folder.glob("0001*.py")).read_text()
    (folder / "0002_later.py").write_text(
        first.replace('revision = "0001"', 'revision = "0002"').replace(
            "down_revision = None", 'down_revision = "0001"'
        )
    )
    (folder / "0002_later.sql").write_text(
        "alter table {schema}.instances add column priority integer;"
    )
    return Migrations(versions=folder, schema=install.SCHEMA, remedy="run the later release")


def test_an_upgrade_in_the_middle_of_workflows_lets_them_end(
    database: Database, later_release: Migrations, tmp_path: Path
) -> None:
    install.install(database.dsn)
    with (
        psycopg.connect(database.dsn, autocommit=True) as connection,
        worker(database.dsn, tmp_path),
    ):
        connection.execute("create table ledger (n integer)")
        running = [
            start(
                connection,
                f"'INSERT INTO ledger VALUES ({n})' ~> df.wait_for_signal('go') ~> 'INSERT INTO ledger VALUES ({n})'",
            )
            for n in range(5)
        ]
        while value(connection, "select count(*) from df._signal_waiters") < len(running):
            pass
        assert later_release.upgrade(database.dsn).revision == "0002"
        for instance_id in running:
            connection.execute("select df.signal(%s, 'go')", [instance_id])
        for instance_id in running:
            assert value(connection, "select df.await_instance(%s)", instance_id) == "completed"
        assert rows(connection, "select n, count(*) from ledger group by n order by n") == [
            (n, 2) for n in range(5)
        ]
    with pytest.raises(SchemaTooNew, match="upgrade pg-durable"):
        install.require(database.dsn)
