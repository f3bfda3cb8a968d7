"""Random workflows on a real worker do what a small interpreter says: results, effects, errors."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.e2e.interpreter import Failed, Interpreter, Tree
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows

NAMES = st.sampled_from(["a", "b"])
LEAVES = st.one_of(
    st.just(("sql",)),
    st.just(("sql",)),
    st.just(("fail",)),
    st.just(("break",)),
    st.tuples(st.just("get"), NAMES),
)


def composites(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.tuples(st.just("then"), inner, inner),
        st.tuples(st.just("then"), inner, inner),
        st.tuples(st.just("if"), st.booleans(), inner, inner),
        st.tuples(st.just("join"), inner, inner),
        st.tuples(st.just("join"), inner, inner, inner),
        st.tuples(st.just("as"), NAMES, inner),
        st.tuples(st.just("race"), inner, inner),
        st.tuples(st.just("loop"), st.integers(1, 2), inner),
    )


TREES = st.recursive(LEAVES, composites, max_leaves=8)


def numbered(tree: Tree, numbers: Iterator[int]) -> Tree:
    """The same tree with a number for every leaf and loop, in reading order."""
    match tree:
        case ("sql" | "fail" | "break" as kind,):
            return (kind, next(numbers))
        case ("get", name):
            return ("get", next(numbers), name)
        case ("loop", rounds, body):
            return ("loop", next(numbers), rounds, numbered(body, numbers))
        case (kind, *parts):
            return (kind, *(numbered(p, numbers) if isinstance(p, tuple) else p for p in parts))
    raise AssertionError(tree)


EFFECT = "insert into effects values ('{{sys_instance_id}}', {number}) returning {value} as v"


def quoted(text: str) -> str:
    return "df.sql('" + text.replace("'", "''") + "')"


def expression(tree: Tree) -> str:
    """The tree in the DSL."""
    match tree:
        case ("sql", number):
            return quoted(EFFECT.format(number=number, value=number))
        case ("fail", _):
            return quoted("select 1/0")
        case ("get", number, name):
            # An unknown name stays text, and in a string that is visible.
            return quoted(EFFECT.format(number=number, value=f"'${name}'"))
        case ("break", number):
            return f"df.break('{number}')"
        case ("as", name, inner):
            return f"df.as({expression(inner)}, '{name}')"
        case ("then", first, second):
            return f"df.seq({expression(first)}, {expression(second)})"
        case ("if", truth, yes, no):
            condition = quoted(f"select {truth}")
            return f"df.if({condition}, {expression(yes)}, {expression(no)})"
        case ("join", *branches):
            function = "df.join3" if len(branches) == 3 else "df.join"
            return f"{function}({', '.join(map(expression, branches))})"
        case ("race", winner, loser):
            return f"df.race({expression(winner)}, df.seq(df.sleep(600), {expression(loser)}))"
        case ("loop", number, rounds, body):
            condition = (
                "with done as ("
                + EFFECT.format(number=number, value=number)
                + ") select count(*) < "
                f"{rounds} from (select 1 from done union all select 1 from effects where "
                f"instance = '{{sys_instance_id}}' and number = {number}) x"
            )
            return f"df.loop({expression(body)}, {quoted(condition)})"
    raise AssertionError(tree)


def plain(document: Any) -> Any:
    """A result document in the interpreter's terms."""
    if isinstance(document, list):
        return [plain(item) for item in document]
    if isinstance(document, dict):
        value = document["rows"][0]["v"]
        return "unbound" if str(value).startswith("$") else value
    return document


def as_values(result: Any) -> Any:
    """In the engine a value that goes through a string is one."""
    if isinstance(result, list):
        return [as_values(item) for item in result]
    return str(result)


@pytest.fixture
def busy_worker(installed: Database) -> Iterator[None]:
    """A worker in a thread of this process."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    worker = Worker(installed.dsn, Settings.load({"shutdown_grace": 1.0}, {}))
    asyncio.run_coroutine_threadsafe(worker.start(), loop).result(20)
    yield
    asyncio.run_coroutine_threadsafe(worker.stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a step towards a smaller example takes seconds
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(trees=st.lists(TREES, min_size=8, max_size=16))
@pytest.mark.usefixtures("busy_worker")
def test_random_workflows_do_what_the_interpreter_says(
    workflows: Workflows, trees: list[Tree]
) -> None:
    workflows.run("create table if not exists effects (instance text, number int)")
    started = []
    for tree in (numbered(tree, count(1)) for tree in trees):
        started.append((tree, workflows.start(expression(tree))))
    for tree, instance in started:
        interpreter = Interpreter()
        status = workflows.wait(instance, timeout_s=30)
        expected = interpreter.outcome(tree)
        if isinstance(expected, Failed):
            assert status == "failed", tree
            assert str(workflows.error(instance)).startswith(str(expected)), tree
        else:
            assert status == "completed", (tree, workflows.error(instance))
            result = workflows.one("select df.result(%s)::jsonb", instance)
            assert as_values(plain(result)) == as_values(expected), tree
        rows = workflows.all("select number from effects where instance = %s", instance)
        assert Counter(number for (number,) in rows) == +interpreter.effects, tree
