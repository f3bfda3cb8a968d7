"""What is made once for each PostgreSQL and then copied: prepared clusters, and the wheel's programs.

Both live in the cache under names that contain a digest of all they depend on, and appear there whole or
not at all. A prepared cluster holds no secret.

Source: docs/reference/embedded.md, rules 23-26.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from duroxide.clock import SystemClock

from .accounts import Account, barrier, run_as
from .errors import EmbeddedServerError, UnusableFolder
from .folders import cache_dir, check_space, give, locked
from .search import WHEEL_PACKAGE, Binaries

SUPERUSER = "postgres"
APPLICATION = "durable"  # role and database; names that begin with pg_ are PostgreSQL's
CACHE_LOCK_S = 120.0
UNUSED_S = 30 * 24 * 3600
HEADER_BYTES = 4096  # of a program; linkers put the id of the build here
TEXTS = ("postgresql.conf", "pg_hba.conf", "roles.sql")


def template(binaries: Binaries, account: Account, environ: Mapping[str, str]) -> Path:
    """Return the prepared cluster for these programs, making it if this is the first time."""
    cache = _cache_for(account, environ)
    key = _digest(_fingerprint(binaries), account.name, *map(text, TEXTS))
    prepared = cache / f"template-{binaries.version}-{key}"
    with locked(cache / "lock", timeout=CACHE_LOCK_S):
        if not prepared.exists():
            _remove_unused(cache)
            check_space(cache)
            with _draft(prepared) as draft:
                give(draft, account)
                _initdb(draft, binaries, account)
        os.utime(prepared)
    return prepared


def reachable_binaries(
    binaries: Binaries, account: Account, environ: Mapping[str, str]
) -> Binaries:
    """Return programs that `account` can run: these, or a copy of the wheel's in the cache.

    Raises:
        UnusableFolder: they are in a closed folder, and not a wheel's, which alone can be copied.
    """
    closed = barrier(binaries.bindir / "postgres", account)
    if closed is None:
        return binaries
    prefix = binaries.bindir.parent
    if prefix.parent.name != WHEEL_PACKAGE:
        raise UnusableFolder(
            binaries.bindir,
            f"can't be used by {account.name!r}, the user that the server runs as: "
            f"{closed} is closed to it",
            "Install PostgreSQL where every user can run it, or pip install 'pg-durable[embedded]'.",
        )
    cache = _cache_for(account, environ)
    copy = cache / f"wheel-{binaries.version}-{_digest(_fingerprint(binaries))}"
    with locked(cache / "lock", timeout=CACHE_LOCK_S):
        if not copy.exists():
            with _draft(copy) as draft:
                _copy_wheel(prefix, draft)
    return replace(binaries, bindir=copy / WHEEL_PACKAGE / prefix.name / "bin")


def single_user(pgdata: Path, binaries: Binaries, account: Account, statements: str) -> None:
    """Run statements, a line each, without a server; the first that fails ends it."""
    run_as(
        account,
        binaries.bindir / "postgres",
        *("--single", "-D", str(pgdata)),
        *("-c", "exit_on_error=on"),
        *("-c", "fsync=off"),  # who calls this syncs the whole folder when it matters
        *("-c", "log_min_error_statement=panic"),  # an error text must not hold a password
        SUPERUSER,
        what="setting up the roles of a cluster",
        stdin=statements,
    )


def sync(pgdata: Path, binaries: Binaries, account: Account) -> None:
    """Wait until all of a cluster that is not running is on disk."""
    initdb = binaries.bindir / "initdb"
    run_as(account, initdb, "--sync-only", "-D", str(pgdata), what="writing a cluster to disk")


def text(name: str) -> str:
    """Return a file of this package."""
    return (files(__package__) / "files" / name).read_text()


def _initdb(pgdata: Path, binaries: Binaries, account: Account) -> None:
    """Make a cluster with our settings, roles and database; nobody knows its passwords."""
    with tempfile.NamedTemporaryFile("w", dir=pgdata.parent) as password:  # 0600
        password.write(secrets.token_urlsafe(24))
        password.flush()
        give(Path(password.name), account)
        run_as(
            account,
            binaries.bindir / "initdb",
            f"--pgdata={pgdata}",
            f"--username={SUPERUSER}",
            f"--pwfile={password.name}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            what=f"making a cluster with {binaries.bindir / 'initdb'}",
        )
    _write(pgdata / "postgresql.conf", text("postgresql.conf"), os.O_APPEND)
    _write(pgdata / "pg_hba.conf", text("pg_hba.conf"), os.O_TRUNC)
    single_user(pgdata, binaries, account, text("roles.sql"))
    sync(pgdata, binaries, account)


def _write(path: Path, content: str, how: int) -> None:
    """Write to a file of the server's user, who can't lead us elsewhere by a link."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | how), "w") as file:
        file.write(content)


def _copy_wheel(prefix: Path, target: Path) -> None:
    """Copy one PostgreSQL of the wheel, and libraries to where its programs look for them."""
    package = prefix.parent
    ignore = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig")
    shutil.copytree(prefix, target / package.name / prefix.name, ignore=ignore)
    for libraries in (package.parent / f"{package.name}.libs", package / ".dylibs"):  # Linux, macOS
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.relative_to(package.parent))
    _open_to_all(target)


@contextmanager
def _draft(final: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `final` when the block succeeds, and vanishes when not."""
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=final.parent))
    try:
        yield draft
        draft.rename(final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _cache_for(account: Account, environ: Mapping[str, str]) -> Path:
    cache = cache_dir(environ)
    closed = barrier(cache, account)
    if closed is not None:
        raise EmbeddedServerError(
            f"the cache {cache} can't be reached by {account.name!r}, the user that the server runs "
            f"as: {closed} is closed to it. Set PG_DURABLE_CACHE_DIR to a folder that it can enter."
        )
    return cache


def _open_to_all(tree: Path) -> None:
    """Let every user read below `tree`, which we made; a umask or a strict source may forbid it."""
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))


def _remove_unused(cache: Path) -> None:
    """Remove what nobody used for a month: clusters for programs that were upgraded, most likely."""
    oldest_s = SystemClock().now_ms() / 1000 - UNUSED_S
    for pattern in ("template-*", "draft-*"):
        for path in cache.glob(pattern):
            if path.stat().st_mtime < oldest_s:
                shutil.rmtree(path, ignore_errors=True)


def _fingerprint(binaries: Binaries) -> str:
    """Return what tells builds of one version apart, wherever they are: their size and build id."""
    program = binaries.bindir / "postgres"
    with program.open("rb") as file:
        return f"{binaries.version} {program.stat().st_size} {file.read(HEADER_BYTES).hex()}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
