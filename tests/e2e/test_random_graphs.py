"""Random workflows on a real worker do what a small interpreter says: results, errors, effects, names, statuses."""

from __future__ import annotations

import asyncio
import pathlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pg_durable.commands.worker_process import WorkerProcess
from pg_durable.settings import Settings
from pg_durable.worker import Worker
from tests.e2e.interpreter import VARIABLES, Failed, Interpreter, Path, Rows, Text, Tree
from tests.fixtures.budget import within
from tests.fixtures.postgres import Database
from tests.fixtures.workers import worker_process
from tests.fixtures.workflows import Workflows, eventually

SIGNALS = 60  # of each name; a workflow that would take more is not started

NAMES = st.sampled_from(["a", "ab"])
BREAKS = st.sampled_from([None, "7", "out", '{"a": [1.5]}', "$a", "$ab"])
BREAK = st.tuples(st.just("break"), BREAKS)
NOT_TRUE = st.sampled_from([0, None, "f", "0.00", ""])
LEAVES = st.one_of(
    st.just(("sql",)),
    st.just(("sql",)),
    st.just(("sql",)),
    st.tuples(st.just("get"), NAMES),
    st.tuples(st.just("get"), NAMES),
    st.tuples(st.just("signal"), st.sampled_from(["x", "y"])),
    st.one_of(
        st.just(("fail",)),
        st.just(("empty",)),
        st.just(("say",)),
        st.just(("sleep",)),
        st.tuples(st.just("value"), NOT_TRUE | st.just("never")),
        BREAK,
    ),
)
# A loop ends: by one of these conditions, or by a break in its body.
CONDITIONS = st.one_of(
    st.just(("empty",)),
    BREAK,
    st.tuples(st.just("value"), NOT_TRUE),
    st.just(("if", ("count", 2), ("empty",), ("sql",))),
    st.just(("if", ("count", 3), ("value", None), ("sleep",))),
)


def until_broken(body: Tree, rounds: int, text: str | None) -> Tree:
    """A loop that only a break ends."""
    check = ("if", ("count", rounds), ("break", text), ("sql",))
    return ("loop", ("then", body, check), None)


def composites(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    bound = st.tuples(st.just("as"), NAMES, inner)
    return st.one_of(
        st.tuples(st.just("then"), bound, inner),
        st.tuples(st.just("then"), inner, inner),
        st.tuples(st.just("if"), inner, inner, inner),
        st.tuples(st.just("if_rows"), NAMES, inner, inner),
        st.tuples(st.just("then"), bound, st.tuples(st.just("if_rows"), NAMES, inner, inner)),
        st.tuples(st.just("join"), inner, bound),
        st.tuples(st.just("join"), inner, inner, inner),
        st.tuples(st.just("join"), bound, inner, bound, inner),
        bound,
        st.tuples(st.just("race"), st.sampled_from(["left", "right"]), inner, inner),
        st.tuples(st.just("loop"), inner, CONDITIONS),
        st.builds(until_broken, inner, st.integers(1, 2), BREAKS),
    )


TREES = st.recursive(LEAVES, composites, max_leaves=8)


def numbered(tree: Tree, numbers: Iterator[int]) -> Tree:
    """The same tree with a number for every leaf, in reading order."""
    match tree:
        case ("as", name, inner):
            return ("as", name, numbered(inner, numbers))
        case ("then" | "if" | "if_rows" | "join" | "race" | "loop" as kind, *parts):
            return (kind, *(numbered(p, numbers) if isinstance(p, tuple) else p for p in parts))
        case (kind, *rest):
            return (kind, next(numbers), *rest)
    raise AssertionError(tree)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def step(number: int, value: str) -> str:
    return "df.sql({})".format(
        quoted(
            f"insert into effects values ('{{sys_instance_id}}', {number}) returning {value} as v"
        )
    )


def leaf(tree: Tree) -> str:
    match tree:
        case ("sql", number):
            return step(number, str(number))
        case ("fail", _):
            return "df.sql('select 1/0')"
        case ("empty", number):
            return f"df.sql('with e as (insert into effects values (''{{sys_instance_id}}'', {number})) select 1 as v where false')"
        case ("value", number, None):
            return step(number, "null::text")
        case ("value", number, value):
            return step(number, quoted(value) if isinstance(value, str) else str(value))
        case ("get", number, name):
            # In a string an unknown name is seen as it stands.
            return step(number, quoted(f"${name}"))
        case ("say", number):
            return step(number, quoted("{who}/{sys_label}/{nobody}"))
        case ("count", number, rounds):
            before = f"(select count(*) from effects where instance = '{{sys_instance_id}}' and number = {number})"
            return step(number, f"{before} + 1 >= {rounds}")
        case ("sleep", _):
            return "df.sleep(0)"
        case ("signal", _, name):
            return f"df.wait_for_signal('{name}')"
        case ("late", _):
            return "df.wait_for_signal('never', 1)"
        case ("break", _, text):
            return "df.break()" if text is None else f"df.break({quoted(text)})"
    raise AssertionError(tree)


def expression(tree: Tree) -> str:
    """The tree in the DSL."""
    match tree:
        case ("as", name, inner):
            return f"df.as({expression(inner)}, '{name}')"
        case ("then", first, second):
            return f"df.seq({expression(first)}, {expression(second)})"
        case ("if", condition, yes, no):
            return f"df.if({expression(condition)}, {expression(yes)}, {expression(no)})"
        case ("if_rows", name, yes, no):
            return f"df.if_rows('{name}', {expression(yes)}, {expression(no)})"
        case ("join", *branches):
            function = "df.join3" if len(branches) == 3 else "df.join"
            return f"{function}({', '.join(map(expression, branches))})"
        case ("race", side, winner, loser):
            pair = [expression(winner), f"df.seq(df.sleep(600), {expression(loser)})"]
            return f"df.race({', '.join(pair if side == 'left' else pair[::-1])})"
        case ("loop", body, None):
            return f"df.loop({expression(body)})"
        case ("loop", body, condition):
            return f"df.loop({expression(body)}, {expression(condition)})"
    return leaf(tree)


def agrees(expected: Any, document: Any) -> bool:
    """Whether a result document is what the interpreter says."""
    match expected:
        case Rows(values=values):
            found = [row["v"] for row in document["rows"]]
            return len(found) == len(values) and all(map(agrees, values, found))
        case Text():
            return isinstance(document, str)
        case list():
            same = isinstance(document, list) and len(document) == len(expected)
            return same and all(map(agrees, expected, document))
        case _:
            return type(expected) is type(document) and bool(expected == document)


def shown_statuses(workflows: Workflows, instance: str) -> dict[Path, str]:
    """What df.instance_nodes shows, by where the node is in the tree."""
    children = workflows.all(
        "select n.id, c.id from df.nodes n"
        " cross join lateral df._children(n.node_type, n.query, n.left_node, n.right_node) c"
        " where n.instance_id = %s order by n.id, c.place",
        instance,
    )
    below: dict[str, list[str]] = {}
    for parent, child in children:
        below.setdefault(parent, []).append(child)
    nodes = workflows.all(
        "select node_id, node_type, query, inferred_status from df.instance_nodes(%s)", instance
    )
    facts = {node: (kind, query or "", status) for node, kind, query, status in nodes}
    shown: dict[Path, str] = {}

    def visit(node: str, path: Path) -> None:
        kind, query, shown[path] = facts[node]
        first = 2 if kind == "IF" and "result_has_rows" in query else 1  # it has no condition node
        for place, child in enumerate(below.get(node, []), start=first):
            visit(child, (*path, place))

    visit(workflows.one("select root_node from df.instances where id = %s", instance), ())
    return shown


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


@pytest.fixture
def mortal(installed: Database, tmp_path: pathlib.Path) -> Iterator[WorkerProcess]:
    """A worker that can be killed, with leases that end soon."""
    leases = {"activity_lease": "1", "turn_lease": "1", "shutdown_grace": "0.5"}
    with worker_process(installed.dsn, tmp_path / "worker.log", **leases) as process:
        yield process


@pytest.fixture
def quick_loops(workflows: Workflows) -> None:
    workflows.run("insert into df._settings values ('min_loop_interval_ms', '0')")
    workflows.run("create table effects (instance text, number int)")
    for name, value in VARIABLES.items():
        workflows.one("select df.setvar(%s, %s)", name, value)


SEND = "select count(df.signal(%s, name, n::text)) from generate_series(%s::int, %s::int) n, unnest('{x,y}'::text[]) name"


def begin(workflows: Workflows, tree: Tree, label: str) -> str:
    """Start the workflow with a few signals already sent, in the same transaction."""
    with workflows.connection.transaction():
        instance = workflows.start(expression(tree), label)
        workflows.one(SEND, instance, 1, 2)
    return instance


def check(workflows: Workflows, tree: Tree, instance: str, interpreter: Interpreter) -> None:
    expected = interpreter.outcome(tree)
    if interpreter.signals_taken:
        with suppress(psycopg.Error):  # it may have ended without them
            workflows.one(SEND, instance, 3, SIGNALS)
    status = workflows.wait(instance, timeout_s=40)
    if isinstance(expected, Failed):
        assert status == "failed", tree
        assert str(workflows.error(instance)).startswith(str(expected)), tree
    else:
        assert status == "completed", (tree, workflows.error(instance))
        result = workflows.one("select df.result(%s)::jsonb", instance)
        assert agrees(expected, result), (tree, expected, result)
    rows = workflows.all("select number from effects where instance = %s", instance)
    assert Counter(number for (number,) in rows) == +interpreter.effects, tree
    shown = shown_statuses(workflows, instance)
    allowed = {path: interpreter.statuses.get(path, {"skipped"}) for path in shown}
    wrong = {
        path: (shown[path], allowed[path]) for path in shown if shown[path] not in allowed[path]
    }
    assert not wrong, (tree, wrong)
    assert set(interpreter.statuses) <= set(shown), tree


def compare(
    workflows: Workflows, trees: list[Tree], meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Run all at once; each does what the interpreter says, and none leaves anything behind."""
    started = []
    for number, tree in enumerate(numbered(tree, count(1)) for tree in trees):
        foresight = Interpreter()
        foresight.outcome(tree)
        if foresight.signals_taken < SIGNALS:
            label = f"L{number}"
            started.append((tree, begin(workflows, tree, label), Interpreter(label)))
    meanwhile()
    for tree, instance, interpreter in started:
        check(workflows, tree, instance, interpreter)
    assert workflows.one("select count(*) from df._signal_waiters") == 0
    assert workflows.one("select count(*) from duroxide.worker_queue") == 0


RULES = settings(
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a step towards a smaller example takes seconds
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(RULES, max_examples=8, derandomize=True)
@given(trees=st.lists(TREES, min_size=8, max_size=16))
@pytest.mark.usefixtures("busy_worker", "quick_loops")
def test_random_workflows_do_what_the_interpreter_says(
    workflows: Workflows, trees: list[Tree]
) -> None:
    compare(workflows, trees)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(RULES, max_examples=300)
@given(
    trees=st.lists(
        st.recursive(LEAVES | st.just(("late",)), composites, max_leaves=14),
        min_size=8,
        max_size=16,
    )
)
@pytest.mark.usefixtures("busy_worker", "quick_loops")
@within(minutes=30)
def test_many_and_larger_random_workflows_do_as_well(
    workflows: Workflows, trees: list[Tree]
) -> None:
    compare(workflows, trees)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(RULES, max_examples=60)
@given(trees=st.lists(TREES, min_size=8, max_size=16), effects=st.integers(0, 40))
@pytest.mark.usefixtures("quick_loops")
@within(minutes=30)
def test_a_worker_that_is_killed_in_the_middle_makes_no_difference(
    workflows: Workflows, mortal: WorkerProcess, trees: list[Tree], effects: int
) -> None:
    """Killed after so many effects, or when nothing happens any more."""
    count_effects = "select count(*) from effects"
    before = workflows.one(count_effects)

    def kill() -> None:
        with suppress(AssertionError):
            eventually(
                lambda: workflows.one(count_effects) - before >= effects,
                timeout_s=0.5,
                what="so many",
            )
        mortal.kill()
        mortal.start()

    compare(workflows, trees, kill)
