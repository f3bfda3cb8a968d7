"""The `pg-durable` command: what can be asked for, and how an answer reaches terminal and script.

Source: docs/reference/cli.md, docs/reference/errors.md.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import click

from pg_durable import install as installation
from pg_durable.commands.about import show_report, show_versions
from pg_durable.commands.demo import run_demo
from pg_durable.commands.dev import run_dev
from pg_durable.commands.health import show_health
from pg_durable.commands.problems import CommandFailed, ExitStatus, describe
from pg_durable.commands.servers import named_server, required_server
from pg_durable.commands.signals import Stopped, stop_on_signals
from pg_durable.commands.terminal import terminal
from pg_durable.embedded import default_data_dir
from pg_durable.settings import Settings

dsn_option = click.option(
    "--dsn",
    metavar="DSN",
    help="The database, as a URL or as key=value. Default: PG_DURABLE_DSN, DATABASE_URL or PGHOST"
    " and its kin. A password on a command line can be seen by others: prefer a variable.",
)
private_option = click.option(
    "--private", is_flag=True, help="Start a PostgreSQL of our own, whatever the environment names."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pg-durable", prog_name="pg-durable")
def cli() -> None:
    """Durable workflows in PostgreSQL."""


@cli.command()
@dsn_option
@private_option
def demo(dsn: str | None, private: bool) -> int:
    """Show a workflow, then kill its worker on the way.

    Without a DSN it starts a private PostgreSQL that is gone afterwards. On a server that is named it
    makes a database of its own and drops it at the end; the role needs CREATEDB.
    """
    _only_one(dsn, private)
    stop_on_signals()
    named = named_server(dsn, private=private)
    return ExitStatus.OK if run_demo(named, terminal()) else ExitStatus.FAILED


@cli.command()
@dsn_option
@private_option
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=default_data_dir,
    show_default=str(default_data_dir()),
    help="Where the private PostgreSQL keeps its data.",
)
def dev(dsn: str | None, private: bool, data_dir: Path) -> int:
    """Keep a PostgreSQL and a worker running for development, until Ctrl-C.

    Without a DSN the PostgreSQL is private too, and keeps its data for the next time. With one, only
    the worker is started; the schemas are installed there if they are missing.
    """
    _only_one(dsn, private)
    stop_on_signals()
    run_dev(named_server(dsn, private=private), data_dir, terminal())
    return ExitStatus.OK


@cli.command()
@dsn_option
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL of a new installation instead.")
@click.option(
    "--operators-in-pg-catalog",
    is_flag=True,
    help="Create the operators in pg_catalog too, for sessions without public in their search_path;"
    " needs a superuser.",
)
def install(dsn: str | None, as_sql: bool, operators_in_pg_catalog: bool) -> None:
    """Create the schemas df and duroxide, or bring them to this release. Safe to repeat."""
    if as_sql and operators_in_pg_catalog:
        raise click.UsageError("--sql and --operators-in-pg-catalog exclude each other")
    if as_sql:
        click.echo(installation.render_sql(), nl=False)
        return
    server = required_server(dsn).dsn
    _tell_installed(installation.install(server))
    if operators_in_pg_catalog:
        created = installation.create_catalog_operators(server)
        click.echo(f"operators created in pg_catalog: {' '.join(created) or 'none were missing'}")


@cli.command()
@dsn_option
def upgrade(dsn: str | None) -> None:
    """Bring the schemas df and duroxide to this release, while workflows run. Safe to repeat."""
    _tell_installed(installation.upgrade(required_server(dsn).dsn))


@cli.command()
@dsn_option
def check(dsn: str | None) -> None:
    """Say whether server, schemas and role will do. Changes nothing."""
    named = required_server(dsn)
    report = installation.check(named.dsn)
    show_report(report, terminal())
    installation.require(named.dsn)
    if report.missing:
        raise CommandFailed(
            f"the schema 'df' is not complete in database {report.database!r}",
            "`pg-durable install` creates operators again; functions are in `pg-durable install --sql`",
        )


@cli.command()
@dsn_option
def health(dsn: str | None) -> int:
    """Say what is wrong with the database or will be soon. Status 1 if anything is."""
    named = required_server(dsn)
    installation.require(named.dsn)
    return ExitStatus.OK if show_health(named.dsn, terminal()) else ExitStatus.FAILED


@cli.command()
@dsn_option
@click.option("--force", is_flag=True, help="Also while workflows are unfinished: they are lost.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def uninstall(dsn: str | None, force: bool, yes: bool) -> None:
    """Remove the schemas df and duroxide, with the record of every workflow."""
    named = required_server(dsn)
    database = installation.check(named.dsn).database
    if not yes and not _confirmed(f"Remove every workflow of database {database!r}?"):
        raise CommandFailed("nothing was removed", "answer yes, or pass --yes")
    installation.uninstall(named.dsn, even_if_unfinished=force)
    click.echo(f"schemas df and duroxide are removed from database {database!r}")


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every field of Settings."""
    for setting in reversed(fields(Settings)):
        kind, default = setting.metadata["kind"], setting.default
        if isinstance(default, bool):
            metavar, shown = "on|off", "on" if default else "off"
        elif isinstance(default, tuple):
            metavar, shown = "WORDS", " ".join(default) or "none"
        else:
            metavar, shown = None, str(default)
        option = click.option(
            "--" + setting.name.replace("_", "-"),
            type=kind,
            metavar=metavar,
            help=f"{setting.metadata['meaning']}  [default: {shown}]",
        )
        command = option(command)
    return command


@cli.command()
@click.option(
    "--dsn",
    "dsns",
    metavar="DSN",
    multiple=True,
    help="As for the other commands; several times for several databases. Each has the limits below"
    " for itself.",
)
@settings_options
@click.option(
    "--until-eof",
    is_flag=True,
    help="Stop when standard input ends: for a supervisor, so that no worker outlives it.",
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    envvar="PG_DURABLE_LOG_LEVEL",
    show_default=True,
    help="How much to write to standard error.",
)
def worker(
    dsns: tuple[str, ...], until_eof: bool, log_level: str, **settings: int | float | str | None
) -> None:
    """Run workflows until Ctrl-C or SIGTERM. Any number of workers may run.

    Options that are numbers of seconds, counts and names are also variables: --activity-lease is
    PG_DURABLE_ACTIVITY_LEASE.
    """
    from pg_durable.commands.worker import run_worker  # the other commands need no engine

    named = [required_server(dsn).dsn for dsn in dsns or (None,)]
    run_worker(named, Settings.load(settings), until_eof=until_eof, log_level=log_level)


@cli.command()
@dsn_option
def version(dsn: str | None) -> None:
    """Print the versions of everything that takes part."""
    show_versions(named_server(dsn), terminal())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; what goes wrong is told on standard error."""
    # What psycopg says of a connection that Ctrl-C found busy is for logs, which only a worker keeps.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    try:
        status = cli.main(arguments, prog_name="pg-durable", standalone_mode=False)
    except click.Abort as abort:  # what click makes of every KeyboardInterrupt, after a new line
        click.echo("pg-durable: stopped", err=True)
        return abort.__cause__.exit_status if isinstance(abort.__cause__, Stopped) else 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        if os.environ.get("PG_DURABLE_DEBUG"):
            traceback.print_exc()
        problem = describe(error)
        click.echo(str(problem), err=True)
        return problem.status
    return int(status or ExitStatus.OK)


def _only_one(dsn: str | None, private: bool) -> None:
    if dsn and private:
        raise click.UsageError("--dsn and --private exclude each other")


def _tell_installed(report: installation.Report) -> None:
    click.echo(
        f"schemas df ({report.df.revision}) and duroxide ({report.engine.revision})"
        f" are installed in database {report.database!r}"
    )


def _confirmed(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort:  # also where nobody can answer
        click.echo(err=True)
        return False
