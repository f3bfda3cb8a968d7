"""Workflows at random, as SQL that builds them and as the node text that it must give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import strategies as st
from psycopg.sql import Literal

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
HOSTILE = st.sampled_from(
    ["'", "''", '"', "\\", "\\'", "$$", "$x$;--", "/*", "{", "{}", '{"node_type":"Z"}', "[1]", "\u2028", "\x7f",
     "😀", "a\nb\r\tc", "\x01", "%s", "{name}", "$name", "null", "OK", "", "  ", '{"node_type":7}', "12345678"]
)  # fmt: skip
STEP = TEXT | HOSTILE
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)


@dataclass(frozen=True, slots=True)
class Built:
    """A workflow twice: as SQL to evaluate, and as the node that it must give."""

    sql: str
    node: Mapping[str, object]


def compact(document: object) -> str:
    """JSON as the builders write it: no blanks, only what must be escaped is."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def quoted(text: str) -> str:
    return Literal(text).as_string(None)


def plain(text: str) -> Built:
    return Built(quoted(text), {"node_type": "SQL", "query": text})


def _sql(text: str) -> Built:
    return Built(f"df.sql({quoted(text)})", {"node_type": "SQL", "query": text})


def _sleep(seconds: int) -> Built:
    return Built(f"df.sleep({seconds})", {"node_type": "SLEEP", "query": str(seconds)})


def _break(text: str | None) -> Built:
    argument = "" if text is None else quoted(text)
    return Built(
        f"df.break({argument})", {"node_type": "BREAK", "query": compact({"break_value": text})}
    )


def _signal(name: str, timeout: int | None) -> Built:
    query = compact({"signal_name": name, "timeout_seconds": timeout})
    argument = "NULL" if timeout is None else str(timeout)
    return Built(
        f"df.wait_for_signal({quoted(name)}, {argument})", {"node_type": "SIGNAL", "query": query}
    )


def binary(kind: tuple[str, str, str], a: Built, b: Built, as_operator: bool) -> Built:
    node_type, function, operator = kind
    sql = f"({a.sql} {operator} {b.sql})" if as_operator else f"df.{function}({a.sql}, {b.sql})"
    return Built(sql, {"node_type": node_type, "left_node": a.node, "right_node": b.node})


def _join3(a: Built, b: Built, c: Built) -> Built:
    node = {"node_type": "JOIN", "left_node": a.node, "right_node": b.node, "extra_nodes": [c.node]}
    return Built(f"df.join3({a.sql}, {b.sql}, {c.sql})", node)


def _join(branches: list[Built]) -> Built:
    left, right, *extra = branches
    node = {"node_type": "JOIN", "left_node": left.node, "right_node": right.node}
    return Built(
        f"df.join({', '.join(each.sql for each in branches)})",
        {**node, "extra_nodes": [each.node for each in extra]},
    )


def _race(branches: list[Built]) -> Built:
    node = branches[0].node
    for each in branches[1:]:
        node = {"node_type": "RACE", "left_node": node, "right_node": each.node}
    return Built(f"df.race({', '.join(each.sql for each in branches)})", node)


def _schedule(minute: int, hour: int) -> Built:
    expression = f"{minute} {hour} * * mon-fri"
    return Built(
        f"df.wait_for_schedule('{expression}')",
        {"node_type": "WAIT_SCHEDULE", "query": compact({"cron_expr": expression})},
    )


def _http(path: str, body: str | None, timeout: int) -> Built:
    config = {
        "url": "https://example.com/" + path,
        "method": "PUT",
        "body": body,
        "headers": None,
        "timeout_seconds": timeout,
    }
    said = "NULL" if body is None else quoted(body)
    return Built(
        f"df.http({quoted('https://example.com/' + path)}, 'put', {said}, timeout_seconds => {timeout})",
        {"node_type": "HTTP", "query": compact(config)},
    )


def _if(c: Built, t: Built, e: Built, as_operator: bool) -> Built:
    node = {"node_type": "IF", "left_node": t.node, "right_node": e.node, "condition_node": c.node}
    if as_operator:
        return Built(f"({c.sql} ?> {t.sql} !> {e.sql})", node)
    return Built(f"df.if({c.sql}, {t.sql}, {e.sql})", node)


def _if_rows(name: str, t: Built, e: Built) -> Built:
    query = compact({"condition_type": "result_has_rows", "result_name": name})
    return Built(
        f"df.if_rows({quoted(name)}, {t.sql}, {e.sql})",
        {"node_type": "IF", "left_node": t.node, "right_node": e.node, "query": query},
    )


def _loop(body: Built, condition: Built | None, as_operator: bool) -> Built:
    node: dict[str, object] = {"node_type": "LOOP", "left_node": body.node}
    if condition is not None:
        return Built(
            f"df.loop({body.sql}, {condition.sql})", {**node, "condition_node": condition.node}
        )
    return Built(f"(@> {body.sql})" if as_operator else f"df.loop({body.sql})", node)


def _named(step: Built, name: str, as_operator: bool) -> Built:
    node = {key: item for key, item in step.node.items() if key != "result_name"}
    sql = (
        f"({step.sql} |=> {quoted(name)})" if as_operator else f"df.as({step.sql}, {quoted(name)})"
    )
    return Built(sql, {**node, "result_name": name})


LEAVES = st.one_of(
    STEP.filter(lambda text: not text.startswith("{")).map(plain),
    STEP.map(_sql),
    st.integers(0, 2**63 - 1).map(_sleep),
    st.none().map(_break) | STEP.map(_break),
    st.builds(_signal, STEP.filter(bool), st.none() | st.integers(1, 2**31 - 1)),
    st.builds(_schedule, st.integers(0, 59), st.integers(0, 23)),
    st.builds(_http, STEP, st.none() | STEP, st.integers(1, 2**31 - 1)),
)
KINDS = st.sampled_from([("THEN", "seq", "~>"), ("JOIN", "join", "&"), ("RACE", "race", "|")])


def _composed(steps: st.SearchStrategy[Built]) -> st.SearchStrategy[Built]:
    return st.one_of(
        st.builds(binary, KINDS, steps, steps, st.booleans()),
        st.builds(_join3, steps, steps, steps),
        st.lists(steps, min_size=3, max_size=5).map(_join),
        st.lists(steps, min_size=3, max_size=5).map(_race),
        st.builds(_if, steps, steps, steps, st.booleans()),
        st.builds(_if_rows, STEP, steps, steps),
        st.builds(_loop, steps, st.none() | steps, st.booleans()),
        st.builds(_named, steps, NAME, st.booleans()),
    )


STEPS = st.recursive(LEAVES, _composed, max_leaves=12)
WORKFLOWS = _composed(STEPS)  # a lone literal is not yet node text
