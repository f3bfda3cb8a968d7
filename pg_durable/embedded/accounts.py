"""As which operating system user the server runs, and what that user can reach.

PostgreSQL refuses to run as root, so root hands it to an unprivileged user. Nothing here changes the
permissions of a folder that somebody else made.

Source: docs/reference/embedded.md, rules 12-15.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from .errors import EmbeddedServerError, ServerDidNotStart, UnusableFolder

# `postgres` is made for this; `nobody` is on every machine. initdb needs a name for its uid, so a
# number of our own would not do.
UNPRIVILEGED = ("postgres", "nobody")
PASSED_ON = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An operating system user."""

    name: str
    uid: int
    gid: int

    @property
    def is_caller(self) -> bool:
        return self.uid == os.geteuid()


class Credentials(TypedDict, total=False):
    """The arguments of `subprocess` that make a child another user; none for the caller itself."""

    user: int
    group: int
    extra_groups: list[int]


def server_account(pgdata: Path | None) -> Account:
    """Return the user for the server on `pgdata`: its owner, else the caller, or a stand-in for root.

    Args:
        pgdata: may be missing, or None for one that will be made.

    Raises:
        UnusableFolder: `pgdata` belongs to somebody else.
        EmbeddedServerError: the caller is root and there is no unprivileged user.
    """
    caller = os.geteuid()
    owner = _owner(pgdata) if pgdata else None
    if caller != 0:
        if pgdata and owner not in (None, caller):
            raise UnusableFolder(
                pgdata,
                f"belongs to {_account(owner).name!r}",
                f"Run as that user, or name another data folder: you are {_account(caller).name!r}.",
            )
        return _account(caller)
    if owner:
        return _account(owner)
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise EmbeddedServerError(
        "PostgreSQL refuses to run as root, and this system has neither a user 'postgres' nor "
        "'nobody' to run it as. Create one (useradd --system postgres), or run as another user."
    )


def credentials(account: Account) -> Credentials:
    """Return what makes a child process run as `account`, with no group but its own."""
    if account.is_caller:
        return Credentials()
    return Credentials(user=account.uid, group=account.gid, extra_groups=[])


def barrier(path: Path, account: Account) -> Path | None:
    """Return the first folder on the way to `path` that `account` can't enter, or None.

    `path` itself is judged too: a folder by the right to enter it, a program by the right to run it.
    It need not exist yet.
    """
    path = path.absolute()
    real = path.resolve()
    for folder in dict.fromkeys((*reversed(path.parents), path, *reversed(real.parents), real)):
        try:
            status = folder.stat()
        except FileNotFoundError:
            break
        except PermissionError:
            return folder.parent
        if not _may_enter(folder, status, account):
            return folder
    return None


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables for PostgreSQL's programs: no secrets of the caller, no PG*, C messages."""
    environ = os.environ if environ is None else environ
    kept = {name: environ[name] for name in PASSED_ON if name in environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "TZ": "UTC"}


def run_as(account: Account, program: Path, *arguments: str, what: str, stdin: str = "") -> None:
    """Run a program to its end as `account`.

    Raises:
        ServerDidNotStart: it could not run, or failed; `what` says what it was for.
    """
    remedy = "Look at what it said; a folder that it can't use, or a full disk, is the usual cause."
    try:
        done = subprocess.run(
            [str(program), *arguments],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            umask=0o077,
            env=environment(),
            **credentials(account),
        )
    except OSError as error:
        raise ServerDidNotStart(f"{what} failed: {error}", "", remedy) from error
    if done.returncode != 0:
        raise ServerDidNotStart(f"{what} failed", _tail(done.stdout), remedy)


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except FileNotFoundError:
        return None


def _account(uid: int | None) -> Account:
    assert uid is not None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(name=str(uid), uid=uid, gid=os.getegid() if uid == os.geteuid() else uid)
    return Account(name=entry.pw_name, uid=uid, gid=entry.pw_gid)


def _may_enter(folder: Path, status: os.stat_result, account: Account) -> bool:
    if account.is_caller:
        return os.access(folder, os.X_OK)
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
