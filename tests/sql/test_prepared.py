"""Two-phase commit: a transaction that wakes workers can't be prepared, for NOTIFY can't.

Variables, and a signal that nobody waits for yet, wake nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pg_durable import install
from pg_durable.embedded import EmbeddedServer, embedded_server
from tests.sql.sessions import message, refusal, rows, start, value
from tests.unit.embedded.conftest import open_folder

__all__ = ["open_folder"]


@pytest.fixture
def preparing_server(open_folder: Path) -> Iterator[EmbeddedServer]:
    """A server where transactions may be prepared at all: that takes a restart."""
    with (
        embedded_server(open_folder, throwaway=True) as server,
        psycopg.connect(server.superuser_dsn, autocommit=True) as admin,
    ):
        admin.execute("alter system set max_prepared_transactions = 5")
    with embedded_server(open_folder, throwaway=True) as server:
        yield server


@pytest.mark.long
def test_a_transaction_that_wakes_workers_cannot_be_prepared(
    preparing_server: EmbeddedServer,
) -> None:
    install.install(preparing_server.dsn)
    with psycopg.connect(preparing_server.dsn, autocommit=True) as session:
        i = start(session, "'SELECT 1'")
        for call in ("start('SELECT 1')", f"cancel('{i}')", "run()"):
            session.execute("begin")
            session.execute(f"select df.{call}".encode())
            error = refusal(session, "prepare transaction 'later'")
            assert (error.sqlstate, "NOTIFY" in message(error)) == ("0A000", True)
            session.execute("rollback")
        assert rows(session, "select id, status from df.instances") == [(i, "pending")]
        session.execute("begin")
        session.execute("select df.setvar('k', 'v'), df.signal(%s, 'go')", [i])
        session.execute("prepare transaction 'later'")
        assert value(session, "select df.getvar('k')") is None
        session.execute("commit prepared 'later'")
        assert value(session, "select df.getvar('k')") == "v"
        assert rows(session, "select name from df._signals") == [("go",)]
