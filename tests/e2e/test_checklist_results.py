"""Lines 11 to 15 of the checklist: values on their way out of a step and into the next one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fixtures.workflows import Workflows

TYPES: dict[str, tuple[str, Any]] = {
    "bool": ("true", True),
    "int2": ("(-32768)::int2", -32768),
    "int4": ("2147483647", 2147483647),
    "int8": ("9223372036854775807", 9223372036854775807),
    "float4": ("0.1::float4", 0.1),
    "float8": ("-1.5e-7::float8", -1.5e-7),
    "nan": ("'NaN'::float8", None),
    "numeric": ("123456789012345678901234567890.10", "123456789012345678901234567890.10"),
    "numeric_nan": ("'NaN'::numeric", "NaN"),
    "text": ("'it''s'", "it's"),
    "varchar": ("'v'::varchar(3)", "v"),
    "name": ("'n'::name", "n"),
    "char": ("'c'::char(3)", "c  "),
    "uuid": (
        "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ),
    "timestamptz": ("'2024-02-29 12:00:00.5+02'::timestamptz", "2024-02-29T10:00:00.500+00:00"),
    "timestamp": ("'2024-02-29 12:00:00'::timestamp", "2024-02-29T12:00:00"),
    "date": ("'2024-02-29'::date", "2024-02-29"),
    "forever": ("'infinity'::date", "infinity"),
    "json": ("'{\"a\": [1.10]}'::json", {"a": [1.10]}),
    "jsonb": ("'[null, true]'::jsonb", [None, True]),
    "bytea": ("'\\x00ff'::bytea", "\\x00ff"),
    "interval": ("'1 day 2 hours'::interval", "1 day 02:00:00"),
    "time": ("'01:02'::time", "01:02:00"),
    "inet": ("'10.0.0.1/8'::inet", "10.0.0.1/8"),
    "range": ("int4range(1, 3)", "[1,3)"),
    "ints": ("array[1, null, 3]", [1, None, 3]),
    "matrix": ("array[array['a', 'b'], array['c', null]]", [["a", "b"], ["c", None]]),
    "mood": ("'glad'::mood", "glad"),
    "pair": ("row(1, 'x')::pair", {"n": 1, "what": "x"}),
    "positive": ("5::positive", 5),
    "void": ("pg_sleep(0)", None),
}


@pytest.fixture
def types(standing: Workflows) -> None:
    standing.run(
        """
        do $$ begin
            create type mood as enum ('sad', 'glad');
            create type pair as (n int, what text);
            create domain positive as int check (value > 0);
        exception when duplicate_object then null; end $$
        """
    )


@pytest.mark.usefixtures("types")
def test_every_type_has_its_json(standing: Workflows) -> None:
    """df-execution 12.11: types, arrays and composites, column order."""
    columns = ", ".join(f"{value} as c_{name}" for name, (value, _) in TYPES.items())
    instance = standing.start(f"$t$select {columns}$t$")
    assert standing.wait(instance) == "completed", standing.error(instance)
    [row] = standing.one("select df.result(%s)::jsonb", instance)["rows"]
    assert row == {f"c_{name}": expected for name, (_, expected) in TYPES.items()}
    exact = standing.one("select df.result(%s)", instance)
    assert "1.10" in exact
    # jsonb has forgotten the order, but the first column is still the first.
    first = standing.finish("$$select 1 as z, 2 as a$$ |=> 'r' ~> 'select $r as first'")
    assert first["rows"] == [{"first": 1}]


@pytest.mark.usefixtures("types")
def test_null_is_null_in_every_type(standing: Workflows) -> None:
    """df-execution 12.11: NULLs."""
    columns = ", ".join(
        f"case when false then {value} end as c_{name}"
        for name, (value, _) in TYPES.items()
        if name != "void"
    )
    [row] = standing.finish(f"$t$select {columns}$t$")["rows"]
    assert set(row.values()) == {None}


@pytest.mark.parametrize(
    ("text", "rows", "affected"),
    [
        ("select 1 as x, 2 as x", [{"x": 1}], 1),
        ("select", [{}], 1),
        ("create table if not exists made (i int)", [], None),
        (
            "insert into effects (what) values ('r') returning what, 'x' as y",
            [{"what": "r", "y": "x"}],
            1,
        ),
        ("update effects set what = what where false", [], 0),
    ],
    ids=["duplicate names", "zero columns", "DDL", "RETURNING", "nothing"],
)
def test_the_shape_of_a_result(
    standing: Workflows, text: str, rows: list[Any], affected: int | None
) -> None:
    """df-execution 12.11: duplicate names, zero columns, RETURNING, DDL."""
    result = standing.finish(f"$t${text}$t$")
    assert result["rows"] == rows
    assert result["row_count"] == len(rows)
    assert result.get("affected") == affected


VALUES = [
    "it's \"quoted\" 'twice'",
    "back\\slash \\' \\n",
    "two\nlines\r\n\ttab",
    "snow ☃ 𝄞 é",
    "$$ $tag$ $1 {name} {} $v",
    "-- no comment /* */ ; select 1",
    "-5",
    "",
]


CONTEXTS = (
    "select $v::text as v",
    "select '$v' as v",
    "select E'$v' as v",
    'select * from (select 1) x("$v")',
)


def test_a_text_goes_through_a_step_unchanged_wherever_it_stands(standing: Workflows) -> None:
    """df-execution 12.14: quotes, backslashes, newlines, unicode, dollar quotes."""
    start = (
        "with x as (select %s::text as v) select df.start("
        "df.sql('select ' || quote_literal(v) || '::text as v') |=> 'v' ~> df.sql(%s)) from x"
    )
    started = [
        (value, context, str(standing.one(start, value, context)))
        for value in VALUES
        for context in CONTEXTS
        if value or '"' not in context  # an identifier can't be empty
    ]
    for value, context, instance in started:
        assert standing.wait(instance) == "completed", (context, standing.error(instance))
        [row] = standing.one("select df.result(%s)::jsonb", instance)["rows"]
        assert (list(row) == [value]) if '"' in context else (row == {"v": value}), context


@pytest.mark.parametrize(
    ("value", "template", "expected"),
    [
        ("-3", "select 10-$v as v", 13),
        ("-3", "select 10 -$v as v", 13),
        ("9223372036854775807", "select $v as v", 9223372036854775807),
        ("-9223372036854775808", "select $v as v", -9223372036854775808),
        (
            "123456789012345678901234567890.10",
            "select $v::numeric * 2 as v",
            "246913578024691357802469135780.20",
        ),
    ],
)
def test_a_number_goes_through_a_step_unchanged(
    standing: Workflows, value: str, template: str, expected: Any
) -> None:
    """df-execution 12.14: negative numbers, large integers, long numerics."""
    result = standing.finish(f"'select {value} as v' |=> 'v' ~> '{template}'")
    if isinstance(expected, int) and abs(expected) > 2**53 and result["rows"][0]["v"] != expected:
        pytest.fail(json.dumps(result))
    assert result["rows"] == [{"v": expected}]


def test_a_nul_in_json_is_refused_where_sql_can_not_hold_it(standing: Workflows) -> None:
    """df-execution 12.14: NUL."""
    error = standing.fail(r"""$$select '"a\u0000b"'::json as v$$ |=> 'v' ~> $$select $v as v$$""")
    assert "NUL" in error


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select 1 as n, 'x' as t", [{"n": 1, "t": "x"}]),
        ("select n, case when n = 2 then null else 'r' || n end as t from generate_series(1, 3) n", [
            {"n": 1, "t": "r1"}, {"n": 2, "t": None}, {"n": 3, "t": "r3"}]),
        ("select 1 as n, 'x' as t where false", []),
    ],
    ids=["one row", "many rows", "empty"],
)  # fmt: skip
def test_a_row_set_is_a_table_in_the_next_step(
    standing: Workflows, query: str, expected: list[Any]
) -> None:
    """df-execution 12.15: one row, many rows, empty, mixed NULLs."""
    result = standing.finish(f"$${query}$$ |=> 'rows' ~> 'select n, t from $rows.* order by n'")
    assert result["rows"] == expected


def test_columns_with_odd_names_keep_them_in_a_row_set(standing: Workflows) -> None:
    """df-execution 12.15: quoted columns."""
    query = """$$select 1 as "Odd ""name\""", 2 as "select"$$ |=> 'r'"""
    sum_up = """$$select "Odd ""name\""" + "select" as n from $r.*$$"""
    assert standing.finish(f"{query} ~> {sum_up}")["rows"] == [{"n": 3}]


def test_without_a_label_its_variable_is_empty(standing: Workflows) -> None:
    """df-execution 12.13: label NULL, system, unknown, nested JSON."""
    result = standing.finish(
        """$$select '{sys_label}' as label, '{no_such}' as unknown, '{"a": {"b": "{sys_label}"}}' as nested,"""
        """ length('{sys_instance_id}') as n$$"""
    )
    [row] = result["rows"]
    assert row == {"label": "", "unknown": "{no_such}", "nested": '{"a": {"b": ""}}', "n": 8}
