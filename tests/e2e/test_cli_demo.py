"""`pg-durable demo` tells the truth, and nothing of it is left, however it ends."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.commands import PROGRAM, clean_environment, pg_durable
from tests.fixtures.households import Household, household
from tests.fixtures.postgres import Database

ANSI = re.compile(r"\x1b\[")
# What is printed as the demo goes on; a signal comes right after it.
MOMENTS = [
    pytest.param("pg-durable 0.1.0", marks=pytest.mark.long),
    pytest.param("private, in a temporary folder", marks=pytest.mark.long),
    "worker started as a process",
    pytest.param("df.sleep(2)", marks=pytest.mark.long),
    "kill -9",
    pytest.param("worker started again", marks=pytest.mark.long),
]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers are a thing of Linux")


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Household]:
    """A private demo, just started."""
    with household([PROGRAM, "demo", "--private"], tmp_path, clean_environment()) as running:
        yield running


def test_the_demo_shows_what_it_says_and_leaves_nothing(demo: Household) -> None:
    ending = demo.finish()
    assert ending.status == 0, ending
    assert "documents: 100 processed, 250 in all" in ending.output
    assert re.search(
        r"├── ✓ completed  SELECT id FROM documents .*\|=> 'batch'  \(100 rows\)", ending.output
    )
    assert re.search(r"└── ✓ completed  UPDATE documents SET processed", ending.output)
    assert ending.output.count("kill -9") == 2
    for step in ("reserve the goods", "charge the card", "pack the parcel", "send the receipt"):
        assert re.search(rf"{step} +once", ending.output)
    assert "all of it true" in ending.output
    assert ending.errors == ""
    assert ending.left == []
    assert not ANSI.search(ending.output), "colour in a file"
    seconds = re.search(r"in ([\d.]+) s\n$", ending.output)
    assert seconds
    assert float(seconds[1]) < 20


@pytest.mark.parametrize("moment", MOMENTS)
def test_after_ctrl_c_no_process_is_left(demo: Household, moment: str) -> None:
    demo.wait_for(moment)
    demo.press_ctrl_c()
    ending = demo.finish()
    assert ending.status == 130
    assert ending.errors.strip() == "pg-durable: stopped"
    assert ending.left == []
    assert ending.waited_s < 2, "the command ended before what it started"


@pytest.mark.parametrize("moment", MOMENTS[1:5])
def test_after_sigkill_no_process_is_left(demo: Household, moment: str) -> None:
    demo.wait_for(moment)
    demo.signal(signal.SIGKILL)
    ending = demo.finish()
    assert ending.status == -9
    assert ending.left == []


@pytest.mark.long
def test_after_sigterm_no_process_is_left(demo: Household) -> None:
    demo.wait_for("worker started as a process")
    demo.signal(signal.SIGTERM)
    ending = demo.finish()
    assert ending.status == 143
    assert ending.left == []


@pytest.fixture
def builder(database: Database) -> Iterator[str]:
    """The DSN of a role that may create databases; those that it leaves are dropped."""
    before = scratch_databases(database)
    yield database.create_role("builder", options="CREATEDB")
    for name in scratch_databases(database) - before:
        database.server.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))


def test_ctrl_c_on_a_named_server_drops_the_database_of_the_demo(
    database: Database, builder: str, tmp_path: Path
) -> None:
    before = scratch_databases(database)
    with household([PROGRAM, "demo", "--dsn", builder], tmp_path, clean_environment()) as running:
        running.wait_for("worker started as a process")
        assert len(scratch_databases(database) - before) == 1
        running.press_ctrl_c()
        ending = running.finish()
    assert (ending.status, ending.left) == (130, []), ending
    assert scratch_databases(database) == before
    with psycopg.connect(database.dsn) as connection:
        assert connection.execute("select to_regnamespace('df')").fetchone() == (None,)


@pytest.mark.long
def test_a_demo_on_a_named_server_leaves_nothing_there(database: Database, builder: str) -> None:
    before = scratch_databases(database)
    done = pg_durable("demo", "--dsn", builder)
    assert (done.status, done.errors) == (0, "")
    assert scratch_databases(database) == before


@pytest.mark.long
def test_a_superuser_may_run_the_demo(database: Database) -> None:
    done = pg_durable("demo", PG_DURABLE_DSN=database.superuser_dsn)
    assert (done.status, done.errors) == (0, "")


@pytest.mark.long
def test_what_a_killed_demo_left_on_a_named_server_is_named_by_the_next(
    database: Database, builder: str, tmp_path: Path
) -> None:
    before = scratch_databases(database)
    with household([PROGRAM, "demo", "--dsn", builder], tmp_path, clean_environment()) as running:
        running.wait_for("worker started as a process")
        running.signal(signal.SIGKILL)
        assert running.finish().left == []
    (own,) = scratch_databases(database) - before
    done = pg_durable("demo", "--dsn", builder)
    assert done.status == 0, done.errors
    assert f"DROP DATABASE {own};" in done.output
    assert scratch_databases(database) == before | {own}


def scratch_databases(database: Database) -> set[str]:
    rows = database.server.admin.execute("select datname from pg_database").fetchall()
    return {str(name) for (name,) in rows if str(name).startswith("pg_durable_demo_")}
