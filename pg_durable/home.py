"""The worker's own business in the home database: snapshots, heartbeats, questions about sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from pg_durable.statements import load

APPLICATION_NAME = "pg_durable:worker:management"

_SQL = load("worker.sql")


class Home:
    """A small pool of connections as the worker's role, apart from the engine's and from the steps'.

    Args:
        dsn: the home database.
        connections: at most this many.
    """

    def __init__(self, dsn: str, *, connections: int = 4, connect_timeout_s: float = 30.0) -> None:
        conninfo = make_conninfo(dsn, application_name=APPLICATION_NAME, client_encoding="UTF8")
        self._pool: AsyncConnectionPool[AsyncConnection[tuple[Any, ...]]] = AsyncConnectionPool(
            conninfo,
            min_size=1,
            max_size=connections,
            kwargs={"autocommit": True},
            open=False,
            timeout=connect_timeout_s,
            name=APPLICATION_NAME,
        )

    async def __aenter__(self) -> Self:
        try:
            await self._pool.open(wait=True)
        except BaseException:  # no end of a block will close it
            await self._pool.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._pool.close()

    async def load_snapshot(self, instance_id: str, graph_ref: str) -> str | None:
        row = await self._row("load_snapshot", instance_id=instance_id, hash=graph_ref)
        return None if row is None else str(row[0])

    async def read_install(self) -> tuple[str, str, str] | None:
        """The id of the installation, and the names of the worker's role and of the database."""
        row = await self._row("read_install")
        return None if row is None else (str(row[0]), str(row[1]), str(row[2]))

    async def heartbeat(self, **worker: Any) -> str | None:
        """Show this worker in df._workers; returns the id of the installation."""
        row = await self._row("heartbeat", **worker)
        return None if row is None else str(row[0])

    async def sign_off(self, worker_id: str) -> None:
        await self._execute("sign_off", {"worker_id": worker_id})

    async def backend_exists(self, pid: int) -> bool:
        row = await self._row("backend_exists", pid=pid)
        return row is not None and bool(row[0])

    async def claim_signal(self, **wait: Any) -> str | None:
        """Begin to wait; the signal as `{"seq", "data"}` if it is there already."""
        row = await self._row("claim_signal", **wait)
        return None if row is None or row[0] is None else str(row[0])

    async def unclaim_signal(self, waiter_key: str, instance_id: str) -> bool:
        """Give a wait up; false: the signal has been sent to the queue of that key."""
        row = await self._row("unclaim_signal", waiter_key=waiter_key, instance_id=instance_id)
        return row is not None and bool(row[0])

    async def relay_pause(self, instance_id: str, engine_id: str) -> None:
        """Tell a child of a workflow whether that is paused."""
        await self._execute("relay_pause", {"instance_id": instance_id, "engine_id": engine_id})

    async def submitter(self, instance_id: str) -> tuple[str | None, bool]:
        """The role that started a workflow, by its present name (None: dropped); and if a superuser."""
        row = await self._row("submitter", instance_id=instance_id)
        return (None, False) if row is None else (row[0], bool(row[1]))

    async def begin_attempt(self, **step: str) -> int:
        """Commit that a step is begun; returns how often it was."""
        row = await self._row("begin_attempt", **step)
        assert row is not None
        return int(row[0])

    async def end_attempt(self, **step: str) -> None:
        await self._execute("end_attempt", dict(step))

    async def rights(self, instance_id: str, signature: str) -> tuple[str | None, bool, bool]:
        """The role that started a workflow, if it is a superuser, and if it may call a function."""
        row = await self._row("rights", instance_id=instance_id, signature=signature)
        return (None, False, False) if row is None else (row[0], bool(row[1]), bool(row[2]))

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[bool]:
        """Whether this worker is the only one in a block of that name; if it is not, it must not act."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_SQL["try_lock"], {"name": name})
            row = await cursor.fetchone()
            is_ours = row is not None and bool(row[0])
            try:
                yield is_ours
            finally:
                if is_ours and not connection.closed:
                    await connection.execute(_SQL["unlock"], {"name": name})

    async def setting(self, name: str) -> str:
        """A setting of this installation, as text."""
        row = await self._row("setting", name=name)
        assert row is not None
        return str(row[0])

    async def allows_superusers(self) -> bool:
        """Whether steps of superusers may run."""
        return await self.setting("enable_superuser_instances") == "on"

    async def is_superuser(self) -> bool:
        """Whether the worker's own role is one."""
        row = await self._row("is_superuser")
        return row is not None and bool(row[0])

    async def note_refusal(self, instance_id: str, reason: str, hint: str) -> None:
        """Say in df.instances why a worker could not take an instance further."""
        await self._execute(
            "note_refusal", {"instance_id": instance_id, "reason": reason, "hint": hint}
        )

    async def expired_instances(self, at_most: int) -> list[str]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_SQL["expired_instances"], {"at_most": at_most})
            return [str(row[0]) for row in await cursor.fetchall()]

    async def repair(self, at_most: int) -> list[tuple[str, str, str | None]]:
        """End instances that the engine has ended or lost: id, status, error."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_SQL["repair"], {"at_most": at_most})
            return [(str(row[0]), str(row[1]), row[2]) for row in await cursor.fetchall()]

    async def delete_instances(self, ids: Sequence[str]) -> None:
        await self._execute("delete_instances", {"ids": list(ids)})

    async def _row(self, statement: str, **parameters: Any) -> tuple[Any, ...] | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_SQL[statement], parameters)
            return await cursor.fetchone()

    async def _execute(self, statement: str, parameters: dict[str, Any]) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(_SQL[statement], parameters)
