"""What steps ask of the home database, over the worker's own connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import psycopg

from duroxide.errors import ProviderError
from duroxide.ids import ActivityToken
from duroxide.providers.base import Provider, Renewal
from pg_durable.home import Home

_PAUSE_S = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Submitter:
    """The role that started a workflow, as it is now."""

    name: str | None  # None: it does not exist any more
    is_superuser: bool = False


@dataclass(frozen=True, slots=True)
class Rights:
    """What the role that started a workflow may do now."""

    name: str | None  # None: it does not exist any more
    is_superuser: bool = False
    may_call: bool = False


class Begun(Protocol):
    """A step that can be marked as begun."""

    @property
    def workflow_id(self) -> str: ...
    @property
    def node_id(self) -> str: ...
    @property
    def activity(self) -> str:
        """The same at every delivery."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A leased step that is marked as begun before it takes effect."""

    workflow_id: str
    node_id: str
    activity: str
    token: str


class Desk(Protocol):
    """Answers and notes from outside the step's own session."""

    async def backend_is_gone(self, pid: int) -> bool: ...

    async def is_leased(self, token: str) -> bool:
        """Whether the activity row is there, held under this token; if so, it is for a while."""
        ...

    async def submitter(self, workflow_id: str) -> Submitter: ...

    async def rights(self, workflow_id: str, signature: str) -> Rights:
        """Of the submitter, with regard to a function."""
        ...

    async def allows_superusers(self) -> bool: ...

    async def begin_attempt(self, step: Begun) -> int:
        """Commit that the step is begun; returns how often that was said, this time included."""
        ...

    async def end_attempt(self, step: Begun) -> None:
        """Forget the attempts of a step that is recorded."""
        ...


class HomeDesk:
    """The desk at the home database."""

    def __init__(self, home: Home, provider: Provider, *, lease_ms: int) -> None:
        self._home = home
        self._provider = provider
        self._lease_ms = lease_ms

    async def backend_is_gone(self, pid: int) -> bool:
        return not await _patiently(lambda: self._home.backend_exists(pid))

    async def is_leased(self, token: str) -> bool:
        async def renew() -> Renewal:
            return await self._provider.renew(
                activities=[ActivityToken(token)], activity_lease_ms=self._lease_ms
            )

        return not (await _patiently(renew)).lost_activities

    async def submitter(self, workflow_id: str) -> Submitter:
        return Submitter(*await _patiently(lambda: self._home.submitter(workflow_id)))

    async def rights(self, workflow_id: str, signature: str) -> Rights:
        return Rights(*await _patiently(lambda: self._home.rights(workflow_id, signature)))

    async def allows_superusers(self) -> bool:
        return await _patiently(self._home.allows_superusers)

    async def begin_attempt(self, step: Begun) -> int:
        return await self._home.begin_attempt(
            instance_id=step.workflow_id, node_id=step.node_id, step=step.activity
        )

    async def end_attempt(self, step: Begun) -> None:
        await self._home.end_attempt(
            instance_id=step.workflow_id, node_id=step.node_id, step=step.activity
        )


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer: that the store can't be reached must not fail a step.

    Whoever asks is interrupted when the step is not wanted any more.
    """
    while True:
        try:
            return await ask()
        except psycopg.OperationalError:
            pass
        except ProviderError as error:
            if not error.retryable:
                raise
        await asyncio.sleep(_PAUSE_S)
