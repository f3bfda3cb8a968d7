"""The cluster in a data folder: a copy of a prepared one, with passwords of its own.

Source: docs/reference/embedded.md, rules 24-28.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .accounts import Account, credentials, environment
from .errors import ServerDidNotStart, UnusableFolder
from .folders import DataFolder, actionable, check_reach, check_space, give, write_private
from .search import Binaries
from .templates import APPLICATION, SUPERUSER, single_user, sync, template, text


def prepare_cluster(
    folder: DataFolder,
    binaries: Binaries,
    account: Account,
    *,
    keep: bool,
    environ: Mapping[str, str],
) -> None:
    """See to it that `folder` holds a cluster that can be started. The caller holds its lock.

    Args:
        keep: the data shall survive a crash of the machine, and so is written to disk first.

    Raises:
        EmbeddedServerError: no space, no permission, or a program of PostgreSQL failed.
    """
    check_reach(folder.path, account)
    with actionable(folder.path):
        if not folder.pgdata.exists():
            _create(folder, binaries, account, template(binaries, account, environ), keep)
        elif not folder.pgpass.exists():
            _set_passwords(folder, folder.pgdata, binaries, account)


def read_passwords(folder: DataFolder) -> dict[str, str]:
    """Return the password of each role."""
    rows = (line.split(":") for line in folder.pgpass.read_text().splitlines())
    return {role: password for *_, role, password in rows}


def check_version(folder: DataFolder, binaries: Binaries) -> None:
    """Raise UnusableFolder if another major version made the data."""
    made_by = data_major(folder)
    if made_by is not None and made_by != binaries.major:
        raise UnusableFolder(
            folder.path,
            f"was made by PostgreSQL {made_by}, found {binaries.version} in {binaries.bindir}",
            f"Install PostgreSQL {made_by}, name its programs with PG_DURABLE_PG_BINDIR, "
            "or name another data folder.",
        )


def data_major(folder: DataFolder) -> int | None:
    """Return the major version that made the data in `folder`; None if there is none."""
    file = folder.pgdata / "PG_VERSION"
    try:
        return int(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise UnusableFolder(
            folder.path, f"is damaged: {file} is no version", "Restore it, or name another folder."
        ) from None


def _create(
    folder: DataFolder, binaries: Binaries, account: Account, prepared: Path, keep: bool
) -> None:
    """Make the cluster beside its place, so that it appears whole or not at all."""
    check_space(folder.path)
    draft = folder.path / "pgdata.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    give(draft, account)
    _copy_tree(prepared, draft, account)
    _set_passwords(folder, draft, binaries, account)
    if keep:
        sync(draft, binaries, account)
    draft.rename(folder.pgdata)


def _set_passwords(folder: DataFolder, pgdata: Path, binaries: Binaries, account: Account) -> None:
    """Give both roles new random passwords, and write them down in `folder`. No server may run."""
    superuser, application = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    statements = text("passwords.sql").format(superuser=superuser, application=application)
    single_user(pgdata, binaries, account, statements)
    write_private(
        folder.pgpass, f"*:*:*:{SUPERUSER}:{superuser}\n*:*:*:{APPLICATION}:{application}\n"
    )


def _copy_tree(source: Path, target: Path, account: Account) -> None:
    """Copy the content of a folder, sharing blocks and leaving holes where the system can."""
    for options in (["-a", "--reflink=auto", "--sparse=always"], ["-Rp"]):
        done = subprocess.run(
            ["cp", *options, f"{source}/.", str(target)],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=environment(),
            **credentials(account),
        )
        if done.returncode == 0:
            return
    raise ServerDidNotStart(
        f"copying a cluster to {target} failed", done.stderr, "Check permissions and free space."
    )
