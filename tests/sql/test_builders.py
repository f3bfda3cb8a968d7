"""The builders give the text that is promised, byte for byte, and refuse with the promised words."""

from __future__ import annotations

import pytest

from tests.fixtures.postgres import Database
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
    "df.wait_for_signal('}', timeout_seconds => 5, mode => 'latest')": (
        '{"node_type":"SIGNAL","query":"{\\"signal_name\\":\\"}\\",\\"timeout_seconds\\":5,'
        '\\"mode\\":\\"latest\\"}"}'
    ),
    "df.wait_for_signal('go', NULL, 'next')": (
        '{"node_type":"SIGNAL","query":"{\\"signal_name\\":\\"go\\",\\"timeout_seconds\\":null}"}'
    ),
    "df.wait_for_schedule('0 9 * * *', 'Europe/Berlin')": (
        '{"node_type":"WAIT_SCHEDULE","query":"{\\"cron_expr\\":\\"0 9 * * *\\",'
        '\\"timezone\\":\\"Europe/Berlin\\"}"}'
    ),
    "df.wait_for_signal('go', timeout_seconds => 5)": (
        '{"node_type":"SIGNAL","query":"{\\"signal_name\\":\\"go\\",\\"timeout_seconds\\":5}"}'
    ),
    "df.http('https://x.test/{id}')": (
        '{"node_type":"HTTP","query":"{\\"url\\":\\"https://x.test/{id}\\",\\"method\\":\\"POST\\",'
        '\\"body\\":null,\\"headers\\":null,\\"timeout_seconds\\":30}"}'
    ),
    "df.http('HTTP://x', 'get', 'b', '{\"Bb\": \"x  y\", \"A\": \"1\"}', timeout_seconds => 5)": (
        '{"node_type":"HTTP","query":"{\\"url\\":\\"HTTP://x\\",\\"method\\":\\"GET\\",\\"body\\":\\"b\\",'
        '\\"headers\\":{\\"A\\":\\"1\\",\\"Bb\\":\\"x  y\\"},\\"timeout_seconds\\":5}"}'
    ),
    "df.http('{base}/path', 'PATCH')": (
        '{"node_type":"HTTP","query":"{\\"url\\":\\"{base}/path\\",\\"method\\":\\"PATCH\\",'
        '\\"body\\":null,\\"headers\\":null,\\"timeout_seconds\\":30}"}'
    ),
    'df.http_multipart(\'http://x\', parts => \'[{"name": "a", "data_b64": "eA=="}]\')': (
        '{"node_type":"HTTP_MULTIPART","query":"{\\"url\\":\\"http://x\\",\\"method\\":\\"POST\\",'
        '\\"parts\\":[{\\"name\\":\\"a\\",\\"data_b64\\":\\"eA==\\"}],\\"headers\\":null,'
        '\\"timeout_seconds\\":30}"}'
    ),
    "df.wait_for_schedule('*/5 0-7,9 * JAN-mar sun,7')": (
        '{"node_type":"WAIT_SCHEDULE","query":"{\\"cron_expr\\":\\"*/5 0-7,9 * JAN-mar sun,7\\"}"}'
    ),
    "df.join('A', 'B', 'C', 'D')": (
        '{"node_type":"JOIN","left_node":{"node_type":"SQL","query":"A"},'
        '"right_node":{"node_type":"SQL","query":"B"},'
        '"extra_nodes":[{"node_type":"SQL","query":"C"},{"node_type":"SQL","query":"D"}]}'
    ),
    "df.race('A', 'B', 'C')": (
        '{"node_type":"RACE","left_node":{"node_type":"RACE","left_node":{"node_type":"SQL","query":"A"},'
        '"right_node":{"node_type":"SQL","query":"B"}},"right_node":{"node_type":"SQL","query":"C"}}'
    ),
}


@pytest.mark.parametrize("expression", EXACT)
def test_a_builder_gives_exactly_this_text(owner: Connection, expression: str) -> None:
    assert value(owner, f"select {expression}") == EXACT[expression]


REFUSED = {
    "df.as('A', '')": "df.as: result name cannot be empty",
    "df.as('A', '1x')": "df.as: result name '1x' is not a valid identifier (must match [a-zA-Z_][a-zA-Z0-9_]*)",
    "df.as('A', E'x\\n')": "df.as: result name 'x\n' is not a valid identifier (must match [a-zA-Z_][a-zA-Z0-9_]*)",
    "df.sleep(-1)": "Sleep duration must be non-negative",
    "df.wait_for_signal('')": "Signal name cannot be empty",
    "df.wait_for_signal('x', 0)": "Timeout must be positive",
    "df.wait_for_signal(NULL)": "argument 0 must not be null",
    "df.wait_for_signal('x', 0, 'latest')": "Timeout must be positive",
    "df.wait_for_signal('x', NULL, 'last')": 'Signal mode must be next, latest or future, not "last"',
    "df.wait_for_schedule('0 9 * * *', 'Europe/Bonn')": "Unknown time zone 'Europe/Bonn'; use an IANA name",
    "df.wait_for_schedule('0 25 * * *', 'UTC')": "Invalid cron expression '0 25 * * *': hour: '25' is not between 0 and 23",
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
    "df.http('ftp://x')": "Blocked: unsupported URL scheme 'ftp'. Only http and https are allowed.",
    "df.http('$url')": "Blocked: unsupported URL scheme '$url'. Only http and https are allowed.",
    "df.http('ftp://x', 'HEAD', timeout_seconds => 0)": (
        "Blocked: unsupported URL scheme 'ftp'. Only http and https are allowed."
    ),
    "df.http('http://x', 'HEAD', timeout_seconds => 0)": (
        "Invalid HTTP method: HEAD. Must be GET, POST, PUT, DELETE, or PATCH"
    ),
    "df.http('http://x', timeout_seconds => 0)": "Timeout must be positive",
    "df.http(NULL)": "argument 0 must not be null",
    "df.http_multipart('http://x', 'GET')": (
        "Invalid HTTP method for multipart: GET. Must be POST, PUT, or PATCH"
    ),
    "df.http_multipart('http://x')": "parts is required and cannot be NULL",
    "df.http_multipart('http://x', parts => '{}')": "parts must be a JSON array of part objects",
    "df.http_multipart('http://x', parts => '[]')": "parts must contain at least one part",
    "df.wait_for_schedule('x')": (
        "Invalid cron expression 'x': expected 5 fields (minute hour day-of-month month day-of-week), found 1"
    ),
    "df.wait_for_schedule('60 * * * *')": (
        "Invalid cron expression '60 * * * *': minute: '60' is not between 0 and 59"
    ),
    "df.wait_for_schedule('* * * * 8')": (
        "Invalid cron expression '* * * * 8': day of week: '8' is not between 0 and 7"
    ),
    "df.wait_for_schedule('5-1 * * * *')": (
        "Invalid cron expression '5-1 * * * *': minute: the range 5-1 ends before it begins"
    ),
    "df.wait_for_schedule('*/0 * * * *')": (
        "Invalid cron expression '*/0 * * * *': minute: the step of '*/0' is not between 1 and 59"
    ),
    "df.wait_for_schedule('* * L * *')": (
        "Invalid cron expression '* * L * *': day of month: 'L' is not between 1 and 31"
    ),
    "df.join(variadic array['A'])": "df.join needs at least 2 branches, not 1",
    "df.race(variadic array['A'])": "df.race needs at least 2 branches, not 1",
}


@pytest.mark.parametrize("expression", REFUSED)
def test_a_builder_refuses_with_these_words(owner: Connection, expression: str) -> None:
    error = refusal(owner, f"select {expression}")
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


def test_builders_are_found_under_any_search_path(owner: Connection) -> None:
    for path in ("", "pg_catalog", "df", "public, df", "pg_temp, public, pg_catalog"):
        with owner.transaction(force_rollback=True):
            owner.execute("select set_config('search_path', %s, true)", [path])
            for expression, expected in EXACT.items():
                assert value(owner, f"select {expression}") == expected


CRON = {
    "classic": ["* * * * *", "0 0 1 1 0", "0 9 * * mon-fri", "*/15 8-18/2 1,15 * 7", "@daily"],
    "quartz": ["0 9 * * 1-7", "0 9 ? * MON 2030-2035", "5/10 * * january sunday"],
}


@pytest.mark.parametrize("dialect", CRON)
def test_each_cron_dialect_has_its_own_numbers(owner: Connection, dialect: str) -> None:
    with owner.transaction(force_rollback=True):
        owner.execute("insert into df._settings values ('cron_dialect', %s)", [dialect])
        for expression in CRON[dialect]:
            assert value(owner, "select df.wait_for_schedule(%s)", expression).startswith("{")
    with owner.transaction(force_rollback=True):
        owner.execute("insert into df._settings values ('cron_dialect', 'quartz')")
        assert "'0' is not between 1 and 7" in message(
            refusal(owner, "select df.wait_for_schedule('0 9 * * 0')")
        )


def test_http_needs_its_own_grant(
    owner: Connection, alice: Connection, installed: Database
) -> None:
    error = refusal(alice, "select df.http('http://x')")
    assert (error.sqlstate, message(error)) == ("42501", "permission denied for function http")
    role = installed.role("alice")
    owner.execute("select df.grant_usage(%s, include_http => true)", [role])
    try:
        assert value(alice, "select df.http('http://x')").startswith('{"node_type":"HTTP"')
    finally:
        owner.execute("select df.revoke_usage(%s)", [role])
        owner.execute("select df.grant_usage(%s)", [role])
