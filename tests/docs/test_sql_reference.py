"""docs/reference/sql.md leaves no function out."""

from __future__ import annotations

import re

import psycopg

from pg_durable import install
from tests.docs.blocks import ROOT, blocks_of
from tests.fixtures.postgres import Database

PAGE = ROOT / "docs" / "reference" / "sql.md"


def signatures(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    """Every function that is not for workers or operators, as one calls it, by name."""
    found = connection.execute(
        "select format('df.%I(%s) → %s', p.proname,"
        "   (select string_agg(case when p.provariadic <> 0 then 'VARIADIC ' else '' end || a.name || ' '"
        "       || format_type(p.proargtypes[a.n - 1], null)"
        "       || coalesce(' DEFAULT ' || pg_get_function_arg_default(p.oid, a.n::int), ''), ', ' order by a.n)"
        "    from unnest(p.proargnames[:p.pronargs]) with ordinality as a (name, n)),"
        "   pg_get_function_result(p.oid))"
        " from pg_proc as p where p.pronamespace = 'df'::regnamespace and p.proname !~ '^_|_op$'"
        " order by p.proname, p.pronargs, p.oid::regprocedure::text"
    ).fetchall()
    return "".join(re.sub(r"::\w+", "", str(row[0])) + "\n" for row in found)


def test_the_list_of_signatures_is_that_of_the_server(database: Database) -> None:
    install.install(database.dsn)
    with psycopg.connect(database.dsn) as connection:
        shown = signatures(connection)
    assert [block.text for block in blocks_of(PAGE) if block.text.startswith("df.")] == [shown]


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
