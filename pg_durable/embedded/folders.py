"""The data folder of a cluster, the cache, and the lock that decides races.

A data folder is one cluster and all that belongs to it:

    pg-durable.lock   held for moments, by whoever starts or stops the server; marks the folder as ours
    server.lock       held as long as any process of a server lives, in this container or another
    pgdata/           PostgreSQL's own; 0700, of the user that the server runs as
    pgpass            the passwords of the cluster, 0600, in the format of PGPASSFILE
    server.json       how to reach the running server; without meaning when nothing answers
    server.log        what the server said since it was last started; server.log.1 the time before

Source: docs/reference/embedded.md, rules 7-15.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .accounts import Account, barrier
from .errors import EmbeddedServerError, UnusableFolder

LOCK_NAME = "pg-durable.lock"
SPACE_NEEDED_BYTES = 100 * 2**20  # a new cluster takes 40 MB, and 16 MB more for each WAL segment
FULL_OR_FIXED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How to reach a server; what `server.json` says."""

    socket_dir: str
    bindir: str
    version: str
    throwaway: bool
    temporary: bool  # the whole folder goes when the server stops


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The files of one cluster."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / LOCK_NAME

    @property
    def server_lock(self) -> Path:
        return self.path / "server.lock"

    @property
    def pgdata(self) -> Path:
        return self.path / "pgdata"

    @property
    def pgpass(self) -> Path:
        return self.path / "pgpass"

    @property
    def state(self) -> Path:
        return self.path / "server.json"

    @property
    def log(self) -> Path:
        return self.path / "server.log"

    def create(self) -> None:
        """Make the folder, and parents that are missing, or accept one that is empty or ours.

        Raises:
            UnusableFolder: it holds something else, or may not be made.
        """
        with actionable(self.path):
            _make_parents(self.path)
            try:
                self.path.mkdir(mode=0o700)
            except FileExistsError:
                if not self.path.is_dir():
                    raise
            content = {entry.name for entry in self.path.iterdir()}
            if content and self.lock.name not in content:
                raise _foreign(self.path, content)
            if not content and self.path.stat().st_uid == os.geteuid():
                self.path.chmod(passage_mode())

    def last_running(self) -> Running | None:
        """Return what the last start wrote down; the server may be gone since."""
        try:
            return Running(**json.loads(self.state.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write_running(self, running: Running) -> None:
        write_private(self.state, json.dumps(asdict(running)))

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines that the server wrote; "" if there are none."""
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def default_data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the server of `pg-durable dev` keeps its data."""
    environ = os.environ if environ is None else environ
    if os.geteuid() == 0:
        return Path("/var/lib/pg-durable/dev")
    return _xdg(environ, "XDG_DATA_HOME", ".local/share") / "dev"


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the caller's cache, made if missing: prepared clusters and copies of programs.

    It can be removed while no server runs. Nobody else may write to it, since servers are made from it.

    Raises:
        EmbeddedServerError: there is no such folder, and none can be made.
    """
    environ = os.environ if environ is None else environ
    candidates = _cache_candidates(environ)
    for candidate in candidates:
        try:
            candidate.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError:  # no home, or a read-only one
            continue
        status = candidate.lstat()
        mine = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)
        if mine and not status.st_mode & 0o022 and os.access(candidate, os.W_OK):
            return candidate
    names = " or ".join(str(candidate) for candidate in candidates)
    raise EmbeddedServerError(
        f"no cache folder: {names} must be yours, and writable for nobody else. "
        "Set PG_DURABLE_CACHE_DIR to a folder that is."
    )


@contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made if missing and never removed.

    Raises:
        EmbeddedServerError: another process held it for `timeout` seconds.
    """
    handle = acquire(path, timeout=timeout)
    try:
        yield
    finally:
        # Closing alone would leave the lock to a child that another thread forked meanwhile.
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def acquire(path: Path, *, timeout: float) -> int:
    """Lock a file as `locked` does, and return the descriptor: the lock ends with its last copy."""
    with actionable(path.parent):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + timeout
    while not _try_lock(handle):
        if time.monotonic() > deadline:
            os.close(handle)
            raise EmbeddedServerError(
                f"another process has held {path} for {timeout:g} seconds; it may be in another "
                "container. Find it with 'fuser' or 'lsof' and end it: the lock goes with it."
            )
        time.sleep(0.01)
    return handle


def passage_mode() -> int:
    """Return the mode of a data folder. The server's user passes through one of root, and no more."""
    return 0o711 if os.geteuid() == 0 else 0o700


def give(path: Path, account: Account) -> None:
    """Hand over a file or folder that was just made.

    Raises:
        EmbeddedServerError: root may not do that here.
    """
    if account.is_caller:
        return
    try:
        os.chown(path, account.uid, account.gid)
    except OSError as error:
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and root can't become {account.name!r} here "
            f"({error.strerror}), as in some containers. Run as an ordinary user."
        ) from error


def write_private(path: Path, text: str) -> None:
    """Write a file that only the caller can read, all at once."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    draft.replace(path)


def check_reach(folder: Path, account: Account) -> None:
    """Raise UnusableFolder unless `account` can get to `folder`."""
    closed = barrier(folder, account)
    if closed is not None:
        raise UnusableFolder(
            folder,
            f"can't be reached by {account.name!r}, the user that the server runs as: "
            f"{closed} is closed to it",
            "Name a folder outside of it, such as one below /var/lib or /tmp.",
        )


def check_space(folder: Path, needed_bytes: int = SPACE_NEEDED_BYTES) -> None:
    """Raise UnusableFolder unless there is room for a new cluster."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise UnusableFolder(
            folder,
            f"has {free // 2**20} MB of free space; a new cluster needs {needed_bytes // 2**20} MB",
            "Free some space, or name a folder on another disk.",
        )


@contextmanager
def actionable(path: Path) -> Iterator[None]:
    """Turn the ordinary failures of the file system into errors that name a remedy."""
    try:
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UnusableFolder(
            path,
            f"can't be used as a data folder: {error.strerror}: {error.filename}",
            "Name a folder that you own, or that can be made.",
        ) from error
    except OSError as error:
        if error.errno not in FULL_OR_FIXED:
            raise
        raise UnusableFolder(
            path, f"can't be written to: {error.strerror}", "Name a folder on another disk."
        ) from error


def _cache_candidates(environ: Mapping[str, str]) -> list[Path]:
    named = environ.get("PG_DURABLE_CACHE_DIR")
    if named:
        return [Path(named).absolute()]
    usual = (
        Path("/var/cache/pg-durable")  # the server's user must read below it: no home of root
        if os.geteuid() == 0
        else _xdg(environ, "XDG_CACHE_HOME", ".cache")
    )
    return [usual, Path(tempfile.gettempdir(), f"pg-durable-cache-{os.geteuid()}")]


def _xdg(environ: Mapping[str, str], variable: str, default: str) -> Path:
    base = environ.get(variable, "")
    if not base.startswith("/"):  # the XDG specification: a relative path is to be ignored
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), default)
    return Path(base) / "pg-durable"


def _make_parents(path: Path) -> None:
    """Make the parents that are missing; those of root's folders open to all, whatever the umask."""
    missing = [parent for parent in path.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            parent.chmod(0o755)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _foreign(path: Path, content: set[str]) -> UnusableFolder:
    if "PG_VERSION" in content:
        return UnusableFolder(
            path,
            "is a data folder of PostgreSQL that pg-durable did not make",
            "Start its server yourself and pass --dsn, or name another folder.",
        )
    some = ", ".join(sorted(content)[:3])
    return UnusableFolder(
        path,
        f"is not empty and not a data folder of pg-durable; it holds {some}",
        "Name a folder that is empty or does not exist.",
    )
