"""What a server and its clients have counted so far."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection

from duroxide_pg import PostgresProvider

_COUNTERS = """
select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, xact_commit, xact_rollback, deadlocks
  from pg_stat_database where datname = current_database()
"""
SETTLE_S = 1.2
"""Sessions report their counts to the server about once a second."""


class CountingProvider(PostgresProvider):
    """Counts the requests that it sends to the server: one for each statement, and each BEGIN or COMMIT."""

    requests = 0

    async def _connect(self, purpose: str) -> AsyncConnection[Any]:
        connection = await super()._connect(purpose)
        if purpose != "listen":  # which waits for hints, and asks for nothing
            real = connection.wait

            async def counted(*arguments: Any, **options: Any) -> Any:
                self.requests += 1
                return await real(*arguments, **options)

            connection.wait = counted  # type: ignore[method-assign]
        return connection


@dataclass(frozen=True, slots=True)
class Counters:
    wal: int
    commits: int
    rollbacks: int  # deadlocks, and what changed under a transaction and was sent again
    deadlocks: int
    client_cpu_s: float
    server_cpu_s: float | None  # None: the server is on another machine

    @classmethod
    def read(cls, connection: psycopg.Connection[Any]) -> Counters:
        row = connection.execute(_COUNTERS).fetchone()
        assert row is not None
        wal, commits, rollbacks, deadlocks = map(int, row)
        return cls(
            wal, commits, rollbacks, deadlocks, time.process_time(), server_cpu_s(connection)
        )


def server_cpu_s(connection: psycopg.Connection[Any]) -> float | None:
    """CPU time of all processes of the server, those that have ended included."""
    backend = _stat(connection.info.backend_pid)
    if backend is None or "postgres" not in backend[0] or connection.info.host[:1] not in ("/", ""):
        return None
    parent = int(backend[2][1])
    ticks = 0
    for folder in Path("/proc").iterdir():
        found = _stat(int(folder.name)) if folder.name.isdigit() else None
        if found is None:
            continue
        _, pid, fields = found
        if pid == parent:
            ticks += sum(map(int, fields[11:15]))  # its own, and that of children that have ended
        elif int(fields[1]) == parent:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> tuple[str, int, list[str]] | None:
    """Name, id, and the fields from the state on, of /proc/PID/stat."""
    try:
        head, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    return head.partition("(")[2], pid, rest.split()
