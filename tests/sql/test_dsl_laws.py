"""Workflows built in Python have the node text that the server builds, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pg_durable import dsl
from pg_durable.dsl import Step
from tests.sql.random_workflows import NAME, STEP, quoted
from tests.sql.sessions import Connection, value

shared_session = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass(frozen=True, slots=True)
class Both:
    """A workflow twice: as SQL to evaluate, and as built in Python."""

    sql: str
    step: Step


def jsonb(document: object) -> str:
    return f"{quoted(json.dumps(document))}::jsonb"


def _sql(text: str) -> Both:
    return Both(f"df.sql({quoted(text)})", dsl.sql(text))


def _with_options(text: str, options: dict[str, Any]) -> Both:
    return Both(f"df.sql({quoted(text)}, {jsonb(options)})", dsl.sql(text, **options))


def _break(text: str | None) -> Both:
    return Both(f"df.break({'' if text is None else quoted(text)})", dsl.break_(text))


def _signal(name: str, timeout: int | None) -> Both:
    argument = "null" if timeout is None else str(timeout)
    return Both(
        f"df.wait_for_signal({quoted(name)}, {argument})", dsl.wait_for_signal(name, timeout)
    )


def _http(body: str | None, headers: dict[str, Any] | None, options: dict[str, Any]) -> Both:
    given_body = "null" if body is None else quoted(body)
    given_headers = "null" if headers is None else jsonb(headers)
    sql = f"df.http('https://a.example/$x', 'put', {given_body}, {given_headers}, 5)"
    step = dsl.http("https://a.example/$x", "put", body, headers, 5, **options)
    return Both(f"df.http_options({sql}, {jsonb(options)})", step)


def _multipart(parts: list[dict[str, str]]) -> Both:
    return Both(
        f"df.http_multipart('http://a.example/', parts => {jsonb(parts)})",
        dsl.http_multipart("http://a.example/", parts=parts),
    )


OPTIONS = st.fixed_dictionaries(
    {"tx": st.sampled_from(["auto", "required"])},
    optional={
        "read_only": st.booleans(),
        "retries": st.integers(0, 20),
        "timeout_seconds": st.sampled_from([1, 1.5, 0.001]),
        "on_ambiguous": st.just("fail"),
    },
)
HEADERS = st.dictionaries(STEP, STEP | st.booleans() | st.lists(STEP, max_size=2), max_size=4)
HTTP_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "retry": st.fixed_dictionaries({"attempts": st.integers(1, 9), "on": st.just([429])}),
        "expect_json": st.booleans(),
        "body_mode": st.just("json"),
    },
)
PARTS = st.lists(
    st.fixed_dictionaries({"name": STEP, "data_b64": STEP}, optional={"filename": STEP}),
    min_size=1,
    max_size=2,
)
LEAVES = st.one_of(
    st.builds(_sql, STEP),
    st.builds(_with_options, STEP, OPTIONS),
    st.integers(0, 2**63 - 1).map(lambda n: Both(f"df.sleep({n})", dsl.sleep(n))),
    st.builds(_break, st.none() | STEP),
    st.builds(_signal, STEP.filter(bool), st.none() | st.integers(1, 2**31 - 1)),
    st.just(Both("df.wait_for_schedule('@daily')", dsl.wait_for_schedule("@daily"))),
    st.just(
        Both(
            "df.wait_for_schedule('@daily', 'Asia/Tokyo')",
            dsl.wait_for_schedule("@daily", "Asia/Tokyo"),
        )
    ),
    st.just(
        Both("df.wait_for_signal('a', 5, 'future')", dsl.wait_for_signal("a", 5, mode="future"))
    ),
    st.builds(_http, st.none() | STEP, st.none() | HEADERS, HTTP_OPTIONS),
    st.builds(_multipart, PARTS),
)
OPERATORS: list[tuple[str, Callable[[Step, Step], Step]]] = [
    ("~>", lambda a, b: a >> b),
    ("&", lambda a, b: a & b),
    ("|", lambda a, b: a | b),
]


def _composed(steps: st.SearchStrategy[Both]) -> st.SearchStrategy[Both]:
    return st.one_of(
        st.builds(
            lambda kind, a, b: Both(f"({a.sql} {kind[0]} {b.sql})", kind[1](a.step, b.step)),
            st.sampled_from(OPERATORS),
            steps,
            steps,
        ),
        st.builds(
            lambda name, all_: Both(
                f"df.{name}({', '.join(each.sql for each in all_)})",
                getattr(dsl, name)(*(each.step for each in all_)),
            ),
            st.sampled_from(["join", "race"]),
            st.lists(steps, min_size=2, max_size=4),
        ),
        st.builds(
            lambda c, t, e: Both(
                f"df.if({c.sql}, {t.sql}, {e.sql})", dsl.if_(c.step, t.step, e.step)
            ),
            steps,
            steps,
            steps,
        ),
        st.builds(
            lambda name, t, e: Both(
                f"df.if_rows({quoted(name)}, {t.sql}, {e.sql})", dsl.if_rows(name, t.step, e.step)
            ),
            STEP,
            steps,
            steps,
        ),
        st.builds(
            lambda body, condition: Both(
                f"df.loop({body.sql}{'' if condition is None else f', {condition.sql}'})",
                dsl.loop(body.step, None if condition is None else condition.step),
            ),
            steps,
            st.none() | steps,
        ),
        st.builds(
            lambda step, name: Both(f"({step.sql} |=> {quoted(name)})", step.step.named(name)),
            steps,
            NAME,
        ),
    )


@shared_session
@given(both=st.recursive(LEAVES, _composed, max_leaves=10))
def test_python_builds_what_the_server_builds(alice_http: Connection, both: Both) -> None:
    assert value(alice_http, f"select {both.sql}") == str(both.step)


@pytest.fixture
def alice_http(owner: Connection) -> Connection:
    """A session that may use df.http."""
    return owner


def test_a_string_beside_a_step_is_sql_on_either_side(owner: Connection) -> None:
    flow = "select 1" >> dsl.sleep(1) >> "select 2"
    assert str(flow) == value(owner, "select 'select 1' ~> df.sleep(1) ~> 'select 2'")
    assert str("a" & dsl.sql("b")) == value(owner, "select 'a' & df.sql('b')")
    assert str("a" | dsl.sql("b")) == value(owner, "select 'a' | df.sql('b')")


def test_a_workflow_built_in_python_can_be_started(owner: Connection) -> None:
    flow = dsl.sql("select 1 as n").named("r") >> "select $r"
    instance = value(owner, "select df.start(%s)", str(flow))
    assert value(owner, "select count(*) from df.nodes where instance_id = %s", instance) == 3


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: dsl.sql("x").named("1st"), "not a valid identifier"),
        (lambda: dsl.sql("x", tx="never"), "tx can't be 'never'"),
        (lambda: dsl.sleep(-1), "must be non-negative"),
        (lambda: dsl.wait_for_signal(""), "cannot be empty"),
        (lambda: dsl.wait_for_signal("x", 0), "must be positive"),
        (lambda: dsl.wait_for_signal("x", mode="last"), "must be next, latest or future"),
        (lambda: dsl.join("x"), "join needs at least 2 branches, not 1"),
        (lambda: dsl.http("ftp://x"), "unsupported URL scheme 'ftp'"),
        (lambda: dsl.http("http://x", "BREW"), "Invalid HTTP method: BREW"),
        (lambda: dsl.http("http://x", color="red"), "no option 'color' of HTTP"),
        (lambda: dsl.http("http://x", timeout_seconds=0), "must be positive"),
        (lambda: dsl.http_multipart("http://x"), "at least name and data_b64"),
    ],
)
def test_what_the_server_would_refuse_is_refused_at_once(
    build: Callable[[], Step], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        build()
