"""df.http_options: what it adds to a step, and what it refuses."""

from __future__ import annotations

import json

import pytest

from tests.sql.sessions import Connection, message, refusal, value

STEP = """df.http('http://a.example/', 'GET') |=> 'r'"""


@pytest.fixture
def http(owner: Connection) -> Connection:
    return owner


def test_options_go_into_the_configuration_and_the_name_stays(http: Connection) -> None:
    plain = json.loads(value(http, f"select {STEP}"))
    options = {"retry": {"attempts": 2}, "expect_json": True, "body_mode": "json"}
    text = value(http, f"select df.http_options({STEP}, %s)", json.dumps(options))
    node = json.loads(text)
    assert node["result_name"] == "r"
    assert json.loads(node["query"]) == {**json.loads(plain["query"]), **options}
    again = value(http, f"select df.http_options({STEP}, %s)", '{"fail_on": "never"}')
    assert json.loads(json.loads(again)["query"])["fail_on"] == "never"


@pytest.mark.parametrize(
    ("step", "options", "words"),
    [
        (STEP, '{"fail_on": "3xx"}', 'must be one of 5xx, 4xx, never, not "3xx"'),
        (STEP, '{"body_mode": 1}', "must be one of text, json, not 1"),
        (STEP, '{"expect_json": "yes"}', "must be true or false"),
        (STEP, '{"retry": {"tries": 3}}', "must be an object of attempts"),
        (STEP, '{"color": "red"}', 'has no option "color"; there are retry'),
        (STEP, "[]", "must be a JSON object"),
        ("'select 1'", "{}", "needs a step of df.http() or df.http_multipart(), not of type SQL"),
    ],
)
def test_wrong_options_are_refused(http: Connection, step: str, options: str, words: str) -> None:
    assert words in message(refusal(http, f"select df.http_options({step}, %s)", options))
