"""A worker dies by SIGKILL at each point of its work; another one ends the workflow, each effect once.

The matrix of df-execution 10.7: the points are requests on the wire, so the tests know nothing of the code
that sends them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from tests.crash.auditor import TABLES, audit, leftovers
from tests.crash.receiver import http_settings, receiver, request
from tests.crash.trap import Moment, Trap
from tests.crash.worker_main import start_worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually

LEASE_S = 1.0
BEFORE, BEFORE_COMMIT, AFTER = Moment.BEFORE, Moment.BEFORE_COMMIT, Moment.AFTER


def effect(step: str) -> str:
    return f"$$insert into effects (workflow, step) values ('{{sys_instance_id}}', '{step}')$$"


NEXT = (
    "$$insert into effects (workflow, step) select '{sys_instance_id}', 'round ' || count(*)"
    " from effects where workflow = '{sys_instance_id}' and starts_with(step, 'round')$$"
)
THRICE = "$$select count(*) < 3 from effects where workflow = '{sys_instance_id}' and starts_with(step, 'round')$$"
ROUNDS = ("round 0", "round 1", "round 2")


@dataclass(frozen=True)
class Scenario:
    workflow: str
    steps: tuple[str, ...]
    end: str = "completed"


AHEAD = f"$$/*two*/ {effect('two').removeprefix('$$')}"
SCENARIOS = {
    "ahead": Scenario(f"{effect('one')} ~> {AHEAD}", ("one", "two")),
    "sequence": Scenario(f"{effect('one')} ~> {effect('two')}", ("one", "two")),
    "loop": Scenario(f"df.loop({NEXT}, {THRICE})", ROUNDS),
    "nested loop": Scenario(
        f"{effect('one')} ~> df.loop({NEXT}, {THRICE}) ~> {effect('two')}", ("one", *ROUNDS, "two")
    ),
    "signal": Scenario(f"df.wait_for_signal('go') ~> {effect('one')}", ("one",)),
    "time-out": Scenario(f"df.wait_for_signal('never', 1) ~> {effect('one')}", ("one",)),
    "race": Scenario(f"({effect('one')} | df.sleep(600)) ~> {effect('two')}", ("one", "two")),
    "join": Scenario(
        f"({effect('one')} & {effect('two')}) ~> {effect('end')}", ("one", "two", "end")
    ),
}

FINISH, CLAIM, GIVE_UP = b"_finish_step_v1(", b"df._claim_signal_v1(", b"_unclaim_signal_v1("
FIRST_TEXT, TURN = b"insert into effects", b"execute-sql"
SECOND_TEXT = b"df.iteration = 0;/*two*/"  # while the turn is committed that adds the step
POINTS: dict[str, tuple[str, bytes, Moment]] = {
    "after the lease of a step": ("sequence", FIRST_TEXT, BEFORE),
    "after the text of a step": ("sequence", FIRST_TEXT, AFTER),
    "before a text runs ahead of its turn": ("ahead", SECOND_TEXT, BEFORE),
    "after a text ran ahead of its turn": ("ahead", SECOND_TEXT, AFTER),
    "before a step is finished": ("sequence", FINISH, BEFORE),
    "before the COMMIT of a step": ("sequence", FINISH, BEFORE_COMMIT),
    "after the COMMIT of a step": ("sequence", FINISH, AFTER),
    "in a turn": ("sequence", b"from df._snapshots", BEFORE),
    "before a turn is committed": ("sequence", TURN, BEFORE),
    "after a turn was committed": ("sequence", TURN, AFTER),
    "before a child starts": ("nested loop", b"execute-subtree", BEFORE),
    "after a child was started": ("nested loop", b"execute-subtree", AFTER),
    "before the next iteration": ("loop", b"ContinueAsNew", BEFORE),
    "after the next iteration began": ("loop", b"ContinueAsNew", AFTER),
    "before the next iteration inside": ("nested loop", b"ContinueAsNew", BEFORE),
    "before a signal is claimed": ("signal", CLAIM, BEFORE),
    "after a signal was claimed": ("signal", CLAIM, AFTER),
    "before a wait is given up": ("time-out", GIVE_UP, BEFORE),
    "after a wait was given up": ("time-out", GIVE_UP, AFTER),
    "in a race": ("race", FINISH, AFTER),
    "in a join": ("join", FINISH, BEFORE_COMMIT),
}
SAMPLE = {
    "before the COMMIT of a step",
    "after the COMMIT of a step",
    "after a text ran ahead of its turn",
}


@pytest.fixture(autouse=True)
def tables(workflows: Workflows) -> None:
    workflows.run(TABLES)
    workflows.run("insert into df._settings values ('min_loop_interval_ms', '0')")


@contextmanager
def running(dsn: str, log: Path, **settings: Any) -> Iterator[BaseProcess]:
    """A worker process with short leases, ended with the block."""
    worker = start_worker(
        dsn, str(log), activity_lease=LEASE_S, turn_lease=LEASE_S, poll_interval=0.5, **settings
    )
    try:
        yield worker
    except BaseException:
        print("\n".join(log.read_text().splitlines()[-60:] if log.exists() else []))
        raise
    finally:
        if worker.is_alive():
            worker.terminate()
            worker.join(10)
        if worker.is_alive():
            worker.kill()
            worker.join()


@contextmanager
def killed_at(
    point: bytes, moment: Moment, dsn: str, log: Path, **settings: Any
) -> Iterator[BaseProcess]:
    """A worker that dies at that point, which must come in the block."""

    def kill() -> None:
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)

    with Trap(point, moment, kill).to(dsn) as trap, running(trap.dsn, log, **settings) as victim:
        yield victim
        assert trap.is_sprung.wait(20), "the worker never came to that point"
        victim.join(10)
        assert victim.exitcode == -signal.SIGKILL


def all_clean(
    workflows: Workflows, expected: list[tuple[str, str]], end: str = "completed"
) -> None:
    found = audit(workflows.connection, expected, end=end)
    assert found.is_clean, found
    eventually(
        lambda: not leftovers(workflows.connection, lease_s=LEASE_S), what="nothing is left behind"
    )
    wrong = workflows.all(
        "select i.id, n.node_type, n.inferred_status from df.instances i, df.instance_nodes(i.id) n"
        " where n.inferred_status not in ('completed', 'cancelled', 'skipped')"
    )
    assert wrong == []


@pytest.mark.parametrize(
    "point",
    [pytest.param(name, marks=[] if name in SAMPLE else [pytest.mark.long]) for name in POINTS],
)
def test_a_worker_that_dies_costs_nothing(
    installed: Database, workflows: Workflows, tmp_path: Path, point: str
) -> None:
    """df-execution 12.27: each point."""
    name, bytes_, moment = POINTS[point]
    scenario = SCENARIOS[name]
    log = tmp_path / "worker.log"
    with killed_at(bytes_, moment, installed.dsn, log):
        instance = workflows.start(scenario.workflow)
    if name == "signal":
        workflows.one("select df.signal(%s, 'go')", instance)
    with running(installed.dsn, log):
        assert workflows.wait(instance) == scenario.end, workflows.error(instance)
        all_clean(workflows, [(instance, step) for step in scenario.steps])


@pytest.mark.long
def test_a_worker_that_dies_in_the_middle_of_a_statement_costs_nothing(
    installed: Database, workflows: Workflows, tmp_path: Path
) -> None:
    """df-execution 12.27: mid-statement."""
    log = tmp_path / "worker.log"
    slow = "$$insert into effects (workflow, step) select '{sys_instance_id}', 'one' from pg_sleep(1)$$"
    with running(installed.dsn, log) as victim:
        instance = workflows.start(slow)
        active = "select count(*) from pg_stat_activity where query like '%%pg_sleep(1)%%' and wait_event = 'PgSleep'"
        eventually(lambda: workflows.one(active) == 1, what="the statement runs")
        victim.kill()
        victim.join()
    with running(installed.dsn, log):
        assert workflows.wait(instance) == "completed"
        all_clean(workflows, [(instance, "one")])


@pytest.mark.long
@pytest.mark.parametrize("moment", [BEFORE, AFTER], ids=["before", "after"])
def test_a_worker_that_dies_as_a_workflow_is_cancelled_leaves_it_cancelled(
    installed: Database, workflows: Workflows, tmp_path: Path, moment: Moment
) -> None:
    """df-execution 12.27: during cancel."""
    log = tmp_path / "worker.log"
    with killed_at(b"OrchestrationCancelRequested", moment, installed.dsn, log):
        instance = workflows.start(f"{effect('one')} ~> 'select pg_sleep(60)' ~> {effect('two')}")
        active = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
        eventually(lambda: workflows.one(active) == 1, what="the statement runs")
        workflows.one("select df.cancel(%s, 'enough')", instance)
    with running(installed.dsn, log):
        engine = "select count(*) from duroxide.instances where completed_at is null"
        eventually(lambda: workflows.one(engine) == 0, what="the engine has ended it")
        eventually(lambda: workflows.one(active) == 0, timeout_s=30, what="the statement ended")
        all_clean(workflows, [(instance, "one")], end="cancelled")


@pytest.mark.long
@pytest.mark.parametrize("moment", [BEFORE, AFTER], ids=["before", "after"])
def test_a_worker_that_dies_in_a_sweep_leaves_it_to_the_next(
    installed: Database, workflows: Workflows, tmp_path: Path, moment: Moment
) -> None:
    """df-execution 12.27: during retention."""
    log = tmp_path / "worker.log"
    with running(installed.dsn, log):
        old, new = (workflows.start(effect("one")) for _ in range(2))
        for instance in (old, new):
            assert workflows.wait(instance) == "completed"
    workflows.run(f"update df.instances set completed_at = '2000-01-01' where id = '{old}'")
    with killed_at(
        b"delete from df._snapshots", moment, installed.dsn, log, reconcile_interval=0.2
    ):
        pass
    left = "select array_agg(id) from df.instances"
    with running(installed.dsn, log, reconcile_interval=0.2):
        eventually(lambda: workflows.one(left) == [new], what="only the new one is left")
    for table, column in (
        ("df.nodes", "instance_id"),
        ("df._snapshots", "instance_id"),
        ("duroxide.instances", "instance_id"),
    ):
        assert workflows.all(f"select distinct {column} from {table}") == [(new,)]


@pytest.mark.parametrize(
    "answered",
    [False, pytest.param(True, marks=pytest.mark.long)],
    ids=["not answered", "answered"],
)
def test_a_request_that_is_sent_again_carries_the_same_key(
    installed: Database, workflows: Workflows, tmp_path: Path, answered: bool
) -> None:
    """df-execution 12.27: HTTP. df-execution 12.31: stable key."""
    log = tmp_path / "worker.log"
    victims: list[BaseProcess] = []

    def kill_the_first(workflow: str, key: str) -> None:
        if victims and not answered:
            victims.pop().kill()

    asked = ("ask",)
    with receiver(installed.dsn, before_the_answer=kill_the_first) as port:
        web = http_settings(port)
        expression = f"{effect('one')} ~> {request(port, 'ask')} ~> {effect('two')}"
        if answered:  # it has the answer, and dies before it could record it
            with killed_at(b"ActivityCompleted", BEFORE, installed.dsn, log, **web):
                instance = workflows.start(
                    f"{request(port, 'ask')} ~> {effect('one')} ~> {effect('two')}"
                )
        else:
            with running(installed.dsn, log, **web) as first:
                victims.append(first)
                instance = workflows.start(expression)
                first.join(20)
                assert first.exitcode == -signal.SIGKILL
        with running(installed.dsn, log, **web):
            assert workflows.wait(instance) == "completed", workflows.error(instance)
    found = audit(
        workflows.connection,
        [(instance, step) for step in ("one", "two")],
        [(instance, step) for step in asked],
    )
    assert found.is_clean, found
    assert workflows.one("select count(*) from requests") == 2
    assert workflows.one("select count(distinct key) from requests") == 1


@pytest.mark.long
def test_a_worker_that_is_stopped_beyond_its_leases_and_goes_on_does_no_harm(
    installed: Database, workflows: Workflows, tmp_path: Path
) -> None:
    """df-execution 12.27: paused beyond the lease, two workers."""
    log = tmp_path / "worker.log"
    slow = "$$insert into effects (workflow, step) select '{sys_instance_id}', 'one' from pg_sleep(0.3)$$"
    with running(installed.dsn, log) as first:
        started = [workflows.start(f"{slow} ~> {effect('two')}") for _ in range(10)]
        active = "select count(*) from pg_stat_activity where query like '%%pg_sleep(0.3)%%' and wait_event = 'PgSleep'"
        eventually(lambda: workflows.one(active) > 5, what="it is busy")
        assert first.pid is not None
        os.kill(first.pid, signal.SIGSTOP)
        try:
            with running(installed.dsn, log):
                for instance in started:
                    assert workflows.wait(instance) == "completed", workflows.error(instance)
        finally:
            os.kill(first.pid, signal.SIGCONT)
        again = workflows.start(effect("one") + " ~> " + effect("two"))
        assert workflows.wait(again) == "completed"  # it works on
        expected = [(i, step) for i in (*started, again) for step in ("one", "two")]
        all_clean(workflows, expected)


@pytest.mark.long
def test_the_server_ends_the_session_of_a_step_and_the_step_happens_once(
    installed: Database, workflows: Workflows, tmp_path: Path
) -> None:
    """df-execution 12.27: session ended."""
    slow = "$$insert into effects (workflow, step) select '{sys_instance_id}', 'one' from pg_sleep(0.5)$$"
    with running(installed.dsn, tmp_path / "worker.log"):
        instance = workflows.start(f"{slow} ~> {effect('two')}")
        end = (
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where query like '%%pg_sleep(0.5)%%' and wait_event = 'PgSleep'"
        )
        eventually(lambda: workflows.one(end) == 1, what="the step's session was ended")
        assert workflows.wait(instance) == "completed", workflows.error(instance)
        all_clean(workflows, [(instance, "one"), (instance, "two")])


@pytest.mark.long
@pytest.mark.parametrize("minutes", [-5, 5])
def test_a_worker_whose_clock_is_wrong_does_the_same(
    installed: Database, workflows: Workflows, tmp_path: Path, minutes: int
) -> None:
    """df-execution 12.27: clock skew."""
    with running(installed.dsn, tmp_path / "worker.log", clock_is_off_by_s=60 * minutes):
        began = time.monotonic()
        started = [
            workflows.start(f"{effect('one')} ~> df.sleep(1) ~> {effect('two')}"),
            workflows.start(
                f"df.wait_for_signal('never', 1) ~> {effect('one')} ~> {effect('two')}"
            ),
        ]
        for instance in started:
            assert workflows.wait(instance) == "completed", workflows.error(instance)
        assert time.monotonic() - began >= 1
        all_clean(workflows, [(i, step) for i in started for step in ("one", "two")])
