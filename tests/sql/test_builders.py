"""The builders give the text that is promised, byte for byte, and refuse with the promised words."""

from __future__ import annotations

import pytest

from tests.sql.sessions import Connection, message, refusal, value

EXACT = {
    "df.sql('SELECT 7')": '{"node_type":"SQL","query":"SELECT 7"}',
    "df.sql(df.sql('A'))": '{"node_type":"SQL","query":"{\\"node_type\\":\\"SQL\\",\\"query\\":\\"A\\"}"}',
    "df.seq('CALL a()', 'CALL b()')": (
        '{"node_type":"THEN","left_node":{"node_type":"SQL","query":"CALL a()"},'
        '"right_node":{"node_type":"SQL","query":"CALL b()"}}'
    ),
    "df.as('SELECT 7', 'lucky')": '{"node_type":"SQL","query":"SELECT 7","result_name":"lucky"}',
    "df.as(df.as('SELECT 7', 'unlucky'), 'lucky')": (
        '{"node_type":"SQL","query":"SELECT 7","result_name":"lucky"}'
    ),
    "df.sleep(0)": '{"node_type":"SLEEP","query":"0"}',
    "df.sleep(90)": '{"node_type":"SLEEP","query":"90"}',
    "df.if('SELECT true', 'Y', 'N')": (
        '{"node_type":"IF","left_node":{"node_type":"SQL","query":"Y"},'
        '"right_node":{"node_type":"SQL","query":"N"},'
        '"condition_node":{"node_type":"SQL","query":"SELECT true"}}'
    ),
    "df.if_rows('r', 'Y', 'N')": (
        '{"node_type":"IF","left_node":{"node_type":"SQL","query":"Y"},'
        '"right_node":{"node_type":"SQL","query":"N"},'
        '"query":"{\\"condition_type\\":\\"result_has_rows\\",\\"result_name\\":\\"r\\"}"}'
    ),
    "df.loop('A')": '{"node_type":"LOOP","left_node":{"node_type":"SQL","query":"A"}}',
    "df.loop('A', 'C')": (
        '{"node_type":"LOOP","left_node":{"node_type":"SQL","query":"A"},'
        '"condition_node":{"node_type":"SQL","query":"C"}}'
    ),
    "df.break()": '{"node_type":"BREAK","query":"{\\"break_value\\":null}"}',
    "df.break('done')": '{"node_type":"BREAK","query":"{\\"break_value\\":\\"done\\"}"}',
    "df.break('say \"x\"')": (
        '{"node_type":"BREAK","query":"{\\"break_value\\":\\"say \\\\\\"x\\\\\\"\\"}"}'
    ),
    "df.join('A', 'B')": (
        '{"node_type":"JOIN","left_node":{"node_type":"SQL","query":"A"},'
        '"right_node":{"node_type":"SQL","query":"B"}}'
    ),
    "df.join3('A', 'B', 'C')": (
        '{"node_type":"JOIN","left_node":{"node_type":"SQL","query":"A"},'
        '"right_node":{"node_type":"SQL","query":"B"},'
        '"extra_nodes":[{"node_type":"SQL","query":"C"}]}'
    ),
    "df.race('A', 'B')": (
        '{"node_type":"RACE","left_node":{"node_type":"SQL","query":"A"},'
        '"right_node":{"node_type":"SQL","query":"B"}}'
    ),
    "df.wait_for_signal('go')": (
        '{"node_type":"SIGNAL","query":"{\\"signal_name\\":\\"go\\",\\"timeout_seconds\\":null}"}'
    ),
    "df.wait_for_signal('go', timeout_seconds => 5)": (
        '{"node_type":"SIGNAL","query":"{\\"signal_name\\":\\"go\\",\\"timeout_seconds\\":5}"}'
    ),
}


@pytest.mark.parametrize("expression", EXACT)
def test_a_builder_gives_exactly_this_text(alice: Connection, expression: str) -> None:
    assert value(alice, f"select {expression}") == EXACT[expression]


REFUSED = {
    "df.as('A', '')": "df.as: result name cannot be empty",
    "df.as('A', '1x')": "df.as: result name '1x' is not a valid identifier (must match [a-zA-Z_][a-zA-Z0-9_]*)",
    "df.as('A', E'x\\n')": "df.as: result name 'x\n' is not a valid identifier (must match [a-zA-Z_][a-zA-Z0-9_]*)",
    "df.sleep(-1)": "Sleep duration must be non-negative",
    "df.wait_for_signal('')": "Signal name cannot be empty",
    "df.wait_for_signal('x', 0)": "Timeout must be positive",
    "df.wait_for_signal(NULL)": "argument 0 must not be null",
    "df.loop(NULL)": "argument 0 must not be null",
    """df.seq('{"node_type":"THEN","left_node":1}', 'B')""": (
        "Invalid Durofut JSON: failed to deserialize workflow step: Durofut children must be JSON objects"
    ),
    """df.seq('{"node_type":"IF","condition_node":"x"}', 'B')""": (
        "Invalid Durofut JSON: failed to deserialize workflow step: "
        "condition_node must be a Durofut JSON object"
    ),
    """df.seq('{"node_type":"JOIN","extra_nodes":[1]}', 'B')""": (
        "Invalid Durofut JSON: failed to deserialize workflow step: "
        "extra_nodes entries must be Durofut JSON objects"
    ),
    """df.seq('{"node_type":"SQL","query":"a","query":"b"}', 'B')""": (
        "Invalid Durofut JSON: failed to deserialize workflow step: a field occurs twice"
    ),
}


@pytest.mark.parametrize("expression", REFUSED)
def test_a_builder_refuses_with_these_words(alice: Connection, expression: str) -> None:
    error = refusal(alice, f"select {expression}")
    assert (error.sqlstate, message(error)) == ("XX000", REFUSED[expression])


@pytest.mark.parametrize(
    "expression",
    [
        "df.sql(NULL)", "df.seq(NULL, 'B')", "df.as('A', NULL)", "df.sleep(NULL)", "df.if('A', NULL, 'B')",
        "df.join('A', NULL)", "df.join3('A', 'B', NULL)", "df.race(NULL, 'B')", "df.if_rows(NULL, 'A', 'B')",
    ],
)  # fmt: skip
def test_null_gives_null(alice: Connection, expression: str) -> None:
    assert value(alice, f"select {expression}") is None


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "SELECT 1", "[1]", "17", "{", "{broken", '{"a":1}', '{"node_type":5}', '{"node_type":null}',
        '{"node_type":"sql","query":"lower case is no type"}', '{"node_type":"FOR_EACH"}',
    ],
)  # fmt: skip
def test_what_is_no_node_is_wrapped_as_sql(alice: Connection, text: str) -> None:
    assert value(alice, "select df.seq(%s, 'B')", text) == value(
        alice, "select df.seq(df.sql(%s), 'B')", text
    )


def test_an_argument_is_put_in_canonical_form_and_its_children_are_left_alone(
    alice: Connection,
) -> None:
    child = '{ "query" : "x\\u0041", "later": [1],   "node_type":"SQL" }'
    given = f' {{"zzz": 1, "result_name":"n", "left_node":{child}, "condition_node":null, "node_type":"LOOP"}}'
    expected = (
        f'{{"node_type":"THEN","left_node":{{"node_type":"LOOP","left_node":{child},"result_name":"n"}},'
        '"right_node":{"node_type":"SQL","query":"B"}}'
    )
    assert value(alice, "select df.seq(%s, 'B')", given) == expected


def test_text_that_postgres_cannot_hold_is_malformed(alice: Connection) -> None:
    for text in (r'{"node_type":"SQL","query":"\u0000"}', r'{"node_type":"SQL","query":"\ud800"}'):
        error = refusal(alice, "select df.seq(%s, 'B')", text)
        assert message(error).startswith(
            "Invalid Durofut JSON: failed to deserialize workflow step: "
        )


def test_a_very_deep_text_is_a_classified_error(alice: Connection) -> None:
    deep = '{"node_type":"LOOP","left_node":' * 100_000
    assert refusal(alice, "select df.seq(%s, 'B')", deep).sqlstate == "54001"


def test_a_helper_is_not_a_step(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        alice.execute(
            "create function pg_temp.helper() returns text language sql as $$ select df._mark_helper('df.setvar'); select 'OK' $$"
        )
        error = refusal(alice, "select df.seq(pg_temp.helper(), 'B')")
        assert message(error) == (
            "df.setvar cannot be used as a workflow step. Call df.setvar before df.start()."
        )


def test_a_helper_does_no_harm_to_real_steps_nor_to_later_statements(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        beside = value(
            alice, "select df._mark_helper('df.setvar')::text || df.seq('SELECT 1', 'SELECT 2')"
        )
        assert beside.startswith('{"node_type":"THEN"')
        assert value(alice, "select df.seq('OK', 'B')").startswith('{"node_type":"THEN"')


def test_builders_are_found_under_any_search_path(alice: Connection) -> None:
    for path in ("", "pg_catalog", "df", "public, df", "pg_temp, public, pg_catalog"):
        with alice.transaction(force_rollback=True):
            alice.execute("select set_config('search_path', %s, true)", [path])
            for expression, expected in EXACT.items():
                assert value(alice, f"select {expression}") == expected
