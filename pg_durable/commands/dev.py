"""`pg-durable dev`: a database and a worker, kept running until somebody stops them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from duroxide_pg.migrate import connect
from pg_durable import install
from pg_durable.commands.graphview import mark
from pg_durable.commands.servers import Target, named_target, private_target
from pg_durable.commands.signals import Stopped
from pg_durable.commands.worker_process import WorkerProcess, ended
from pg_durable.embedded import Dsn

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
STABLE_S = 60.0  # a worker that ran for so long is not part of a series of crashes
ASKED_FOR = ("--dsn", "PG_DURABLE_DSN")  # meant for us, unlike DATABASE_URL and libpq's variables


def run_dev(named: Dsn | None, data_dir: Path, console: Console) -> None:
    """Run until a signal asks to stop, and stop the worker and the private server in that order.

    Args:
        named: a server that somebody else runs: only the worker is ours then. None: a private one.
        data_dir: where the private server keeps its data, made if missing, kept for the next time.

    Raises:
        Stopped: while it was still starting.
        SetupError, EmbeddedServerError: it can't start; with the remedy.
    """
    with ExitStack() as stack:
        with console.status("starting PostgreSQL"):
            target = (
                stack.enter_context(private_target(data_dir))
                if named is None
                else named_target(named)
            )
        _done(target.server, console)
        _prepare(target, named, console)
        worker = stack.enter_context(WorkerProcess(target.dsn))
        worker.start()
        _done(f"worker started, process {worker.pid}", console)
        _say_how_to_connect(target, named, console)
        try:
            keep_running(worker, lambda words: console.print(words, style="yellow", soft_wrap=True))
        except Stopped:
            console.print("\nstopping")
    _done("stopped", console)


def keep_running(
    worker: WorkerProcess,
    say: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Start the worker again whenever it ends; never returns.

    Args:
        worker: a running one.
        sleep: waits so many seconds between an end and the next start.
    """
    pauses = delays()
    while True:
        began = time.monotonic()
        status = worker.wait()
        if time.monotonic() - began > STABLE_S:
            pauses = delays()
        pause = next(pauses)
        say(f"the worker {ended(status)}; starting it again in {pause:g} s")
        sleep(pause)
        worker.start()
        say(f"worker started again, process {worker.pid}")


def delays() -> Iterator[float]:
    """Yield the seconds to wait after each of a series of crashes: doubling, up to a limit."""
    delay = FIRST_DELAY_S
    while True:
        yield delay
        delay = min(2 * delay, LONGEST_DELAY_S)


def _prepare(target: Target, named: Dsn | None, console: Console) -> None:
    """Install or upgrade the schemas, except where nobody said that this database is for us."""
    if named is None or named.origin in ASKED_FOR:
        with console.status("installing the schemas"):
            install.install(target.dsn)
        _done("schemas df and duroxide are installed and up to date", console)
    else:
        install.require(target.dsn)


def _say_how_to_connect(target: Target, named: Dsn | None, console: Console) -> None:
    if named is None:  # this DSN is ours to tell: it leads nowhere but to this machine
        psql = shlex.quote(str(target.psql)) if target.psql else "psql"
        console.print(f"\n   DSN   {target.dsn}", soft_wrap=True, highlight=False, markup=False)
        console.print(
            f"   psql  {psql} {shlex.quote(target.dsn)}\n",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    else:
        _warn_superuser(target, console)
    console.print("   Try   SELECT df.start('SELECT 1');\n\nCtrl-C stops it.", highlight=False)


def _warn_superuser(target: Target, console: Console) -> None:
    with connect(target.dsn) as connection:
        if connection.info.parameter_status("is_superuser") == "on":
            console.print(
                "You connect as a superuser, for whom df.start is refused: use an ordinary role.",
                style="yellow",
            )


def _done(words: str, console: Console) -> None:
    console.print(mark("completed", console), words, soft_wrap=True, markup=False)
