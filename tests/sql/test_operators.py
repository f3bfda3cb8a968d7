"""The operators, and how PostgreSQL really reads a line of them."""

from __future__ import annotations

import pytest

from tests.sql.sessions import Connection, message, refusal, value

READ_AS = {
    "'a' ~> 'b'": "df.seq('a', 'b')",
    "'a' |=> 'x'": "df.as('a', 'x')",
    "'a' & 'b'": "df.join('a', 'b')",
    "'a' | 'b'": "df.race('a', 'b')",
    "'c' ?> 't' !> 'e'": "df.if('c', 't', 'e')",
    "@> 'a'": "df.loop('a')",
    "'a' ~> 'b' |=> 'x' ~> 'c'": "df.seq(df.as(df.seq('a', 'b'), 'x'), 'c')",
    "'a' |=> 'x' ~> 'b' |=> 'y'": "df.as(df.seq(df.as('a', 'x'), 'b'), 'y')",
    "'a' ~> 'b' & 'c'": "df.join(df.seq('a', 'b'), 'c')",
    "'a' & 'b' |=> 'x'": "df.as(df.join('a', 'b'), 'x')",
    "'a' & 'b' & 'c'": "df.join(df.join('a', 'b'), 'c')",
    "'a' & 'b' | 'c'": "df.race(df.join('a', 'b'), 'c')",
    "'c' ?> 't' !> 'e1' ~> 'e2'": "df.seq(df.if('c', 't', 'e1'), 'e2')",
    "'a' ~> 'c' ?> 't' !> 'e'": "df.if(df.seq('a', 'c'), 't', 'e')",
    "'p' ?> 'x' !> 'q' ?> 'y' !> 'z'": "df.if(df.if('p', 'x', 'q'), 'y', 'z')",
    "@> 'a' ~> 'b'": "df.seq(df.loop('a'), 'b')",
    "'a' ~> @> 'b' ~> 'c'": "df.seq(df.seq('a', df.loop('b')), 'c')",
    "'a' ~> 7::text": "df.seq('a', '7')",
    "'a' ~> 'x' || 'y'": "df.seq('a', 'x') || 'y'",
}


@pytest.mark.parametrize("written", READ_AS)
def test_a_line_of_operators_is_read_as(alice: Connection, written: str) -> None:
    assert value(alice, f"select {written}") == value(alice, f"select {READ_AS[written]}")


def test_comparison_binds_looser(alice: Connection) -> None:
    assert value(alice, "select 'a' ~> 'b' = df.seq('a', 'b')") is True


def test_a_branch_of_several_steps_needs_parentheses(alice: Connection) -> None:
    error = refusal(alice, "select 'c' ?> 't1' ~> 't2' !> 'e'")
    assert error.sqlstate == "P0001"
    assert message(error) == "Invalid if-then-else: left side of !> must be a ?> expression"
    assert "parentheses" in str(error.diag.message_hint)
    assert value(alice, "select 'c' ?> ('t1' ~> 't2') !> 'e'") == value(
        alice, "select df.if('c', df.seq('t1', 't2'), 'e')"
    )


def test_half_an_if_is_json_text(alice: Connection) -> None:
    assert value(alice, "select 'c' ?> 't'") == (
        '{"condition": "c", "_partial_if": true, "then_branch": "t"}'
    )


def test_the_left_of_an_else_must_be_json(alice: Connection) -> None:
    assert refusal(alice, "select 'x' !> 'e'").sqlstate == "22P02"


@pytest.mark.parametrize("left", ["{}", "[]", "null", '"_partial_if"', '["_partial_if"]'])
def test_the_left_of_an_else_must_be_half_an_if(alice: Connection, left: str) -> None:
    error = refusal(alice, "select %s::text !> 'e'", left)
    assert error.sqlstate == "P0001"
    assert message(error) == "Invalid if-then-else: left side of !> must be a ?> expression"


def test_operators_are_found_through_public_and_through_df(alice: Connection) -> None:
    expected = value(alice, "select df.seq('a', 'b')")
    for path in ("public", "df", "df, public", '"$user", public'):
        with alice.transaction(force_rollback=True):
            alice.execute("select set_config('search_path', %s, true)", [path])
            assert value(alice, "select 'a' ~> 'b'") == expected
    with alice.transaction(force_rollback=True):
        alice.execute("set local search_path = pg_catalog")
        assert value(alice, "select 'a' OPERATOR(df.~>) 'b'") == expected
        error = refusal(alice, "select 'a' ~> 'b'")
    assert error.sqlstate == "42883"


def test_other_operators_of_these_names_are_undisturbed(alice: Connection) -> None:
    assert value(alice, "select 5 & '3'") == 1
    assert value(alice, "select 5 | 3") == 7
    assert value(alice, """select '{"a":1}'::jsonb @> '{}'""") is True


def test_a_role_without_usage_gets_no_workflow(stranger: Connection) -> None:
    assert refusal(stranger, "select df.sql('x')").sqlstate == "42501"
    for expression in ("'a' ~> 'b'", "'a' |=> 'x'", "@> 'a'"):
        assert refusal(stranger, f"select {expression}").sqlstate == "42501"
