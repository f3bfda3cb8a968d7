"""Options of a SQL step: how they stand in node text, and what is refused."""

from __future__ import annotations

import json

import pytest

from tests.sql.sessions import Connection, message, refusal, rows, value

GOOD = [
    {"tx": "none", "on_ambiguous": "fail"},
    {"isolation": "serializable", "read_only": True, "deferrable": True},
    {"timeout_seconds": 1.5, "retries": 0},
    {},
]
BAD = {
    '{"tx": "never"}': 'option "tx" of df.sql() must be one of auto, required, none, not "never"',
    '{"tx": 1}': 'option "tx" of df.sql() must be one of auto, required, none, not 1',
    '{"read_only": "yes"}': 'option "read_only" of df.sql() must be true or false, not "yes"',
    '{"timeout_seconds": 0}': (
        'option "timeout_seconds" of df.sql() must be between 0.001 and 86400, not 0'
    ),
    '{"retries": 21}': 'option "retries" of df.sql() must be a whole number between 0 and 20, not 21',
    '{"retry": 1}': (
        'df.sql() has no option "retry"; there are tx, isolation, read_only, deferrable, '
        "timeout_seconds, retries and on_ambiguous"
    ),
    '{"tx": "none", "read_only": true}': (
        'options "isolation", "read_only" and "deferrable" of df.sql() are of a transaction: '
        '"tx" must not be "none"'
    ),
    "[]": "the options of df.sql() must be a JSON object",
}


@pytest.mark.parametrize("options", GOOD)
def test_options_stand_in_the_node_and_survive_builders(
    alice: Connection, options: dict[str, object]
) -> None:
    text = value(alice, "select ('A' ~> (df.sql('B', %s::jsonb) |=> 'n'))", json.dumps(options))
    step = json.loads(text)["right_node"]
    assert list(step) == ["node_type", "query", "options", "result_name"]
    assert step["options"] == options
    assert (
        value(alice, "select df.seq(df.sql('A'), %s)", json.dumps(step, separators=(",", ":")))
        == text
    )


@pytest.mark.parametrize(("options", "words"), BAD.items())
def test_wrong_options_are_refused_by_the_builder_and_by_start(
    alice: Connection, options: str, words: str
) -> None:
    built = refusal(alice, "select df.sql('select 1', %s::jsonb)", options)
    assert message(built) == words
    if options.startswith("{"):
        node = f'{{"node_type":"SQL","query":"select 1","options":{options}}}'
        started = refusal(alice, "select df.start(%s)", node)
        assert message(started) == f"Invalid durable function graph: root: {words}"


def test_only_sql_steps_have_options(alice: Connection) -> None:
    node = '{"node_type":"SLEEP","query":"1","options":{}}'
    error = refusal(alice, "select df.start(%s)", node)
    assert "options is not valid for SLEEP nodes" in message(error)


def test_options_are_stored_and_frozen_with_the_graph(alice: Connection) -> None:
    instance = value(
        alice, """select df.start(df.sql('select 1', '{"tx": "none"}') ~> 'select 2')"""
    )
    stored = rows(
        alice,
        "select query, options from df.nodes where instance_id = %s and node_type = 'SQL' "
        "order by query",
        instance,
    )
    assert stored == [("select 1", {"tx": "none"}), ("select 2", None)]
