"""A step whose text runs while the turn that adds the step is being committed.

Nothing of it can take effect before that: its record needs the lease that the commit gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pg_durable.steps.step import SqlStep

SHORT_S = 1.0


class EarlyStep:
    """One attempt of a step that goes on to its record only once the step is leased."""

    def __init__(self, step: SqlStep) -> None:
        self.step = step  # without a token
        self._leased: asyncio.Future[SqlStep] = asyncio.get_running_loop().create_future()
        self._has_run = False
        self._attempt: asyncio.Future[None] | None = None

    def begin(
        self,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Future[None]],
        attempt: Coroutine[Any, Any, None],
    ) -> None:
        """Start the attempt, which has to await `leased` between text and record."""
        self._attempt = spawn(attempt)

    async def leased(self) -> SqlStep:
        """Say that the text has run, and wait for the step as it is leased."""
        self._has_run = True
        return await self._leased

    async def finish(self, step: SqlStep) -> bool:
        """Go on with the attempt.

        A text that failed within a moment may have failed because the turn was not committed yet, so
        that does not count. One that ran on for long is not run a second time.

        Args:
            step: the step as it is leased.

        Returns:
            Whether effect and record are committed; if not, there was no effect, and the step is to be run
            as if there had been no attempt.

        Raises:
            Exception: what the attempt raised.
        """
        assert self._attempt is not None
        self._leased.set_result(step)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await self._attempt
        except Exception:
            if self._has_run or loop.time() - began > SHORT_S:
                raise
            return False
        return True

    def drop(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
