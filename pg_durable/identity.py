"""As which role a step runs, and how a session of that role is opened.

Mechanism `login`: a session of the submitter's own, so `session_user` is right, its settings apply, and
RESET ROLE gains nothing. The submitter's credentials come from the server's pg_hba.conf (peer, trust or
certificate maps), from a password file, or from a callback.

Mechanism `set_role`, for those who ask for it: a session of the worker's own, which takes the submitter's
role on for the text. One RESET ROLE in the text gives it all the rights of the worker, so this is only
for databases where everyone who may start a workflow is trusted with those.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Self, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from duroxide_pg.sources import connected
from pg_durable.quoting import quote_identifier
from pg_durable.steps.failures import StepFailed, one_line

Credentials: TypeAlias = Callable[[str, str], Mapping[str, str] | Awaitable[Mapping[str, str]]]
"""From role and database to connection parameters, such as `{"password": ...}`; maybe a coroutine."""

MECHANISMS = ("login", "set_role")

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


class CannotLogIn(StepFailed):
    """The server does not let the worker in as the submitter."""


@dataclass(frozen=True, slots=True)
class Actor:
    """How a step becomes its submitter."""

    session_role: str
    set_role: str | None = None  # what the session takes on

    @property
    def details(self) -> Mapping[str, Any]:
        """For the record of a run; nothing where it is the submitter's own session."""
        return {} if self.set_role is None else {"identity": "set_role"}

    def refused(self, problem: str) -> StepFailed:
        return StepFailed(
            f"SQL execution failed: '{self.session_role}' can't become '{self.set_role}': {problem}",
            {
                "sqlstate": "42501",
                "hint": f"GRANT {quote_identifier(self.set_role or '')} TO "
                f"{quote_identifier(self.session_role)}, or use the identity 'login'",
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which mechanism serves which role. There is no falling back from one to the other."""

    worker_role: str
    default: str = "login"
    by_role: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, words: Sequence[str], worker_role: str) -> Self:
        """Read `login`, `set_role`, or `role=mechanism` for single roles.

        Raises:
            ValueError: a word is none of these, or there are two defaults.
        """
        defaults = [word for word in words if "=" not in word]
        by_role = dict(word.rsplit("=", 1) for word in words if "=" in word)
        for mechanism in (*defaults, *by_role.values()):
            if mechanism not in MECHANISMS:
                raise ValueError(
                    f"identity: there is no mechanism {mechanism!r}, only {' and '.join(MECHANISMS)}"
                )
        if len(defaults) > 1:
            raise ValueError("identity: name one mechanism; others as role=mechanism")
        return cls(
            worker_role=worker_role, default=defaults[0] if defaults else "login", by_role=by_role
        )

    @property
    def sets_roles(self) -> bool:
        return "set_role" in (self.default, *self.by_role.values())

    def actor(self, role: str) -> Actor:
        """How a step of this role is run."""
        if role == self.worker_role or self.by_role.get(role, self.default) == "login":
            return Actor(role)
        return Actor(self.worker_role, role)


def superuser_refused(role: str) -> StepFailed:
    """The failure of a step whose role is a superuser, where those are not allowed."""
    hint = (
        "start the workflow as an ordinary role, or set 'enable_superuser_instances' to "
        "'on' in df._settings"
    )
    return StepFailed(
        f'pg_durable blocked the step: submitted_by role "{role}" is a superuser, but '
        "pg_durable.enable_superuser_instances is off",
        {"hint": hint},
    )


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
            if database is None:  # without it the worker can do nothing either, and waits
                raise
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
            raise superuser_refused(role)

    async def _open(self, role: str, database: str | None) -> AsyncConnection:
        parameters: dict[str, Any] = dict(self._base)
        if database is not None:
            parameters["dbname"] = database
        if role != self._worker_role:
            parameters.pop("password", None)
            parameters["user"] = role
            parameters.setdefault("dbname", self._worker_role)
            if self._credentials is not None:
                found = self._credentials(role, str(parameters["dbname"]))
                parameters.update(await found if isawaitable(found) else found)
        settings = {**self._session, **(_CHECK_CLIENT if self._checks_client else {})}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        parameters["options"] = f"{parameters.get('options') or ''} {options}".strip()
        parameters["application_name"] = APPLICATION_NAME
        parameters["client_encoding"] = "UTF8"
        parameters["connect_timeout"] = max(2, round(self._timeout_s))
        connect = AsyncConnection.connect(make_conninfo(**parameters), autocommit=True)
        return await connected(connect)

    def _refused(self, role: str, database: str, error: psycopg.Error) -> CannotLogIn:
        hint = (
            "check the worker's DSN"
            if role == self._worker_role
            else f"let the worker log in as '{role}': an entry in pg_hba.conf, a password file, or "
            "the credentials callback; or start the workflow as "
            f"'{self._worker_role}'"
        )
        return CannotLogIn(
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
            "Connection reset by peer",
            "Network is unreachable",
            "No route to host",
            "could not translate host name",
        )
    )
