"""Folders that go away: for sockets, whose paths must be short, and for clusters without a home.

Source: docs/reference/embedded.md, rules 9-11.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .accounts import Account, barrier
from .errors import EmbeddedServerError
from .folders import LOCK_NAME, DataFolder, locked, passage_mode, write_private

PORT = 5432  # names the socket file; the server has no TCP port
LONGEST_SOCKET_NAME = f".s.PGSQL.{PORT}.lock"
SOCKET_PATH_BYTES = 103  # what every system can bind: macOS 103, Linux 107

# Sockets need a short path, which TMPDIR may not give. What mkdtemp makes there is 0700, and its name
# can't be guessed.
SHORT_BASES = ("/tmp", "/var/tmp")  # noqa: S108
MEMORY = Path("/dev/shm")  # noqa: S108
MEMORY_NEEDED_BYTES = 2 * 2**30  # or the tests of a small container could fill it

TEMPORARY_PREFIX = "pg-durable-"
SOCKET_PREFIX = "pgd-"
MARK = "belongs-to"  # in a socket folder: the path of the data folder


def temporary_folder(
    account: Account, *, in_memory: bool, environ: Mapping[str, str]
) -> DataFolder:
    """Make a data folder that `account` can reach. The watchdog of its server removes it.

    Args:
        in_memory: prefer the memory file system, if it has room and TMPDIR does not say otherwise.
    """
    bases = [tempfile.gettempdir(), *SHORT_BASES]
    if in_memory and not environ.get("TMPDIR") and _free_bytes(MEMORY) >= MEMORY_NEEDED_BYTES:
        bases.insert(0, str(MEMORY))
    path = _make_folder(TEMPORARY_PREFIX, bases, account)
    path.chmod(passage_mode())
    return DataFolder(path)


def make_socket_dir(account: Account) -> Path:
    """Make a 0700 folder whose path is short enough for sockets. It is the caller's, to be given."""
    bases = (tempfile.gettempdir(), *SHORT_BASES)
    return _make_folder(SOCKET_PREFIX, bases, account, longest_name=LONGEST_SOCKET_NAME)


def mark_socket_dir(socket_dir: Path, folder: DataFolder) -> None:
    """Note in it whose sockets these are, once `folder` names it as its own."""
    write_private(socket_dir / MARK, str(folder.path))


def remove_socket_dir(socket_dir: str) -> None:
    """Remove what `make_socket_dir` made, if it is there."""
    if Path(socket_dir).name.startswith(SOCKET_PREFIX):
        shutil.rmtree(socket_dir, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the caller's temporary clusters, and sockets, that lost both server and watchdog."""
    for base in {tempfile.gettempdir(), *SHORT_BASES, str(MEMORY)}:
        for pattern, remove in (
            (f"{TEMPORARY_PREFIX}*/{LOCK_NAME}", _remove_abandoned_cluster),
            (f"{SOCKET_PREFIX}*/{MARK}", _remove_abandoned_sockets),
        ):
            for path in Path(base).glob(pattern):
                try:
                    if path.lstat().st_uid == os.geteuid():
                        remove(path.parent)
                except (OSError, EmbeddedServerError):
                    continue  # in use, or it went away while we looked


def _remove_abandoned_cluster(path: Path) -> None:
    folder = DataFolder(path)
    with locked(folder.lock, timeout=0), locked(folder.server_lock, timeout=0):
        running = folder.last_running()
        if running and running.temporary:
            remove_socket_dir(running.socket_dir)
            shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned_sockets(socket_dir: Path) -> None:
    running = DataFolder(Path((socket_dir / MARK).read_text())).last_running()
    if running is None or running.socket_dir != str(socket_dir):
        remove_socket_dir(str(socket_dir))


def _make_folder(
    prefix: str, bases: Sequence[str], account: Account, *, longest_name: str | None = None
) -> Path:
    """Make a 0700 folder below the first base that is short and open enough."""
    refused: list[str] = []
    for base in dict.fromkeys(bases):
        if longest_name and (flaw := _socket_path_flaw(base, prefix, longest_name)):
            refused.append(flaw)
        elif barrier(Path(base), account) is not None:
            refused.append(f"{base} is closed to {account.name!r}")
        elif not os.access(base, os.W_OK | os.X_OK):
            refused.append(f"{base} can't be written to")
        else:
            return Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    raise EmbeddedServerError(
        f"no place for {'sockets' if longest_name else 'temporary data'}: {'; '.join(refused)}. "
        "Set TMPDIR to a folder with a short path that every user can enter."
    )


def _socket_path_flaw(base: str, prefix: str, longest_name: str) -> str | None:
    """Return why no socket can be below `base`, or None."""
    path_bytes = len(os.fsencode(os.path.join(base, f"{prefix}xxxxxxxx", longest_name)))
    if path_bytes > SOCKET_PATH_BYTES:
        return f"{base} makes a socket path of {path_bytes} bytes, and {SOCKET_PATH_BYTES} fit"
    return f"{base} has a comma in it" if "," in base else None  # PostgreSQL reads a list


def _free_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0
