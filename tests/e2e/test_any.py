"""ANY($name) finds what the query before it has returned, whatever its type."""

from __future__ import annotations

import pytest

from tests.fixtures.workflows import Workflows

VALUES = {
    "text": "('a,b'), ('q\"x'), ('b\\s'), (''), ('NULL'), ('{x}'), ('  sp ')",
    "char(4)": "('ab'), ('abcd')",
    "bit(3)": "(B'101'), (B'100')",
    "varbit": "(B'1'), (B'10')",
    '"char"': "('x'), ('y')",
    "numeric": "(1.50), ('NaN'), (-3)",
    "bytea": "('\\x00ff'), ('\\x')",
    "timestamptz": "('2024-03-31 02:30+01'), ('infinity')",
    "interval": "('1 mon -3 days'), ('0')",
    "int4range": "('[1,3)'), ('empty')",
    "jsonb": """('{"a":1}'), ('1'), ('"1"'), ('"s"'), ('[1,[2]]'), ('true'), ('{}')""",
}


@pytest.mark.parametrize("kind", VALUES)
def test_every_value_is_found_again(standing: Workflows, kind: str) -> None:
    source = f"select c::{kind} as c from (values {VALUES[kind]}) v (c)"
    found = f"select count(*) as found, (select count(*) from ({source}) a) as there from ({source}) s where c = any($r)"
    result = standing.finish(f"$a${source}$a$ |=> 'r' ~> $b${found}$b$")
    (counts,) = result["rows"]
    assert counts["found"] == counts["there"] > 1


def test_arrays_of_several_rows_need_not_be_of_one_size(standing: Workflows) -> None:
    source = "values (array[1, 2]), (array[3]), (null), ('{}')"
    result = standing.finish(
        f"'{source}'".replace("'{}'", "''{}''")
        + " |=> 'r' ~> 'select 3 = any($r) as three, 4 = any($r) as four'"
    )
    assert result["rows"] == [{"three": True, "four": None}]
