"""What a session has set for itself changes no answer of `df`."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pg_durable import install
from tests.fixtures.postgres import Database
from tests.sql.sessions import Connection, notices

SETTINGS = (
    "standard_conforming_strings = off",
    "quote_all_identifiers = on",
    "transform_null_equals = on",
    "array_nulls = off",
    "datestyle = 'SQL, DMY'",
    "timezone = 'Asia/Kathmandu'",
    "extra_float_digits = -15",
    "plpgsql.extra_errors = 'all'",
    "search_path = ''",
)
QUESTIONS = (
    r"select df.as(E'a\\b\n\t', 'x')",
    "select df.wait_for_schedule('*/5 0-3 1,2 jan-feb MON')",
    "select df.wait_for_schedule('61 * * * *')",
    "select df.sql('x', '{\"timeout_seconds\": 1.5, \"retries\": 2}')",
    """select df.http('http://x', headers => '{"a, b": "c: d", "tab": "nor none"}')""",
    r"select df.explain(df.sql(E'a\\b\nc'))",
    r"select df.explain(E'  SELECT\n1')",
    "select df.explain('df.sleep(1)')",
    "select df.explain('hello')",
    r"""select df.explain_mermaid(df.sql(E'a\\b"<c>\n|'))""",
    'select df.start(\'{"node_type":"NOPE"}\')',
    r"""select df.start('{"node_type":"SQL","query":"' || chr(92) || 'u0000"}')""",
    "select * from df.list_instances('none', 5, null, '6161')",
    "select * from df.list_instances('none', 5, null, encode("
    "convert_to('v1|2020-01-01T00:00:00.000000+00|00000000', 'UTF8'), 'hex'))",
    "select name, df._setting(name) from df._setting_specs() order by name",
)


def answer(connection: Connection, question: str) -> Any:
    try:
        return connection.execute(question.encode()).fetchall()
    except psycopg.Error as error:
        return error.sqlstate, error.diag.message_primary, error.diag.message_hint


@pytest.mark.parametrize("setting", SETTINGS)
def test_answers_are_those_of_a_session_without_settings(
    installed: Database, owner: Connection, setting: str
) -> None:
    with psycopg.connect(installed.dsn, autocommit=True) as session:
        session.execute(f"set {setting}".encode())
        for question in QUESTIONS:
            assert answer(session, question) == answer(owner, question), question


def test_warnings_are_those_of_a_session_without_settings(owner: Connection) -> None:
    question = "select df.explain('''a'' ~> ''b'' & ''c''')"
    usual = notices(owner, question)
    assert usual
    with owner.transaction():
        owner.execute("set local standard_conforming_strings = off")
        assert notices(owner, question) == usual


def test_no_constant_in_the_sql_depends_on_how_the_session_reads_backslashes() -> None:
    assert [line for line in plain_constants(install.living_sql()) if "\\" in line] == []


def plain_constants(text: str) -> list[str]:
    """The string constants without an E; dollar quotes are bodies, whose constants count."""
    found, place = [], 0
    while place < len(text):
        if text.startswith("--", place):
            place = text.find("\n", place)
        elif text[place] == '"':
            place = text.index('"', place + 1) + 1
        elif text[place] == "'":
            escapes = text[place - 1] in "eE"
            end = place + 1
            while text[end] != "'" or text[end + 1] == "'":
                end += 2 if text[end] == "'" or (escapes and text[end] == "\\") else 1
            if not escapes:
                found.append(text[place : end + 1])
            place = end + 1
        else:
            place += 1
    return found
