"""Workers die by SIGKILL at random instants; every effect happens once, and nothing is left behind.

The auditor reads the table that the steps append to, and the tables of df and duroxide, with plain SQL:
it shares no code with what it checks.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.crash.worker_main import start_worker
from tests.fixtures.postgres import Database
from tests.fixtures.workflows import Workflows, eventually

KILLS = int(os.environ.get("PG_DURABLE_KILLS", "50"))  # make chaos asks for more
WORKERS = 3
LEASE_S = 1.0
STEPS = ("one", "two", "three", "four", "five")


# How many effects there are already names the next one.
NEXT_EFFECT = (
    "$$insert into effects (workflow, step) select '{sys_instance_id}',"
    " (array['', 'two', 'three', 'four'])[count(*) + 1]"
    " from effects where workflow = '{sys_instance_id}'$$"
)
FEWER_THAN_FOUR = "$$select count(*) < 4 from effects where workflow = '{sys_instance_id}'$$"
TELL = "$$select df.signal('{sys_instance_id}', 'go', '1')$$"


def effect(step: str, seconds: float) -> str:
    return (
        "'insert into effects (workflow, step) "
        f"select ''{{sys_instance_id}}'', ''{step}'' from pg_sleep({seconds})'"
    )


def expression(chance: random.Random) -> str:
    """The five effects, some slow: in sequence, in branches, in a loop, after a race or a signal."""
    one, two, three, four, five = (effect(step, chance.choice([0, 0, 0.02, 0.2])) for step in STEPS)
    match chance.choice(["sequence", "sequence", "join", "race", "loop", "signal"]):
        case "join":
            return f"{one} ~> df.join3({two}, df.sleep(1) ~> {three}, {four}) ~> {five}"
        case "race":
            return f"{one} ~> ({two} | df.sleep(600)) ~> {three} ~> {four} ~> df.sleep(1) ~> {five}"
        case "loop":
            return f"{one} ~> df.loop({NEXT_EFFECT}, {FEWER_THAN_FOUR}) ~> {five}"
        case "signal":
            return f"{one} ~> {TELL} ~> {two} ~> df.wait_for_signal('go') ~> {three} ~> {four} ~> {five}"
        case _:
            parts = [one, two, three, four, five]
            parts.insert(chance.randrange(1, len(parts)), "df.sleep(1)")
            return " ~> ".join(parts)


class Crowd:
    """A few workers at a time, each replaced as soon as it is killed."""

    def __init__(
        self, dsn: str, log: Path, chance: random.Random, *, two_commits: bool = False
    ) -> None:
        self.two_commits = two_commits
        self.dsn = dsn
        self.log = log
        self.chance = chance
        self.processes: list[BaseProcess] = [self.new() for _ in range(WORKERS)]
        self.kills = 0

    def new(self) -> BaseProcess:
        return start_worker(
            self.dsn,
            str(self.log),
            two_commits=self.two_commits,
            activity_lease=LEASE_S,
            turn_lease=LEASE_S,
            poll_interval=0.5,
            heartbeat_interval=0.5,
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


def test_every_effect_happens_once_whenever_workers_are_killed(
    installed: Database, workflows: Workflows, tmp_path: Path
) -> None:
    seed = int(os.environ.get("PG_DURABLE_SEED") or random.SystemRandom().randrange(10**9))
    print(f"PG_DURABLE_SEED={seed}")
    chance = random.Random(seed)
    workflows.run("create table effects (workflow text, step text, at timestamptz default now())")
    started: list[str] = []
    crowd = Crowd(installed.dsn, tmp_path / "workers.log", chance)
    try:
        while crowd.kills < KILLS:
            started.append(workflows.start(expression(chance)))
            time.sleep(chance.uniform(0.05, 0.4))
            crowd.kill_one()
        open_instances = "select count(*) from df.instances where status not in ('completed')"
        eventually(lambda: workflows.one(open_instances) == 0, timeout_s=30, what="all completed")
    except BaseException:
        print("\n".join((tmp_path / "workers.log").read_text().splitlines()[-60:]))
        raise
    finally:
        crowd.stop()
    audit(workflows, started)
    print(f"{crowd.kills} kills, {len(started)} workflows, {len(started) * len(STEPS)} effects")


def audit(session: Workflows, started: list[str]) -> None:
    """Nothing lost, nothing twice, nothing in disorder, nobody stuck, nothing left in a queue."""
    effects = session.all("select workflow, step from effects")
    expected = Counter({(workflow, step): 1 for workflow in started for step in STEPS})
    assert Counter(effects) == expected
    ends = session.all(
        "select distinct first_value(step) over w, last_value(step) over w from effects"
        " window w as (partition by workflow order by at"
        " rows between unbounded preceding and unbounded following)"
    )
    assert ends == [(STEPS[0], STEPS[-1])]
    stuck = session.all("select id, status from df.instances where status <> 'completed'")
    assert stuck == []
    unfinished = session.all(
        "select instance_id, id, status from df.nodes where status <> 'completed'"
        " and (node_type, coalesce(query, '')) <> ('SLEEP', '600')"  # which lost its race
    )
    assert unfinished == []
    assert session.one("select count(*) from duroxide.orchestrator_queue") == 0
    assert session.one("select count(*) from duroxide.worker_queue") == 0
    leased_beyond_its_time = session.all(
        "select instance_id from duroxide.instance_locks"
        " where locked_until > extract(epoch from clock_timestamp()) * 1000 + %s",
        LEASE_S * 1000,
    )
    assert leased_beyond_its_time == []


def test_the_audit_finds_what_two_commits_instead_of_one_would_do(
    installed: Database, workflows: Workflows, tmp_path: Path
) -> None:
    workflows.run("create table effects (workflow text, step text, at timestamptz default now())")
    crowd = Crowd(installed.dsn, tmp_path / "workers.log", random.Random(1), two_commits=True)
    twice = "select count(*) from effects group by workflow, step having count(*) > 1"
    try:
        while not workflows.all(twice):
            assert crowd.kills < 4 * KILLS, "no duplicate after so many kills"
            workflows.start(" ~> ".join(effect(step, 0) for step in STEPS))
            time.sleep(0.1)
            crowd.kill_one()
    finally:
        crowd.stop()
