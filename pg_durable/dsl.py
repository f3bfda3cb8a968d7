"""Workflows built in Python: the same node text that the functions and operators of `df` give.

    from pg_durable.dsl import sleep, sql

    flow = sql("select 1 as n").named("r") >> sleep(60) >> "insert into t values ($r)"
    connection.execute("select df.start(%s)", [str(flow)])

A step is a value; `str()` of it is its node text. `a >> b` is `a ~> b` of SQL, `&` and `|` are themselves.
A string beside them is SQL text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pg_durable.sqloptions import SqlOptions

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
_MULTIPART_METHODS = ("POST", "PUT", "PATCH")
_HTTP_OPTIONS = ("body_mode", "expect_json", "fail_on", "on_ambiguous", "retry")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a workflow with all below it."""

    node: str  # node text, but for the name and the last brace
    name: str | None = None

    def __str__(self) -> str:
        named = "" if self.name is None else f',"result_name":{_json(self.name)}'
        return f"{self.node}{named}}}"

    def named(self, name: str) -> Step:
        """The step with its result bound to a name: `$name` in later steps, `|=>` of SQL.

        Raises:
            ValueError: the name is not one.
        """
        if _NAME.fullmatch(name) is None:
            raise ValueError(
                f"result name {name!r} is not a valid identifier (must match [a-zA-Z_][a-zA-Z0-9_]*)"
            )
        return replace(self, name=name)

    def __rshift__(self, other: Stepwise) -> Step:
        return seq(self, other)

    def __rrshift__(self, other: Stepwise) -> Step:
        return seq(other, self)

    def __and__(self, other: Stepwise) -> Step:
        return join(self, other)

    def __rand__(self, other: Stepwise) -> Step:
        return join(other, self)

    def __or__(self, other: Stepwise) -> Step:
        return race(self, other)

    def __ror__(self, other: Stepwise) -> Step:
        return race(other, self)


Stepwise: TypeAlias = "Step | str"
"""A step, or SQL text for one."""


def sql(query: str, **options: Any) -> Step:
    """Runs SQL as whoever starts the workflow.

    Args:
        options: as of `SqlOptions`: tx, isolation, timeout_seconds, on_ambiguous ...

    Raises:
        ValueError: an option that does not exist, or a value that it can't have.
    """
    if not options:
        return _node("SQL", query=query)
    SqlOptions.parse(options)
    return Step(f'{_node("SQL", query=query).node},"options":{_jsonb(options)}')


def seq(first: Stepwise, second: Stepwise) -> Step:
    """Runs one, then the other; the result is that of the second."""
    return _node("THEN", left=first, right=second)


def join(*branches: Stepwise) -> Step:
    """Runs all at once; the result is a list in their order."""
    left, right, *extra = _two_or_more("join", branches)
    return _node("JOIN", left=left, right=right, extra=extra)


def race(*branches: Stepwise) -> Step:
    """Runs all at once until the first ends, which may be by failing; the others are cancelled."""
    winner, *others = _two_or_more("race", branches)
    for branch in others:
        winner = _node("RACE", left=winner, right=branch)
    return _step(winner)


def if_(condition: Stepwise, then: Stepwise, otherwise: Stepwise) -> Step:
    """Runs one of two, as the result of the condition says."""
    return _node("IF", left=then, right=otherwise, condition=condition)


def if_rows(result_name: str, then: Stepwise, otherwise: Stepwise) -> Step:
    """Runs one of two: the first if the named result has rows."""
    config = {"condition_type": "result_has_rows", "result_name": result_name}
    return _node("IF", left=then, right=otherwise, query=_json(config))


def loop(body: Stepwise, condition: Stepwise | None = None) -> Step:
    """Repeats the body while the condition, looked at after it, holds; without one until a break."""
    return _node("LOOP", left=body, condition=condition)


def break_(value: str | None = None) -> Step:
    """Ends the nearest loop, whose result the value becomes."""
    return _node("BREAK", query=_json({"break_value": value}))


def sleep(seconds: int) -> Step:
    """Waits; the timer outlives workers and servers."""
    if seconds < 0:
        raise ValueError("Sleep duration must be non-negative")
    return _node("SLEEP", query=str(seconds))


def wait_for_schedule(cron_expr: str, timezone: str | None = None) -> Step:
    """Waits until the next time that a cron expression names; the worker complains of a wrong one.

    Args:
        timezone: an IANA name; None: the setting `workflow_timezone`.
    """
    config = {"cron_expr": cron_expr}
    if timezone is not None:
        config["timezone"] = timezone
    return _node("WAIT_SCHEDULE", query=_json(config))


def wait_for_signal(name: str, timeout_seconds: int | None = None, mode: str = "next") -> Step:
    """Waits for `df.signal`; a time-out is a result, not a failure.

    Args:
        mode: `latest` skips to the newest signal, `future` ignores those that are there already.
    """
    if not name:
        raise ValueError("Signal name cannot be empty")
    if timeout_seconds is not None and timeout_seconds <= 0:
        raise ValueError("Timeout must be positive")
    if mode not in ("next", "latest", "future"):
        raise ValueError(f'Signal mode must be next, latest or future, not "{mode}"')
    config = {"signal_name": name, "timeout_seconds": timeout_seconds}
    return _node("SIGNAL", query=_json(config if mode == "next" else {**config, "mode": mode}))


def http(
    url: str,
    method: str = "POST",
    body: str | None = None,
    headers: Mapping[str, Any] | None = None,
    timeout_seconds: int = 30,
    **options: Any,
) -> Step:
    """Sends a request.

    Args:
        options: as of `df.http_options`: retry, fail_on, expect_json, body_mode, on_ambiguous.

    Raises:
        ValueError: a method or an option that does not exist, or a request that could never be sent.
    """
    checked = _request(url, method, _METHODS, timeout_seconds)
    parts = [
        f'{{"url":{_json(url)},"method":"{checked}","body":{_json(body)}',
        f'"headers":{_jsonb(headers)},"timeout_seconds":{timeout_seconds}',
    ]
    return _node("HTTP", query=",".join([*parts, *_http_options(options)]) + "}")


def http_multipart(
    url: str,
    method: str = "POST",
    parts: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, Any] | None = None,
    timeout_seconds: int = 30,
    **options: Any,
) -> Step:
    """Sends a multipart/form-data request; parts are `{"name", "data_b64", "filename"?, "content_type"?}`.

    Raises:
        ValueError: as of `http`, or there are no parts.
    """
    checked = _request(url, method, _MULTIPART_METHODS, timeout_seconds)
    if not parts or not all({"name", "data_b64"} <= set(part) for part in parts):
        raise ValueError("parts must be some objects with at least name and data_b64")
    config = [
        f'{{"url":{_json(url)},"method":"{checked}","parts":{_jsonb(list(parts))}',
        f'"headers":{_jsonb(headers)},"timeout_seconds":{timeout_seconds}',
    ]
    return _node("HTTP_MULTIPART", query=",".join([*config, *_http_options(options)]) + "}")


def _request(url: str, method: str, methods: Sequence[str], timeout_seconds: int) -> str:
    scheme = url.partition("://")[0].lower()
    if "{" not in url and scheme not in ("http", "https"):
        raise ValueError(
            f"Blocked: unsupported URL scheme '{scheme}'. Only http and https are allowed."
        )
    if method.upper() not in methods:
        raise ValueError(f"Invalid HTTP method: {method}. Must be one of {', '.join(methods)}")
    if timeout_seconds <= 0:
        raise ValueError("Timeout must be positive")
    return method.upper()


def _http_options(options: Mapping[str, Any]) -> list[str]:
    for name in options:
        if name not in _HTTP_OPTIONS:
            raise ValueError(
                f"there is no option {name!r} of HTTP; there are {', '.join(_HTTP_OPTIONS)}"
            )
    return [f"{_json(name)}:{_jsonb(value)}" for name, value in sorted(options.items())]


def _two_or_more(function: str, branches: Sequence[Stepwise]) -> Sequence[Stepwise]:
    if len(branches) < 2:
        raise ValueError(f"{function} needs at least 2 branches, not {len(branches)}")
    return branches


def _step(step: Stepwise) -> Step:
    return sql(step) if isinstance(step, str) else step


def _node(
    node_type: str,
    *,
    left: Stepwise | None = None,
    right: Stepwise | None = None,
    condition: Stepwise | None = None,
    extra: Sequence[Stepwise] = (),
    query: str | None = None,
) -> Step:
    """Node text with its keys in canonical order."""
    text = [f'{{"node_type":"{node_type}"']
    children = {"left_node": left, "right_node": right, "condition_node": condition}
    text += [f'"{key}":{_step(child)}' for key, child in children.items() if child is not None]
    if extra:
        text.append(f'"extra_nodes":[{",".join(str(_step(step)) for step in extra)}]')
    if query is not None:
        text.append(f'"query":{_json(query)}')
    return Step(",".join(text))


def _json(value: Any) -> str:
    """JSON as the builders write it: no blanks, only what must be escaped is."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _jsonb(value: Any) -> str:
    """The same as it comes out of jsonb: keys by length, then by their bytes."""
    match value:
        case Mapping():
            return (
                "{"
                + ",".join(f"{_json(key)}:{_jsonb(item)}" for key, item in _in_order(value))
                + "}"
            )
        case list() | tuple():
            return "[" + ",".join(map(_jsonb, value)) + "]"
        case _:
            return _json(value)


def _in_order(mapping: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(mapping.items(), key=lambda item: (len(item[0].encode()), item[0].encode()))
