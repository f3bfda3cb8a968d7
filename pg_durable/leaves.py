"""Nodes without children: what they ask the engine for, and what their result says."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from duroxide.errors import TaskError
from pg_durable.graph import Node, NodeId, Signal, Sql, WaitSchedule
from pg_durable.httptemplate import HttpRetry, asked_pause_of, asked_pause_s, fill_request
from pg_durable.outcomes import BreakLoop, NodeFailed, Result
from pg_durable.results import Number, encode, json_string, parse
from pg_durable.rolecaps import tag_of
from pg_durable.schedule import next_time
from pg_durable.scope import canonical
from pg_durable.sqloptions import SqlOptions
from pg_durable.substitute import substitute_json, substitute_raw, substitute_sql

if TYPE_CHECKING:
    from pg_durable.walk import Walk

EXECUTE_SQL = "pg_durable::activity::execute-sql"
EXECUTE_HTTP = "pg_durable::activity::execute-http"
CLAIM_SIGNAL = "pg_durable::activity::claim-signal"
UNCLAIM_SIGNAL = "pg_durable::activity::unclaim-signal"
MAX_SLEEP_SECONDS = 100 * 366 * 24 * 3600

Visit: TypeAlias = Generator[NodeId | Awaitable[Any], Any, Result]
"""Yields a child's id, or what to wait for; gets the result; returns that of the node."""


def sql(walk: Walk, node: Node, kind: Sql) -> Visit:
    request: dict[str, Any] = {
        "node_id": node.id,
        "query": substitute_sql(kind.query, walk.bindings(node)),
        "submitted_by": node.submitted_by,
        "database": node.database,
        "stamp": walk.scope.stamp,
    }
    if walk.told.iteration:
        request["iteration"] = walk.told.iteration
    if kind.options != SqlOptions():
        request["options"] = kind.options.document()
    tag = tag_of("sql", node.submitted_by)
    text = yield walk.ctx.call(EXECUTE_SQL, raw_input=canonical(request), tag=tag)
    return Result(text, node.id)  # the step stored it together with its effect


def sleep(walk: Walk, node: Node, seconds: str) -> Visit:
    number = whole_seconds(substitute_raw(seconds, walk.bindings(node)), "sleep duration")
    yield walk.execution.pause.after(walk.ctx.sleep(timedelta(seconds=number)))
    return Result(f'{{"slept": true, "seconds": {number}}}')


def wait_schedule(walk: Walk, node: Node, kind: WaitSchedule) -> Visit:
    """The next match after the recorded clock, computed now and not when the workflow started."""
    limits = walk.told.limits
    due = next_time(
        substitute_raw(kind.expression, walk.bindings(node)),
        walk.ctx.now(),
        timezone=kind.timezone or limits.workflow_timezone,
        dialect=kind.dialect or limits.cron_dialect,
    )
    yield walk.execution.pause.after(walk.ctx.sleep_until(due))
    return Result('{"scheduled": true}')


def break_loop(walk: Walk, node: Node, value: str | None) -> NoReturn:
    """Ends the nearest loop; nothing of the visit is left to do."""
    raise BreakLoop("null" if value is None else substitute_json(value, walk.bindings(node)))


def signal(walk: Walk, node: Node, kind: Signal) -> Visit:
    """The first signal of its name after the last one that this scope took; it may be there already.

    If it is not, a waiter row stands for this wait until the signal comes or the time is over.
    """
    name = substitute_raw(kind.signal_name, walk.bindings(node))
    if not name:
        raise NodeFailed("Signal name cannot be empty")
    if "\0" in name:
        raise NodeFailed("Signal name contains a NUL character")
    seconds = None
    if kind.timeout_seconds is not None:
        text = substitute_raw(kind.timeout_seconds, walk.bindings(node))
        seconds = whole_seconds(text, "signal timeout")
    key = f"{walk.scope.stamp}::{node.id}::{walk.told.iteration}"
    request = {
        "waiter_key": key,
        "instance_id": walk.told.instance_id,
        "name": name,
        "after_seq": walk.cursors.get(name, 0),
        "engine_id": walk.ctx.instance_id,
        "mode": kind.mode,
        "prune": walk.is_alone,
    }
    answer = yield walk.ctx.call(CLAIM_SIGNAL, raw_input=canonical(request))
    if answer == "null":
        walk.execution.open_waits.add(key)
        answer = yield from _await_signal(walk, key, seconds)
        walk.execution.open_waits.discard(key)
    if answer is None:
        return Result(_signal_document(name, "null", timed_out=True))
    match parse(answer):
        case {"seq": Number(text=seq), "data": data}:
            walk.cursors[name] = int(seq)
            return Result(_signal_document(name, encode(data), timed_out=False))
        case _:
            raise NodeFailed(f"signal '{name}' came in a form that this worker does not know")


def _await_signal(walk: Walk, key: str, seconds: int | None) -> Generator[Any, Any, str | None]:
    message = walk.mailbox(key)
    if seconds is None:
        return str((yield message))
    timer = walk.ctx.sleep(timedelta(seconds=seconds))
    first = yield walk.ctx.select(message, walk.execution.pause.after(timer))
    if first.index == 0:
        return str(first.value)
    return (yield from give_up_wait(walk, key))


def give_up_wait(walk: Walk, key: str) -> Generator[Any, Any, str | None]:
    """Remove the waiter; the answer, if it was sent before that.

    The queue of this wait gets one message: the signal, or the word that nobody waits any more.
    """
    request = {"waiter_key": key, "instance_id": walk.told.instance_id}
    yield walk.ctx.call(UNCLAIM_SIGNAL, raw_input=canonical(request))
    walk.execution.open_waits.discard(key)
    answer = str((yield walk.mailbox(key)))
    return None if answer == "null" else answer


def _signal_document(name: str, data: str, *, timed_out: bool) -> str:
    flag = "true" if timed_out else "false"
    return f'{{"signal_name": {json_string(name)}, "timed_out": {flag}, "data": {data}}}'


def http(walk: Walk, node: Node, config: Mapping[str, Any]) -> Visit:
    """A request, repeated by the node's retry policy with recorded timers between the attempts."""
    request = {
        "node_id": node.id,
        "submitted_by": node.submitted_by,
        "config": fill_request(config, walk.bindings(node)),
        "idempotency_key": f"{walk.scope.stamp}:{node.id}",
    }
    policy = HttpRetry.parse(config.get("retry"))
    tag = tag_of("http", node.submitted_by)
    for attempt in range(1, policy.attempts + 1):
        is_last = attempt == policy.attempts
        asked_s = None
        try:
            envelope = yield walk.ctx.call(EXECUTE_HTTP, raw_input=canonical(request), tag=tag)
        except TaskError as error:
            if is_last or not policy.covers(error.data):
                raise
            asked_s = asked_pause_s(error.data)
        else:
            if is_last or not policy.covers_envelope(envelope):
                return Result(envelope)
            asked_s = asked_pause_of(envelope)
        yield walk.ctx.sleep(policy.pause(attempt, asked_s))
    raise AssertionError("unreachable")


def has_rows(results: Mapping[str, str], name: str | None) -> bool:
    """Whether a named SQL result has rows; nothing is run for it."""
    if not name:
        raise NodeFailed("df.if_rows: missing result_name")
    if name not in results:
        raise NodeFailed(f"df.if_rows: result '{name}' not found")
    try:
        document = parse(results[name])
    except ValueError as error:
        raise NodeFailed(f"df.if_rows: invalid result JSON: {error}") from error
    match document:
        case {"row_count": Number(text=text)}:
            return float(text) > 0
        case _:
            raise NodeFailed(f"df.if_rows: result '{name}' is not a SQL result (missing row_count)")


def whole_seconds(text: str, what: str) -> int:
    """Read a duration.

    Raises:
        NodeFailed: it is not a whole number of seconds, or more than 100 years.
    """
    stripped = text.strip()
    if not (stripped.isascii() and stripped.isdecimal()):
        raise NodeFailed(f"Invalid {what}: {text}")
    digits = stripped.lstrip("0")
    if (
        len(digits) > 10 or int(digits or "0") > MAX_SLEEP_SECONDS
    ):  # int() refuses thousands of digits
        raise NodeFailed(f"Invalid {what}: {text:.40} (more than 100 years)")
    return int(digits or "0")
