"""A private PostgreSQL for development and tests, shared by all who ask for the same folder.

    with embedded_server() as server:
        psycopg.connect(server.dsn)

Source: docs/reference/embedded.md.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from .accounts import server_account
from .cluster import read_passwords
from .errors import ServerDidNotStart
from .folders import DataFolder, Running
from .owners import Ownership, Word
from .search import Binaries
from .start import Start
from .templates import APPLICATION, SUPERUSER
from .temporary import PORT, remove_abandoned, temporary_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """A running server, as long as the `embedded_server` block that gave it."""

    dsn: str = field(repr=False)  # role `durable`, no superuser, owner of the database `durable`
    superuser_dsn: str = field(repr=False)  # role `postgres`, same database
    bindir: Path
    version: str  # "16.14"
    data_dir: Path
    socket_dir: Path
    log_file: Path

    @property
    def pid(self) -> int:
        """Process id of the postmaster at this moment."""
        pid_file = self.data_dir / "pgdata" / "postmaster.pid"
        return int(pid_file.read_text().split("\n", 1)[0])


@contextmanager
def embedded_server(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    throwaway: bool = False,
    binaries: Binaries | None = None,
    environ: Mapping[str, str] | None = None,
    start_timeout: float = 60.0,
) -> Iterator[EmbeddedServer]:
    """Start a server on `data_dir`, or join the one that runs there; stop it if we leave last.

    Blocks while the server starts and stops; asynchronous code calls it in a thread. Children made by
    `os.fork` may use the server; should we be killed, it stays until they have ended too.

    Args:
        data_dir: made if missing; None is a temporary folder that is removed at the end.
        throwaway: do not wait for the disk. A crash of the machine loses the data, one of the server
            does not. A temporary folder is then in memory, where there is plenty.
        binaries: the PostgreSQL to start; by default the one that made the data, else the first that
            `find_binaries` returns.
        environ: variables for the search; those of the process by default.
        start_timeout: seconds that starting may take, crash recovery included.

    Raises:
        NoServerFound: there is no PostgreSQL to start.
        UnusableFolder: `data_dir` is not ours, not permitted, or of another major version.
        ServerDidNotStart: with the last lines of its log.
    """
    environ = os.environ if environ is None else environ
    folder = _folder(data_dir, throwaway, environ)
    start = Start(
        folder=folder,
        temporary=data_dir is None,
        throwaway=throwaway,
        binaries=binaries,
        environ=environ,
        timeout=start_timeout,
    )
    while True:
        ownership, running = _own(start)
        with ownership:
            match ownership.word(start_timeout):
                case "ready":
                    yield _describe(folder, running)
                    return
                case "gone" if ownership.joined:
                    continue
                case word:
                    raise _not_ready(folder, running, word, start_timeout)


def _own(start: Start) -> tuple[Ownership, Running]:
    try:
        return start.own()
    except BaseException:
        if start.temporary:  # or else its watchdog removes it
            shutil.rmtree(start.folder.path, ignore_errors=True)
        raise


def _not_ready(
    folder: DataFolder, running: Running, word: Word, timeout: float
) -> ServerDidNotStart:
    what, remedy = "did not start", f"The whole log is {folder.log}."
    if word == "late":
        what = f"was not ready after {timeout:g} seconds"
        remedy += " It may need more time: start_timeout."
    return ServerDidNotStart(
        f"PostgreSQL {running.version} on {folder.path} {what}", folder.log_tail(), remedy
    )


def _folder(
    data_dir: str | os.PathLike[str] | None, throwaway: bool, environ: Mapping[str, str]
) -> DataFolder:
    if data_dir is None:
        remove_abandoned()
        return temporary_folder(server_account(None), in_memory=throwaway, environ=environ)
    folder = DataFolder(Path(data_dir).absolute())
    folder.create()
    return folder


def _describe(folder: DataFolder, running: Running) -> EmbeddedServer:
    passwords = read_passwords(folder)
    host = quote(running.socket_dir, safe="/")

    def dsn(role: str) -> str:
        # The port stands here because PGPORT would count otherwise.
        return f"postgresql://{role}:{passwords[role]}@/{APPLICATION}?host={host}&port={PORT}"

    return EmbeddedServer(
        dsn=dsn(APPLICATION),
        superuser_dsn=dsn(SUPERUSER),
        bindir=Path(running.bindir),
        version=running.version,
        data_dir=folder.path,
        socket_dir=Path(running.socket_dir),
        log_file=folder.log,
    )
