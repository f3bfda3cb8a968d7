"""Who uses a provider in a blocking program, so that what a server has to keep for it ends with the last.

Nobody closes the provider of such a program: it rests when nothing works with it, and opens what it needs
when somebody does again. Everything here but `Use.drop` happens in the portal's thread.
"""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable

from duroxide.errors import ProviderError
from duroxide.portal import Portal
from duroxide.providers import base

logger = logging.getLogger("duroxide")

LINGER_S = 1.0
"""How long a provider waits for the next client after the last one is gone: some make one for each call."""


@runtime_checkable
class Resting(Protocol):
    """A provider that can give up its connections for the time in which nobody needs it."""

    async def rest(self) -> None: ...


class Use:
    """One runtime that works, or one client that has called; `is_work`: it is a runtime."""

    def __init__(self, provider: base.Provider, *, is_work: bool) -> None:
        self.provider = provider
        self.is_work = is_work

    def begin(self) -> None:
        _uses[self] = None

    async def end(self) -> None:
        """It is over; the provider rests unless others use it.

        What a runtime leaves to clients alone rests as well: there is nothing to be told of any more.
        """
        if self not in _uses:
            return
        del _uses[self]
        is_used = any(
            use.provider is self.provider and (use.is_work or not self.is_work) for use in _uses
        )
        if not is_used and isinstance(self.provider, Resting):
            await self.provider.rest()

    def drop(self, portal: Portal) -> None:
        """Its owner was garbage collected, in whatever thread: end it in a moment, and wait for nothing."""
        if self in _uses:  # it may never have called
            portal.later(LINGER_S, self._end_dropped)

    async def _end_dropped(self) -> None:
        try:
            await self.end()
        except ProviderError as error:
            logger.warning("connections could not be given back: %s", error)


_uses: dict[Use, None] = {}
