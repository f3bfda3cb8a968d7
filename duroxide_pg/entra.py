"""Credentials that expire: a token as the password of each new connection, Microsoft Entra's for one."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from duroxide.clock import Clock, SystemClock
from duroxide.errors import ProviderError
from duroxide_pg.errors import ExtraMissing

logger = logging.getLogger("duroxide_pg")

AUDIENCE = "https://ossrdbms-aad.database.windows.net/.default"
"""Of Azure Database for PostgreSQL; other clouds of Azure have others."""
MARGIN_S = 300
"""Before its end a token is not used for a new connection any more."""
RETRY_S = 30
"""How long a token that still is good is used after its successor could not be had, or after it was fetched if a
server refuses it."""
OLDEST_S = 20 * 60

Fetch: TypeAlias = Callable[[], tuple[str, float] | Awaitable[tuple[str, float]]]
"""Returns a token and when it ends, in seconds since 1970; blocking (in a thread) or async."""


class RefreshedToken:
    """A token, fetched when a connection needs it and the last one is too old: `password=` of a provider.

    Connections that are open outlive their token, so nothing runs in the background.

    Args:
        fetch: called for one connection at a time.
        oldest_s: how long a token is used at most.
    """

    def __init__(
        self, fetch: Fetch, *, oldest_s: float = OLDEST_S, clock: Clock | None = None
    ) -> None:
        self._fetch = fetch
        self._oldest_s = oldest_s
        self._clock = clock or SystemClock()
        self._lock = asyncio.Lock()
        self._token = ""
        self._renew_at = self._ends_at = self._fetched_at = 0.0

    async def __call__(self) -> str:
        """A token that is good for five minutes at least.

        Raises:
            ProviderError: retryable; one can't be had.
        """
        async with self._lock:
            now = self._clock.now_ms() / 1000
            if now >= self._renew_at:
                await self._renew(now)
            return self._token

    def refused(self) -> None:
        """A server has not let us in with the token: use it for 30 seconds of its age at most."""
        self._renew_at = min(self._renew_at, self._fetched_at + RETRY_S)

    async def _renew(self, now: float) -> None:
        try:
            token, ends_at = await self._fetched()
        except Exception as error:  # of whoever issues tokens
            if now >= self._ends_at - MARGIN_S:
                words = f"no token for the connection: {type(error).__name__}: {error}"
                raise ProviderError("connect", words, True) from error
            logger.warning("a token could not be renewed, the last one is still good: %s", error)
            self._renew_at = min(now + RETRY_S, self._ends_at - MARGIN_S)
            return
        if ends_at < now + MARGIN_S:
            raise ProviderError(
                "connect",
                f"the token ends in {ends_at - now:.0f} s, it has to be good for {MARGIN_S} s",
                True,
            )
        self._token, self._ends_at, self._fetched_at = token, ends_at, now
        self._renew_at = min(now + self._oldest_s, ends_at - MARGIN_S)

    async def _fetched(self) -> tuple[str, float]:
        fetched = await asyncio.to_thread(self._fetch)
        return await fetched if inspect.isawaitable(fetched) else fetched

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # never the token


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresEntraOptions:
    """How to sign in with Microsoft Entra ID; every field has a default.

    Fields:
        audience: for which the token is; that of Azure's public cloud by default.
        max_connections: accepted for the sake of programs written for the official SDK; a process
            holds six at most.
        acquire_timeout_ms: how long to try to connect.
        refresh_interval_ms: how long a token is used at most, however long it is good for.
        credential: an object of azure-identity; DefaultAzureCredential() by default, which tries
            workload identity, managed identity and the tools of developers.
    """

    audience: str | None = None
    max_connections: int | None = None
    acquire_timeout_ms: int | None = None
    refresh_interval_ms: int | None = None
    credential: Any = None


def entra_password(options: PostgresEntraOptions, *, clock: Clock | None = None) -> RefreshedToken:
    """What asks Entra for the password of a connection.

    Raises:
        ExtraMissing: no credential is given and azure-identity is not installed.
    """
    credential = options.credential if options.credential is not None else _default_credential()
    scope = options.audience or AUDIENCE

    def fetch() -> Any:
        found = credential.get_token(scope)
        if inspect.isawaitable(found):
            return _awaited(found)
        return found.token, float(found.expires_on)

    oldest_ms = options.refresh_interval_ms
    return RefreshedToken(
        fetch, oldest_s=OLDEST_S if oldest_ms is None else oldest_ms / 1000, clock=clock
    )


def entra_parameters(options: PostgresEntraOptions) -> dict[str, Any]:
    """libpq's parameters for a server that takes tokens: its certificate and name are always verified."""
    parameters: dict[str, Any] = {"sslmode": "verify-full"}
    has_own_roots = (
        "PGSSLROOTCERT" in os.environ or (Path.home() / ".postgresql" / "root.crt").exists()
    )
    if not has_own_roots:
        parameters["sslrootcert"] = _public_roots()
    if options.acquire_timeout_ms is not None:
        parameters["connect_timeout"] = max(1, -(-options.acquire_timeout_ms // 1000))
    return parameters


async def _awaited(found: Awaitable[Any]) -> tuple[str, float]:
    token = await found
    return token.token, float(token.expires_on)


def _default_credential() -> Any:
    try:
        identity = importlib.import_module("azure.identity")
    except ImportError as error:
        raise ExtraMissing(
            "Entra tokens need the package 'azure-identity', which is not installed",
            "pip install 'pg-durable[entra]', or give PostgresEntraOptions a credential",
        ) from error
    return identity.DefaultAzureCredential()


def _public_roots() -> str:
    """The authorities that everybody trusts, from where azure-identity has them, or the system's."""
    try:
        return str(importlib.import_module("certifi").where())
    except ImportError:
        return "system"
