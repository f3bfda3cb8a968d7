"""Where connections come from: opened by us, or taken from a pool or an engine that the caller owns."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from duroxide.errors import ProviderError
from duroxide_pg import migrate

if TYPE_CHECKING:  # only who has an engine of theirs needs them at run time
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

Pool: TypeAlias = Union[AsyncConnectionPool[Any], ConnectionPool[Any], "AsyncEngine", "Engine"]
"""Of the caller: we take what we need for as long as we live, and never close it."""

Password: TypeAlias = Callable[[], str | Awaitable[str]]

CONNECT_END_S = 2.0

_DEFAULTS = {
    "connect_timeout": 10,  # seconds, for each host
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


class Source(Protocol):
    """Connections in autocommit mode, each for one purpose and held for long."""

    async def open(self, purpose: str) -> AsyncConnection[Any]:
        """A connection that nobody else uses.

        Raises:
            ProviderError: retryable, with the server's or the client library's own words.
        """

    async def release(self, connection: AsyncConnection[Any]) -> None:
        """End a connection that `open` returned; it may be broken, or ended already."""

    async def conninfo(self) -> str:
        """How to open one more, the password included, for migrations."""

    def not_let_in(self, error: BaseException | None) -> str:
        """A connection by `conninfo` failed: forget what the server refused, and say what to look at."""


class Owned:
    """Connections that we open.

    Args:
        dsn: a libpq connection string or URL.
        password: asked at each connection, if given. If it has a method `refused`, that is called when a
            connection failed with what it returned, so that it does not return the same for long.
    """

    def __init__(self, dsn: str, password: Password | None = None) -> None:
        self._dsn = dsn
        self._password = password

    async def open(self, purpose: str) -> AsyncConnection[Any]:
        conninfo = await self.conninfo()
        try:
            parameters: dict[str, Any] = {**_DEFAULTS, **conninfo_to_dict(conninfo)}
            parameters["application_name"] = f"duroxide {purpose}"
            parameters["client_encoding"] = "UTF8"  # whatever the role or PGCLIENTENCODING says
            return await connected(AsyncConnection.connect(autocommit=True, **parameters))
        except psycopg.Error as error:
            words = str(migrate.cannot_connect(error)) + self.not_let_in(error)
            raise ProviderError("connect", words, True) from error

    def not_let_in(self, error: BaseException | None) -> str:
        """What to look at if the server was given a password that the callback had returned."""
        connection = error.pgconn if isinstance(error, psycopg.Error) else None
        if self._password is None or connection is None or not connection.used_password:
            return ""
        refused = getattr(self._password, "refused", None)
        if refused is not None:
            refused()
        return (
            "; the password is what the callback returned, which is asked again at the next attempt: if the "
            "server refused it, see that it has not expired and is for this server and user"
        )

    async def release(self, connection: AsyncConnection[Any]) -> None:
        await connection.close()

    async def conninfo(self) -> str:
        if self._password is None:
            return self._dsn
        try:
            password = self._password()
            if inspect.isawaitable(password):
                password = await password
        except ProviderError:
            raise
        except Exception as error:  # of the caller's function, which may talk to anything
            words = f"the password callback failed: {type(error).__name__}: {error}"
            raise ProviderError("connect", words, True) from error
        return make_conninfo(self._dsn, password=password)


async def connected(
    connect: Coroutine[Any, Any, AsyncConnection[Any]],
) -> AsyncConnection[Any]:
    """Connect; who is cancelled meanwhile lets it come to an end, and closes what it gave.

    psycopg would leave the half-open socket to the garbage collector, and the server would wait for the
    rest of the greeting for a minute, in which nobody could drop the database.
    """
    task = asyncio.create_task(connect, name="duroxide_pg.connect")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,), timeout=CONNECT_END_S)
        if not task.done():
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            await task.result().close()
        raise


class Borrowed:
    """Connections from a pool of the caller's.

    What we hold counts in the pool. It is never used by anybody else again: its session has our settings,
    so it is closed when we are done, and the pool opens another when it needs one.
    """

    def __init__(self, pool: Pool) -> None:
        engine = _engine_of(pool)
        self._errors: tuple[type[Exception], ...] = (psycopg.Error,)
        if engine is not None:
            self._errors += (import_module("sqlalchemy.exc").SQLAlchemyError,)
        elif not isinstance(pool, AsyncConnectionPool | ConnectionPool):
            raise TypeError(
                f"pool is a {type(pool).__qualname__}, not a psycopg_pool.AsyncConnectionPool or "
                "ConnectionPool, nor an Engine or AsyncEngine of SQLAlchemy"
            )
        if engine is not None and engine.dialect.driver not in _DRIVERS:
            raise TypeError(
                f"the engine uses the driver {engine.dialect.driver!r}; "
                "make it with create_engine('postgresql+psycopg://...')"
            )
        self._pool = pool
        self._give_back: dict[AsyncConnection[Any], Callable[[], Awaitable[Any]]] = {}

    async def open(self, purpose: str) -> AsyncConnection[Any]:
        try:
            theirs, give_back = await self._take()
        except self._errors as error:
            words = " ".join(str(error).split())
            raise ProviderError("connect", f"the pool gave no connection: {words}", True) from error
        # A fresh object: none of what the caller has set on theirs (row factories, adapters, a list of
        # prepared statements) is meant for our statements.
        ours = AsyncConnection[Any](theirs.pgconn)
        self._give_back[ours] = give_back
        try:
            await ours.set_autocommit(True)
            await ours.execute("deallocate all")
            await ours.execute(
                "select set_config('application_name', %s, false), set_config('client_encoding', 'UTF8', false)",
                [f"duroxide {purpose}"],
            )
        except BaseException as error:
            await self.release(ours)
            if isinstance(error, psycopg.Error):
                raise ProviderError("connect", str(migrate.cannot_connect(error)), True) from error
            raise
        return ours

    async def release(self, connection: AsyncConnection[Any]) -> None:
        connection.pgconn.finish()  # close() of a pool's connection may mean something else
        give_back = self._give_back.pop(connection, None)
        if give_back is not None:
            with suppress(*self._errors):  # the pool may be closed by now
                await give_back()

    async def conninfo(self) -> str:
        connection = await self.open("migrations")
        try:
            info = connection.info
            return make_conninfo("", **info.get_parameters(), password=info.password)
        finally:
            await self.release(connection)

    def not_let_in(self, error: BaseException | None) -> str:
        return ""  # the password is the pool's

    async def _take(self) -> tuple[Any, Callable[[], Awaitable[Any]]]:
        """A psycopg connection, and what hands it back when it is closed."""
        pool = self._pool
        match pool:
            case AsyncConnectionPool():
                connection = await pool.getconn()
                return connection, lambda: pool.putconn(connection)
            case ConnectionPool():
                blocking = await asyncio.to_thread(pool.getconn)
                return blocking, lambda: asyncio.to_thread(pool.putconn, blocking)
            case _ if _engine_of(pool) is pool:
                return await asyncio.to_thread(_check_out, pool)
            case _:
                held = await cast("AsyncEngine", pool).connect()
                raw = await held.get_raw_connection()
                return raw.driver_connection, lambda: _hand_back(held)


_DRIVERS = ("psycopg", "psycopg_async")


def _engine_of(pool: object) -> Engine | None:
    """The engine itself, or the one inside an AsyncEngine; None for anything else."""
    engine = getattr(pool, "sync_engine", pool)
    if "sqlalchemy" not in sys.modules:
        return None
    return engine if isinstance(engine, import_module("sqlalchemy").Engine) else None


async def _hand_back(held: Any) -> None:
    await held.invalidate()
    await held.close()


def _check_out(engine: Engine) -> tuple[Any, Callable[[], Awaitable[Any]]]:
    held = engine.connect()

    def hand_back() -> None:
        held.invalidate()
        held.close()

    return held.connection.driver_connection, lambda: asyncio.to_thread(hand_back)


def dsn_of(dsn: str, parameters: Mapping[str, Any]) -> str:
    """A connection string of a DSN and keyword arguments, of which the latter win.

    Raises:
        ValueError: libpq does not know one of them, or can't read the DSN.
    """
    if not parameters:
        return dsn
    try:
        make_conninfo("", **parameters)
    except psycopg.ProgrammingError as error:
        words = " ".join(str(error).split())
        raise ValueError(
            f"{words}; arguments that PostgresProvider does not know itself are libpq's, such as host, "
            "user, dbname, sslmode or sslrootcert"
        ) from error
    try:
        return make_conninfo(dsn, **parameters)
    except psycopg.ProgrammingError:
        # Its words repeat the DSN, which may hold a password.
        raise ValueError("the DSN is not a connection string or URL that libpq can read") from None
