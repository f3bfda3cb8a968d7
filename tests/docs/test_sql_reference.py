"""docs/reference/sql.md leaves no function out."""

from __future__ import annotations

import re

import psycopg

from pg_durable import install
from tests.docs.blocks import ROOT, blocks_of
from tests.fixtures.postgres import Database

PAGE = ROOT / "docs" / "reference" / "sql.md"


def test_every_function_has_an_example_that_runs(database: Database) -> None:
    install.install(database.dsn)
    with psycopg.connect(database.dsn) as connection:
        functions = {
            str(row[0])
            for row in connection.execute(
                "select distinct proname from pg_proc"
                " where pronamespace = 'df'::regnamespace and proname !~ '^_|_op$'"
            )
        }
    examples = "".join(block.text for block in blocks_of(PAGE) if block.runs)
    shown = set(re.findall(r'df\."?(\w+)"?\s*\(', examples))
    assert functions - shown == set()
