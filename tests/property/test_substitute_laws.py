"""What goes into SQL text comes out of the server unchanged."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pg_durable.steps.literals import array_literal, parse_array, parse_record
from pg_durable.substitute import Bindings, substitute_sql
from tests.fixtures.postgres import PostgresServer

on_a_server = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.text("'\"\\$aE-\n,{}")


@pytest.fixture(scope="module")
def server(postgres_server: PostgresServer) -> psycopg.Connection:
    return postgres_server.admin


def bound(*values: Any, kind: str | None = None) -> Bindings:
    document: dict[str, Any] = {
        "rows": [{"v": value} for value in values],
        "row_count": len(values),
    }
    if kind is not None:
        document["columns"] = [{"name": "v", "type": kind}]
    return Bindings(results={"v": json.dumps(document)})


def answer(server: psycopg.Connection, text: str) -> Any:
    row = server.execute(text.encode()).fetchone()
    assert row is not None
    return row[0]


@on_a_server
@given(value=TEXT)
def test_a_string_means_itself_in_every_context(server: psycopg.Connection, value: str) -> None:
    bindings = bound(value)
    for template in ("select $v", "select '$v'", "select E'$v'", "select n'x'\n'$v'"):
        expected = "x" + value if "n'x'" in template else value
        assert answer(server, substitute_sql(template, bindings)) == expected
    body = "do $body$ begin perform set_config('df.probe', $v, false); end $body$"
    if "$body$" not in value:
        server.execute(substitute_sql(body, bindings).encode())
        assert answer(server, "select current_setting('df.probe')") == value


@on_a_server
@given(value=st.text(min_size=1, max_size=15).filter(lambda text: "\0" not in text))
def test_a_string_means_itself_as_an_identifier(server: psycopg.Connection, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return
    cursor = server.execute(substitute_sql('select 1 as "$v"', bound(value)).encode())
    assert cursor.description is not None
    assert cursor.description[0].name == value


@on_a_server
@given(left=st.integers(-(2**40), 2**40), right=st.integers(-(2**40), 2**40))
def test_a_number_means_itself_beside_any_operator(
    server: psycopg.Connection, left: int, right: int
) -> None:
    bindings = bound(right)
    assert answer(server, substitute_sql(f"select {left}::bigint-$v", bindings)) == left - right
    assert answer(server, substitute_sql(f"select ({left}::bigint)+$v", bindings)) == left + right


@on_a_server
@given(values=st.lists(st.none() | TEXT, max_size=5))
def test_an_array_holds_the_values_of_all_rows(
    server: psycopg.Connection, values: list[str | None]
) -> None:
    text = substitute_sql(
        "select coalesce(json_agg(x = any($v)), '[]') from unnest(%s::text[]) x",
        bound(*values, kind="text"),
    )
    present = [value for value in values if value is not None]
    row = server.execute(
        text.replace("%", "%%").replace("%%s::text", "%s::text").encode(), [present]
    ).fetchone()
    assert row is not None
    assert row[0] == [True] * len(present)


@on_a_server
@given(values=st.lists(st.none() | TEXT, max_size=5))
def test_array_text_is_read_as_the_server_writes_it(
    server: psycopg.Connection, values: list[str | None]
) -> None:
    written = server.execute("select %s::text[]::text", [values]).fetchone()
    assert written is not None
    assert parse_array(written[0]) == values
    assert server.execute("select %s::text[]", [array_literal([*values])]).fetchone() == (values,)


@on_a_server
@given(values=st.lists(st.none() | TEXT, min_size=2, max_size=4))
def test_composite_text_is_read_as_the_server_writes_it(
    server: psycopg.Connection, values: list[str | None]
) -> None:
    fields = ", ".join(["%s::text"] * len(values))
    written = server.execute(f"select row({fields})::text".encode(), values).fetchone()
    assert written is not None
    assert parse_record(written[0]) == values
