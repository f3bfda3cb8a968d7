"""`pg-durable demo` tells the truth, and nothing of it is left, however it ends."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.commands import PROGRAM, clean_environment, pg_durable
from tests.fixtures.households import Household, household
from tests.fixtures.postgres import Database

ANSI = re.compile(r"\x1b\[")
# What is printed as the demo goes on; a signal comes right after it.
MOMENTS = [
    "pg-durable 0.1.0",
    "private, in a temporary folder",
    "worker started as a process",
    "df.sleep(2)",
    "kill -9",
    "worker started again",
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
    assert ending.errors == "pg-durable: stopped\n"
    assert ending.left == []
    assert ending.waited_s < 2, "the command ended before what it started"


@pytest.mark.parametrize("moment", MOMENTS[1::2])
def test_after_sigkill_no_process_is_left(demo: Household, moment: str) -> None:
    demo.wait_for(moment)
    demo.signal(signal.SIGKILL)
    ending = demo.finish()
    assert ending.status == -9
    assert ending.left == []


def test_after_sigterm_no_process_is_left(demo: Household) -> None:
    demo.wait_for("worker started as a process")
    demo.signal(signal.SIGTERM)
    ending = demo.finish()
    assert ending.status == 143
    assert ending.left == []


def test_a_demo_on_a_named_server_uses_a_database_of_its_own(
    database: Database, tmp_path: Path
) -> None:
    dsn = database.create_role("builder", options="CREATEDB")
    before = _databases(database)
    with household([PROGRAM, "demo", "--dsn", dsn], tmp_path, clean_environment()) as running:
        running.wait_for("worker started as a process")
        (own,) = _databases(database) - before
        assert own.startswith("pg_durable_demo_")
        ending = running.finish()
    assert ending.status == 0, ending
    assert ending.left == []
    assert _databases(database) == before
    with psycopg.connect(database.dsn) as connection:
        assert connection.execute("select to_regnamespace('df')").fetchone() == (None,)


def test_a_superuser_may_run_the_demo(database: Database) -> None:
    done = pg_durable("demo", PG_DURABLE_DSN=database.superuser_dsn)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_on_a_named_server_drops_the_database(database: Database, tmp_path: Path) -> None:
    dsn = database.create_role("builder", options="CREATEDB")
    before = _databases(database)
    with household([PROGRAM, "demo", "--dsn", dsn], tmp_path, clean_environment()) as running:
        running.wait_for("df.sleep(2)")
        running.press_ctrl_c()
        ending = running.finish()
    assert ending.status == 130
    assert ending.left == []
    assert _databases(database) == before


def test_what_a_killed_demo_left_on_a_named_server_is_named_by_the_next(
    database: Database, tmp_path: Path
) -> None:
    dsn = database.create_role("builder", options="CREATEDB")
    before = _databases(database)
    with household([PROGRAM, "demo", "--dsn", dsn], tmp_path, clean_environment()) as running:
        running.wait_for("worker started as a process")
        running.signal(signal.SIGKILL)
        assert running.finish().left == []
    (own,) = _databases(database) - before
    done = pg_durable("demo", "--dsn", dsn)
    assert done.returncode == 0, done.stderr
    assert f"DROP DATABASE {own};" in done.stdout
    assert _databases(database) == before | {own}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"drop database {own}")


def _databases(database: Database) -> set[str]:
    rows = database.server.admin.execute("select datname from pg_database").fetchall()
    return {str(name) for (name,) in rows if str(name).startswith("pg_durable_demo_")}
