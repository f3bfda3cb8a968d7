"""As which role a step runs, and how a session of that role is opened.

Mechanism `login`: a session of the submitter's own, so `session_user` is right, its settings apply, and
RESET ROLE gains nothing. The submitter's credentials come from the server's pg_hba.conf (peer, trust or
certificate maps), from a password file, or from a callback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_durable.steps.failures import StepFailed, one_line

Credentials: TypeAlias = Callable[[str, str], Mapping[str, str]]
"""From role and database to connection parameters, such as `{"password": ...}`."""

APPLICATION_NAME = "pg_durable:worker:workflow-sql"

_SESSION = {
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "idle_in_transaction_session_timeout": "60s",
    "df.in_workflow": "true",
}
# Only where the server's platform can tell that a client is gone.
_CHECK_CLIENT = {"client_connection_check_interval": "10s"}


async def _never() -> bool:
    return False


class Login:
    """Opens sessions as the submitter.

    Args:
        dsn: the home database, as the worker's own role.
        worker_role: what that role is called.
        credentials: asked for any role but the worker's own; None leaves it to libpq's password file
            and the server's pg_hba.conf.
        timezone: of step sessions.
        allows_superusers: asked when a submitter is a superuser; by default none may have a step run.
    """

    def __init__(
        self,
        dsn: str,
        *,
        worker_role: str,
        credentials: Credentials | None = None,
        connect_timeout_s: float = 30.0,
        timezone: str = "UTC",
        allows_superusers: Callable[[], Awaitable[bool]] = _never,
    ) -> None:
        self._base = conninfo_to_dict(dsn)
        self._worker_role = worker_role
        self._credentials = credentials
        self._timeout_s = connect_timeout_s
        self._session = {**_SESSION, "TimeZone": timezone}
        self._checks_client = True
        self._allows_superusers = allows_superusers

    async def connect(self, role: str, database: str | None) -> AsyncConnection:
        """A session as `role`, in autocommit mode and with the settings of a step.

        Raises:
            StepFailed: the session can't be opened; the message names role, database and remedy.
            psycopg.OperationalError: it can't be opened now (too many connections, server starting).
        """
        target = database or str(self._base.get("dbname") or role)
        try:
            connection = await self._open(role, database)
        except psycopg.errors.ConnectionTimeout as error:
            raise StepFailed(
                f"Connection to database '{target}' as '{role}' timed out "
                f"after {self._timeout_s:g}s"
            ) from error
        except psycopg.OperationalError as error:
            if self._checks_client and "client_connection_check_interval" in str(error):
                self._checks_client = False
                return await self.connect(role, database)
            if is_temporary(error):
                raise
            raise self._refused(role, target, error) from error
        opened = (connection.pgconn.parameter_status(b"session_authorization") or b"").decode()
        if opened != role:
            await connection.close()
            raise StepFailed(
                f"the session for '{role}' was opened as '{opened}'; connect the worker directly to "
                "the server, not through a proxy that chooses the role"
            )
        try:
            await self._refuse_superuser(connection, role)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _refuse_superuser(self, connection: AsyncConnection, role: str) -> None:
        """df.start has refused one, but a role may be made a superuser later."""
        if connection.pgconn.parameter_status(b"is_superuser") != b"on":
            return
        if not await self._allows_superusers():
            hint = (
                "start the workflow as an ordinary role, or set 'enable_superuser_instances' to "
                "'on' in df._settings"
            )
            raise StepFailed(
                f'pg_durable blocked the step: submitted_by role "{role}" is a superuser, but '
                "pg_durable.enable_superuser_instances is off",
                {"hint": hint},
            )

    async def _open(self, role: str, database: str | None) -> AsyncConnection:
        parameters: dict[str, Any] = dict(self._base)
        if database is not None:
            parameters["dbname"] = database
        if role != self._worker_role:
            parameters.pop("password", None)
            parameters["user"] = role
            parameters.setdefault("dbname", self._worker_role)
            if self._credentials is not None:
                parameters.update(self._credentials(role, str(parameters["dbname"])))
        settings = {**self._session, **(_CHECK_CLIENT if self._checks_client else {})}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        parameters["options"] = f"{parameters.get('options') or ''} {options}".strip()
        parameters["application_name"] = APPLICATION_NAME
        parameters["client_encoding"] = "UTF8"
        parameters["connect_timeout"] = max(2, round(self._timeout_s))
        return await AsyncConnection.connect(make_conninfo(**parameters), autocommit=True)

    def _refused(self, role: str, database: str, error: psycopg.Error) -> StepFailed:
        hint = (
            "check the worker's DSN"
            if role == self._worker_role
            else f"let the worker log in as '{role}': an entry in pg_hba.conf, a password file, or "
            "the credentials callback; or start the workflow as "
            f"'{self._worker_role}'"
        )
        return StepFailed(
            f"Failed to connect to database '{database}' as '{role}'. Error: {one_line(error)}",
            {"hint": hint, **({"sqlstate": error.sqlstate} if error.sqlstate else {})},
        )


def is_temporary(error: psycopg.OperationalError) -> bool:
    """Whether connecting may succeed if tried again soon."""
    state = error.sqlstate
    if state is not None:
        return state.startswith(("53", "57P"))
    # Before the server answers there is no SQLSTATE, only libpq's words.
    text = str(error)
    return any(
        words in text
        for words in (
            "Connection refused",
            "No such file or directory",
            "the database system is",
            "too many clients",
            "remaining connection slots",
            "too many connections",
            "server closed the connection",
        )
    )
