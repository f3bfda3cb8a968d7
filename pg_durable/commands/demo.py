"""`pg-durable demo`: the example of the README, and a workflow whose worker is killed on the way.

Everything is done as a user would do it: SQL over a connection, the worker a process of its own. What
is claimed is then read back from the tables, and only what was found true counts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version

import psycopg
from rich.console import Console
from rich.table import Table

from pg_durable import install
from pg_durable.commands.graphview import mark
from pg_durable.commands.servers import Target, scratch_target
from pg_durable.commands.stage import Stage, Workflow, is_over, statuses
from pg_durable.commands.worker_process import WorkerProcess
from pg_durable.embedded import Dsn

DOCUMENTS = 250
BATCH = 100
# A dead worker's work is taken over when its lease ends. The defaults of 10 and 30 seconds suit
# production better; nobody wants to watch them pass.
WORKER_OPTIONS = {
    "PG_DURABLE_ACTIVITY_LEASE": "2",
    "PG_DURABLE_TURN_LEASE": "2",
    "PG_DURABLE_POLL_INTERVAL": "0.5",
}

EXAMPLE = """\
SELECT df.start(
    'SELECT id FROM documents WHERE processed = false LIMIT 100' |=> 'batch'
    ~> 'UPDATE documents SET processed = true WHERE id = ANY($batch)'
);"""

STEPS = ("reserve the goods", "charge the card", "pack the parcel", "send the receipt")
ORDER = """\
SELECT df.start(
    'INSERT INTO ledger (step) VALUES (''reserve the goods'')'
    ~> 'INSERT INTO ledger (step) VALUES (''charge the card'')'
    ~> df.sleep(2)
    ~> 'INSERT INTO ledger (step) SELECT ''pack the parcel'' FROM pg_sleep(1)'
    ~> 'INSERT INTO ledger (step) VALUES (''send the receipt'')',
    'order 42'
);"""
# A transaction that is not ours and has begun to write to the ledger: a step under way.
STEP_IS_WRITING = """
select exists (select from pg_locks
               where relation = 'ledger'::regclass and mode = 'RowExclusiveLock')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Something that the demo says, and whether it was so."""

    words: str
    holds: bool


def run_demo(named: Dsn | None, console: Console) -> bool:
    """Show everything, and return whether all of it was true.

    Args:
        named: a server to use, where the demo makes its own database and drops it at the end; None
            is a private server.

    Raises:
        SetupError, EmbeddedServerError, CommandFailed: it could not be shown; with the remedy.
    """
    began = time.monotonic()
    console.print(f"[bold]pg-durable {version('pg-durable')}[/]\n")
    with ExitStack() as stack:
        with console.status("starting PostgreSQL"):
            target = stack.enter_context(scratch_target(named))
        log = stack.enter_context(tempfile.TemporaryFile())
        worker = stack.enter_context(WorkerProcess(target.dsn, options=WORKER_OPTIONS, log=log))
        session = stack.enter_context(psycopg.connect(target.dsn, autocommit=True))
        stage = Stage(console=console, session=session, worker=worker)
        _prepare(stage, target)
        claims = [*_show_example(stage), *_show_crashes(stage)]
    _show_claims(claims, time.monotonic() - began, console)
    return all(claim.holds for claim in claims)


def _prepare(stage: Stage, target: Target) -> None:
    stage.done(target.server)
    for name in target.leftovers:
        stage.done(f"an earlier demo was killed, and left: DROP DATABASE {name};", "cancelled")
    with stage.console.status("installing the schemas"):
        install.install(target.dsn)
    if stage.session.info.parameter_status("is_superuser") == "on":
        # df.start refuses superusers unless somebody allows them: here, in a database of our own.
        stage.session.execute(
            "insert into df._settings values ('enable_superuser_instances', 'on')"
        )
    stage.done("schemas df and duroxide installed: tables and functions, no extension")
    stage.worker.start()
    stage.done(f"worker started as a process of its own, {stage.worker.pid}")


def _show_example(stage: Stage) -> list[Claim]:
    stage.heading("1. A workflow, started in SQL")
    stage.session.execute(
        "create table documents (id bigint primary key, processed boolean not null default false)"
    )
    stage.session.execute("insert into documents (id) select generate_series(1, %s)", [DOCUMENTS])
    stage.say(f"A table has {DOCUMENTS} documents to process. In any SQL session:\n")
    instance = stage.start(EXAMPLE)
    done = stage.watch(instance, "the example ends", is_over)
    processed = stage.value("select count(*) from documents where processed")
    stage.say(f"documents: {processed} processed, {DOCUMENTS} in all")
    return [
        Claim(words="the example completed", holds=done.status == "completed"),
        Claim(words=f"it processed exactly {BATCH} documents", holds=processed == BATCH),
    ]


def _show_crashes(stage: Stage) -> list[Claim]:
    stage.heading("2. The worker is killed, twice")
    stage.session.execute(
        "create table ledger (step text not null, written_at timestamptz default clock_timestamp())"
    )
    stage.say("Each step writes to a ledger that would show if it took effect twice:\n")
    instance = stage.start(ORDER)
    at_kill = stage.watch(instance, "the timer runs", _timer_runs)
    in_timer = _kill(stage, "while the timer runs") and not is_over(at_kill)
    _restart(stage)
    at_kill = stage.watch(
        instance, "a step writes to the ledger", lambda w: _step_is_writing(stage) or is_over(w)
    )
    in_step = _kill(stage, "in the middle of a step that has not committed")
    in_step = in_step and not is_over(at_kill)
    _restart(stage)
    done = stage.watch(instance, "the workflow ends", is_over)
    return [
        Claim(words="the worker was killed with SIGKILL, twice", holds=in_timer and in_step),
        Claim(words="the workflow completed all the same", holds=done.status == "completed"),
        Claim(words="every step took effect exactly once, in order", holds=_show_ledger(stage)),
    ]


def _timer_runs(workflow: Workflow) -> bool:
    return statuses(workflow, "SLEEP") == ["running"] or is_over(workflow)


def _step_is_writing(stage: Stage) -> bool:
    return stage.value(STEP_IS_WRITING) is True


def _kill(stage: Stage, when: str) -> bool:
    """End the worker with SIGKILL, and say whether that is what ended it."""
    pid = stage.worker.pid
    stage.worker.kill()
    stage.done(f"kill -9 {pid}: the worker is gone, {when}", "failed")
    return stage.worker.exit_status == -9


def _restart(stage: Stage) -> None:
    stage.worker.start()
    stage.done(f"worker started again, {stage.worker.pid}\n")


def _show_ledger(stage: Stage) -> bool:
    rows = stage.session.execute("select step from ledger order by written_at").fetchall()
    written = [str(step) for (step,) in rows]
    table = Table("in the ledger", "", box=None, padding=(0, 3))
    for step in dict.fromkeys([*STEPS, *written]):
        table.add_row(step, "once" if written.count(step) == 1 else f"{written.count(step)} times")
    stage.console.print(table)
    return written == list(STEPS)


def _show_claims(claims: Sequence[Claim], seconds: float, console: Console) -> None:
    console.print()
    for claim in claims:
        console.print(mark("completed" if claim.holds else "failed", console), claim.words)
    verdict = "all of it true" if all(claim.holds for claim in claims) else "not all of it was true"
    console.print(f"\n{verdict}, in {seconds:.1f} s")
