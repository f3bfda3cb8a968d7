"""Workers die by SIGKILL at random instants; every effect happens once, and nothing is left behind.

The auditor shares no code with what it checks.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.crash.auditor import TABLES, Effect, audit, leftovers
from tests.crash.receiver import http_settings, receiver, request
from tests.crash.worker_main import start_worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually

KILLS = int(os.environ.get("PG_DURABLE_KILLS", "30"))  # make chaos asks for more
WORKERS = 3
LEASE_S = 1.0
STEPS = ("one", "two", "three", "four", "five")
ASKED = ("ask", "tell")  # of the workflows that send requests


# How many effects there are already names the next one.
NEXT_EFFECT = (
    "$$insert into effects (workflow, step) select '{sys_instance_id}',"
    " (array['', 'two', 'three', 'four'])[count(*) + 1]"
    " from effects where workflow = '{sys_instance_id}'$$"
)
FEWER_THAN_FOUR = "$$select count(*) < 4 from effects where workflow = '{sys_instance_id}'$$"
TELL = "$$select df.signal('{sys_instance_id}', 'go', '1')$$"
KINDS = ("sequence", "join", "race", "loop", "signal", "http")


def effect(step: str, seconds: float = 0) -> str:
    return (
        "'insert into effects (workflow, step) "
        f"select ''{{sys_instance_id}}'', ''{step}'' from pg_sleep({seconds})'"
    )


def expression(kind: str, chance: random.Random, port: int) -> str:
    """The five effects, some slow: in sequence, in branches, in a loop, after a race, a signal or a request."""
    one, two, three, four, five = (effect(step, chance.choice([0, 0, 0.02, 0.2])) for step in STEPS)
    match kind:
        case "join":
            return f"{one} ~> df.join3({two}, df.sleep(1) ~> {three}, {four}) ~> {five}"
        case "race":
            return f"{one} ~> ({two} | df.sleep(600)) ~> {three} ~> {four} ~> df.sleep(1) ~> {five}"
        case "loop":
            return f"{one} ~> df.loop({NEXT_EFFECT}, {FEWER_THAN_FOUR}) ~> {five}"
        case "signal":
            late = "df.wait_for_signal('never', 1)"
            return f"{one} ~> {TELL} ~> {two} ~> df.wait_for_signal('go') ~> {three} ~> {late} ~> {four} ~> {five}"
        case "http":
            ask = request(port, "ask")
            return f"{one} ~> {ask} ~> {two} ~> {three} ~> ({four} & {request(port, 'tell')}) ~> {five}"
        case _:
            parts = [one, two, three, four, five]
            parts.insert(chance.randrange(1, len(parts)), "df.sleep(1)")
            return " ~> ".join(parts)


class Crowd:
    """A few workers at a time, each replaced as soon as it is killed."""

    def __init__(self, dsn: str, log: Path, chance: random.Random, **settings: Any) -> None:
        self.settings = settings
        self.dsn = dsn
        self.log = log
        self.chance = chance
        self.processes: list[BaseProcess] = [self.new() for _ in range(WORKERS)]
        self.kills = 0

    def new(self) -> BaseProcess:
        return start_worker(
            self.dsn,
            str(self.log),
            activity_lease=LEASE_S,
            turn_lease=LEASE_S,
            poll_interval=0.5,
            heartbeat_interval=0.5,
            max_attempts=10_000,  # what is leased when a worker dies is not to blame
            **self.settings,
        )

    def kill_one(self) -> None:
        place = self.chance.randrange(len(self.processes))
        victim = self.processes[place]
        victim.kill()
        victim.join()
        assert victim.exitcode == -9, "the worker had ended by itself; see its log"
        self.processes[place] = self.new()
        self.kills += 1

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(15)
            if process.exitcode is None:
                process.kill()


def given_seed() -> int:
    seed = int(os.environ.get("PG_DURABLE_SEED") or random.SystemRandom().randrange(10**9))
    print(f"PG_DURABLE_SEED={seed}")
    return seed


def print_what_is_open(workflows: Workflows) -> None:
    """For whoever has to find out why."""
    unended = "(select id from df.instances where status <> 'completed' order by id limit 5)"
    for question in (
        f"select id, status, error, updated_at, now() from df.instances where id in {unended}",
        f"select instance_id, node_type, query, status, updated_at from df.nodes where instance_id in {unended}",
        "select * from duroxide.orchestrator_queue order by instance_id, id limit 20",
        "select * from duroxide.worker_queue limit 20",
        "select * from duroxide.instance_locks limit 20",
        f"select * from duroxide.history_log where split_part(instance_id, '::', 1) in {unended}",
        "select * from df._signal_waiters limit 20",
        "select pid, application_name, state, wait_event, query from pg_stat_activity"
        " where datname = current_database() and state <> 'idle'",
    ):
        print(question, *workflows.all(question.replace("%", "%%")), sep="\n    ")


def all_end(workflows: Workflows) -> None:
    """Wait until all workflows have ended; they may take their time, but not stand still."""
    state = (
        "select array[count(*) filter (where status in ('pending', 'running')),"
        " (select count(*) from effects), (select count(*) from duroxide.history_log)]"
        " from df.instances"
    )
    while (before := workflows.one(state))[0] > 0:
        eventually(
            lambda: workflows.one(state) != before,
            timeout_s=30,
            what="anything happens",
        )


def test_every_effect_happens_once_whenever_workers_are_killed(
    installed: Database, workflows: Workflows, tmp_path: Path
) -> None:
    """df-execution 12.27: two workers."""
    seed = given_seed()
    chance = random.Random(seed)
    workflows.run(TABLES)
    log = tmp_path / "workers.log"
    started: list[tuple[str, str]] = []
    with receiver(installed.dsn) as port:
        crowd = Crowd(installed.dsn, log, chance, **http_settings(port))
        try:
            while crowd.kills < KILLS:
                kind = KINDS[len(started) % len(KINDS)]
                started.append((workflows.start(expression(kind, chance, port), kind), kind))
                time.sleep(chance.uniform(0.05, 0.4))
                crowd.kill_one()
            all_end(workflows)
        except BaseException:
            print("\n".join(log.read_text().splitlines()[-60:]))
            print_what_is_open(workflows)
            raise
        finally:
            crowd.stop()
    expected = [(workflow, step) for workflow, _ in started for step in STEPS]
    asked = [(workflow, step) for workflow, kind in started if kind == "http" for step in ASKED]
    found = audit(workflows.connection, expected, asked)
    print(
        f"{found.line(seed=seed, faults=crowd.kills)}; of {len(expected)} effects, {len(asked)} requests"
    )
    assert found.is_clean, found
    assert leftovers(workflows.connection, lease_s=LEASE_S) == {}
    assert in_disorder(workflows) == []
    assert unfinished_nodes(workflows) == []


def in_disorder(session: Workflows) -> Sequence[Effect]:
    """Workflows whose first or last effect is another one than it should be."""
    ends = session.all(
        "select distinct first_value(step) over w, last_value(step) over w from effects"
        " window w as (partition by workflow order by at"
        " rows between unbounded preceding and unbounded following)"
    )
    return [(first, last) for first, last in ends if (first, last) != (STEPS[0], STEPS[-1])]


def unfinished_nodes(session: Workflows) -> Sequence[Any]:
    return session.all(
        "select instance_id, id, status from df.nodes where status <> 'completed'"
        " and (node_type, coalesce(query, '')) <> ('SLEEP', '600')"  # which lost its race
    )


def test_the_audit_finds_what_two_commits_instead_of_one_would_do(
    installed: Database, workflows: Workflows, tmp_path: Path
) -> None:
    seed = given_seed()
    workflows.run(TABLES)
    crowd = Crowd(installed.dsn, tmp_path / "workers.log", random.Random(seed), two_commits=True)
    started: list[str] = []
    try:
        while True:
            expected = [(workflow, step) for workflow in started for step in STEPS]
            found = audit(workflows.connection, expected)
            if found.duplicated:
                break
            assert crowd.kills < 4 * KILLS, "no duplicate after so many kills"
            started.append(workflows.start(" ~> ".join(effect(step) for step in STEPS)))
            time.sleep(0.3)
            crowd.kill_one()
        all_end(workflows)
    finally:
        crowd.stop()
    found = audit(workflows.connection, expected)
    print(found.line(seed=seed, faults=crowd.kills))
    assert found.duplicated
    assert (found.lost, found.invented, found.stranded) == ([], [], [])
