"""A dump holds everything, workflows under way included; an upgrade lets them run on."""

from __future__ import annotations

import shutil
import subprocess
import time
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
from tests.sql.sessions import Connection, rows, start, value


@contextmanager
def worker(dsn: str, folder: Path) -> Iterator[WorkerProcess]:
    with (folder / "worker.log").open("a+b") as log, WorkerProcess(dsn, log=log) as process:
        process.start()
        yield process


def program(database: Database, name: str) -> str:
    """Return the program of the server's version: what a newer pg_dump writes, an older server can't read."""
    bindir = database.server.bindir
    for path in (str(bindir), None):
        found = shutil.which(name, path=path)
        if found is None:
            continue
        said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
        if int(said.stdout.split()[2].split(".")[0]) == database.server.version // 10000:
            return found
    pytest.skip(f"there is no {name} of this PostgreSQL's version")


def wait_until(connection: Connection, query: str) -> None:
    deadline = time.monotonic() + 30
    while not value(connection, query):
        assert time.monotonic() < deadline, query
        time.sleep(0.02)


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
            wait_until(connection, "select count(*) = 1 from df._signal_waiters")
        queued = start(connection, "'SELECT 3 AS n'")
        connection.execute("select df.setvar('k', 'v')")
        original = contents(connection)
    script = subprocess.run([dump, database.dsn], capture_output=True, check=True).stdout
    restored = subprocess.run(
        [psql, copy, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"],
        input=script, capture_output=True, check=False,
    )  # fmt: skip
    assert (restored.returncode, restored.stderr.decode()) == (0, "")
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
        wait_until(connection, "select count(*) = 5 from df._signal_waiters")
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
