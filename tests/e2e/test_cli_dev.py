"""`pg-durable dev` keeps a database and a worker, and stops both."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.commands import PROGRAM, clean_environment
from tests.fixtures.households import Household, household
from tests.fixtures.postgres import Database

READY = "Ctrl-C stops it"
EXAMPLE = """
CREATE TABLE documents (id bigint PRIMARY KEY, processed boolean NOT NULL DEFAULT false);
INSERT INTO documents (id) SELECT generate_series(1, 250);
SELECT df.start(
    'SELECT id FROM documents WHERE processed = false LIMIT 100' |=> 'batch'
    ~> 'UPDATE documents SET processed = true WHERE id = ANY($batch)'
) AS id \\gset
SELECT df.await_instance(:'id');
SELECT df.result(:'id')::jsonb ->> 'affected';
SELECT count(*) FROM documents WHERE processed;
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers are a thing of Linux")


@contextmanager
def dev(folder: Path, *arguments: str, **variables: str) -> Iterator[Household]:
    """A dev that is ready, with its data in `folder`."""
    command: list[str | Path] = [
        PROGRAM,
        "dev",
        *(arguments or ("--private", "--data-dir", str(folder / "data"))),
    ]
    with household(command, folder, clean_environment(**variables)) as running:
        running.wait_for(READY)
        yield running


def dsn_of(running: Household) -> str:
    found = re.search(r"^ +DSN +(\S+)$", running.output.read_text(), re.MULTILINE)
    assert found
    return found[1]


def worker_of(running: Household) -> int:
    found = re.findall(r"worker started(?: again)?, process (\d+)", running.output.read_text())
    assert found
    return int(found[-1])


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that the server's user can get to when we are root: tmp_path is closed to others."""
    with tempfile.TemporaryDirectory(prefix="pg-durable-test-") as folder:
        path = Path(folder)
        path.chmod(0o711)
        yield path


def test_the_line_that_dev_prints_opens_psql_where_the_example_works(reachable: Path) -> None:
    with dev(reachable) as running:
        printed = running.output.read_text()
        found = re.search(r"^ +psql +(.+)$", printed, re.MULTILINE)
        assert found
        done = subprocess.run(
            [*shlex.split(found[1]), "-X", "-qAt", "-v", "ON_ERROR_STOP=1"],
            input=EXAMPLE,
            env={"PATH": "/nowhere"},  # the line has to name psql in full
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("completed\n100\n100\n", "")
        running.press_ctrl_c()
        ending = running.finish()
    assert (ending.status, ending.left) == (0, []), ending


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.long)]
)
def test_a_signal_stops_worker_and_server(reachable: Path, number: signal.Signals) -> None:
    with dev(reachable) as running:
        running.signal(number)
        ending = running.finish()
    assert (ending.status, ending.left) == (0, []), ending
    assert ending.waited_s < 2
    assert ending.output.rstrip().endswith("stopped")


@pytest.mark.long
def test_after_sigkill_nothing_is_left_and_the_data_is_there(reachable: Path) -> None:
    with dev(reachable) as running:
        with psycopg.connect(dsn_of(running)) as connection:
            connection.execute("create table kept as select 42 as n")
        running.signal(signal.SIGKILL)
        assert running.finish().left == []
    with dev(reachable) as running, psycopg.connect(dsn_of(running)) as connection:
        assert connection.execute("select n from kept").fetchone() == (42,)


def test_a_worker_that_ends_is_started_again(reachable: Path) -> None:
    with dev(reachable) as running:
        os.kill(worker_of(running), signal.SIGKILL)
        running.wait_for("worker started again")
        with psycopg.connect(dsn_of(running), autocommit=True) as connection:
            row = connection.execute("select df.start('select 1')").fetchone()
            assert row
            answer = connection.execute("select df.await_instance(%s)", row).fetchone()
        assert answer == ("completed",)
        running.press_ctrl_c()
        ending = running.finish()
    assert (ending.status, ending.left) == (0, []), ending
    assert "the worker was ended by SIGKILL; starting it again in 0.5 s" in ending.output


def test_on_a_named_server_only_the_worker_is_ours(database: Database, tmp_path: Path) -> None:
    with (
        dev(tmp_path, "--dsn", database.dsn) as running,
        psycopg.connect(database.dsn, autocommit=True) as connection,
    ):
        row = connection.execute("select df.start('select 1')").fetchone()
        assert row
        answer = connection.execute("select df.await_instance(%s)", row).fetchone()
        assert answer == ("completed",)
        running.press_ctrl_c()
        ending = running.finish()
        connection.execute("select 1")
    assert (ending.status, ending.left) == (0, []), ending
    assert database.dsn not in ending.output
