"""Revisions that build indexes beside running workers, and running them by hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from duroxide_pg import lineage, migrate
from duroxide_pg.migrate import Migrations, State
from tests.docs.blocks import ROOT
from tests.fixtures.postgres import Database

WITH_AN_INDEX = """
from duroxide_pg.revisions import build_index

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade():
    build_index("kv_store_keys", "kv_store", "(key)")
"""
ROWS = """
insert into duroxide.kv_store (instance_id, key, value, execution_id, last_updated_at_ms)
select 'i' || i, 'same', 'x', 1, 1 from generate_series(1, 2) as i
"""
VALID = "select indisvalid from pg_index where indexrelid = to_regclass('duroxide.kv_store_keys')"


@pytest.fixture
def next_release(tmp_path: Path) -> Migrations:
    """This release and one revision more."""
    folder = tmp_path / "versions"
    ours = lineage.versions("duroxide_pg", "duroxide")
    shutil.copytree(ours, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "0002_with_an_index.py").write_text(WITH_AN_INDEX)
    return Migrations(versions=folder, schema="duroxide", remedy="upgrade")


@pytest.fixture
def watcher(database: Database) -> Iterator[psycopg.Connection[Any]]:
    migrate.upgrade(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        yield connection


class TestIndexes:
    def test_one_is_built_while_others_wait_their_turn_to_migrate(
        self, database: Database, watcher: psycopg.Connection[Any], next_release: Migrations
    ) -> None:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(next_release.upgrade, [database.dsn] * 4))
        assert {(state.state, state.revision) for state in found} == {(State.CURRENT, "0002")}
        assert watcher.execute(VALID).fetchone() == (True,)

    def test_one_whose_build_broke_off_is_built_anew(
        self, database: Database, watcher: psycopg.Connection[Any], next_release: Migrations
    ) -> None:
        watcher.execute(ROWS)
        with pytest.raises(psycopg.errors.UniqueViolation):
            watcher.execute(
                "create unique index concurrently kv_store_keys on duroxide.kv_store (key)"
            )
        assert watcher.execute(VALID).fetchone() == (False,)
        next_release.upgrade(database.dsn)
        assert watcher.execute(VALID).fetchone() == (True,)

    def test_one_that_is_there_already_is_left_alone(
        self, database: Database, watcher: psycopg.Connection[Any], next_release: Migrations
    ) -> None:
        next_release.upgrade(database.dsn)
        made = watcher.execute("select 'duroxide.kv_store_keys'::regclass::oid").fetchone()
        watcher.execute("update duroxide._alembic_version set version_num = '0001'")
        next_release.upgrade(database.dsn)
        again = watcher.execute("select 'duroxide.kv_store_keys'::regclass::oid").fetchone()
        assert again == made

    def test_writers_go_on_meanwhile(
        self, database: Database, watcher: psycopg.Connection[Any], next_release: Migrations
    ) -> None:
        with psycopg.connect(database.dsn) as user, ThreadPoolExecutor(1) as pool:
            user.execute(ROWS)  # the index waits for this transaction; nobody waits for the index
            upgrading = pool.submit(next_release.upgrade, database.dsn)
            waits = (
                "select count(*) from pg_stat_activity where query like 'create index concurrently%'"
                " and wait_event_type = 'Lock' and datname = current_database()"
            )
            while watcher.execute(waits).fetchone() != (1,):
                assert not upgrading.done()
            watcher.execute("set lock_timeout = '1s'")
            watcher.execute(ROWS.replace("'i'", "'j'"))
            user.commit()
            assert upgrading.result(30).state is State.CURRENT
        assert watcher.execute(VALID).fetchone() == (True,)


def alembic(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", "-c", ROOT / "alembic/alembic.ini", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


class TestByHand:
    @pytest.mark.long
    def test_both_schemas_are_made_and_are_what_installing_makes(self, database: Database) -> None:
        for line in ("alembic", "df"):
            done = alembic("-n", line, "-x", f"dsn={database.dsn}", "upgrade", "head")
            assert done.returncode == 0, done.stderr
        assert migrate.check(database.dsn).state is State.CURRENT
        with psycopg.connect(database.dsn) as connection:
            row = connection.execute(
                "select to_regprocedure('df.sql(text)') is not null"
            ).fetchone()
            assert row == (True,)

    @pytest.mark.long
    def test_a_schema_of_another_name_is_made(self, database: Database) -> None:
        done = alembic("-x", f"dsn={database.dsn}", "-x", "schema=tenant_b", "upgrade", "head")
        assert done.returncode == 0, done.stderr
        assert migrate.check(database.dsn, "tenant_b").state is State.CURRENT

    @pytest.mark.long
    def test_looking_makes_nothing(self, database: Database) -> None:
        done = alembic("-x", f"dsn={database.dsn}", "current")
        assert "the schema 'duroxide' is not installed" in done.stderr
        assert migrate.check(database.dsn).state is State.MISSING

    def test_a_foreign_schema_is_refused(self, database: Database) -> None:
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            connection.execute("create schema duroxide; create table duroxide.mine (x int)")
        done = alembic("-x", f"dsn={database.dsn}", "upgrade", "head")
        assert done.returncode != 0
        assert "did not create" in done.stderr

    def test_without_a_database_it_says_how_to_name_one(self) -> None:
        done = alembic("upgrade", "head")
        assert "alembic -x dsn=postgresql://" in done.stderr
