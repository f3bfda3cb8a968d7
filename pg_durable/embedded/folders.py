"""Where things live: data, cache and sockets, and the lock that decides races.

A data folder is one cluster and all that belongs to it:

    pg-durable.lock   held for moments, by whoever starts or stops the server; marks the folder as ours
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

PORT = 5432  # names the socket file; the server has no TCP port
SOCKET_PATH_BYTES = 103  # what every system can bind: macOS 103, Linux 107
SHORT_BASES = ("/tmp", "/var/tmp")  # noqa: S108 (mkdtemp makes a 0700 folder of a random name)
LONGEST_SOCKET_NAME = f".s.PGSQL.{PORT}.lock"
SPACE_NEEDED_BYTES = 100 * 2**20  # a new cluster takes 40 MB, and 16 MB more for each WAL segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How to reach a server; what `server.json` says."""

    socket_dir: str
    bindir: str
    version: str
    throwaway: bool


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The files of one cluster."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "pg-durable.lock"

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
        with _actionable(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.path.mkdir(mode=0o700)
            except FileExistsError:
                if not self.path.is_dir():
                    raise
            content = {entry.name for entry in self.path.iterdir()}
            if content and self.lock.name not in content:
                raise _foreign(self.path, content)
            if not content:
                # The server's user passes through a folder of root; it can't list or change it.
                self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)

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

    It can be removed at any time. Nobody else may write to it, since servers are made from it.
    """
    environ = os.environ if environ is None else environ
    if environ.get("PG_DURABLE_CACHE_DIR"):
        candidates = [Path(environ["PG_DURABLE_CACHE_DIR"]).absolute()]
    elif os.geteuid() == 0:
        candidates = [Path("/var/cache/pg-durable")]
    else:
        candidates = [_xdg(environ, "XDG_CACHE_HOME", ".cache")]
    candidates.append(Path(tempfile.gettempdir(), f"pg-durable-cache-{os.geteuid()}"))
    for candidate in candidates:
        try:
            candidate.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError:  # no home, or one that is read-only
            continue
        status = candidate.lstat()
        mine = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)
        if mine and not status.st_mode & 0o022 and os.access(candidate, os.W_OK):
            return candidate
    names = " or ".join(str(candidate) for candidate in candidates)
    raise EmbeddedServerError(
        f"no cache folder: {names} must be yours, and writable for you only. "
        "Set PG_DURABLE_CACHE_DIR to a folder that is."
    )


@contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made if missing and never removed.

    Raises:
        EmbeddedServerError: another process held it for `timeout` seconds.
    """
    with _actionable(path.parent):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"another process has held {path} for {timeout:g} seconds. "
                    "Find it with 'fuser' or 'lsof' and end it; the lock goes with it."
                )
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)


@contextmanager
def temporary_folder(account: Account) -> Iterator[DataFolder]:
    """Yield a new data folder that `account` can reach; who runs a server on it removes it."""
    folder = DataFolder(_make_private("pg-durable-", account, longest_name=""))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise


def make_socket_dir(account: Account) -> Path:
    """Make a 0700 folder of `account` whose path is short enough for sockets."""
    path = _make_private("pgd-", account, longest_name=LONGEST_SOCKET_NAME)
    give(path, account)
    return path


def give(path: Path, account: Account) -> None:
    """Hand over a folder that was just made."""
    if not account.is_caller:
        os.chown(path, account.uid, account.gid)


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
            f"has {free // 2**20} MB of free space, and a new cluster needs {needed_bytes // 2**20} MB",
            "Free some space, or name a folder on another disk.",
        )


def _xdg(environ: Mapping[str, str], variable: str, default: str) -> Path:
    base = environ.get(variable, "")
    if not base.startswith("/"):  # the XDG specification: a relative path is to be ignored
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), default)
    return Path(base) / "pg-durable"


def _make_private(prefix: str, account: Account, *, longest_name: str) -> Path:
    """Make a folder below the first temporary folder that is short and open enough."""
    tried: list[str] = []
    for base in dict.fromkeys((tempfile.gettempdir(), *SHORT_BASES)):
        path_bytes = len(os.fsencode(os.path.join(base, f"{prefix}xxxxxxxx", longest_name)))
        if longest_name and path_bytes > SOCKET_PATH_BYTES:
            tried.append(f"{base} makes a socket path of {path_bytes} bytes")
        elif barrier(Path(base), account) is not None:
            tried.append(f"{base} is closed to {account.name!r}")
        elif not os.access(base, os.W_OK | os.X_OK):
            tried.append(f"{base} can't be written to")
        else:
            path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
            if not account.is_caller:
                path.chmod(0o711 if not longest_name else 0o700)
            return path
    raise EmbeddedServerError(
        f"no folder for {'sockets' if longest_name else 'temporary data'}: {'; '.join(tried)} "
        f"(a socket path has at most {SOCKET_PATH_BYTES} bytes). "
        "Set TMPDIR to a short path that every user can enter."
    )


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


@contextmanager
def _actionable(path: Path) -> Iterator[None]:
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
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG):
            raise
        raise UnusableFolder(
            path, f"can't be written to: {error.strerror}", "Name a folder on another disk."
        ) from error
