"""Waiting for signals, and passing pauses on, as activities of the engine: short calls on the worker's own connection."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from duroxide.activity_context import ActivityContext
from duroxide.registry import ActivityDef, define_activity
from pg_durable.home import Home
from pg_durable.leaves import CLAIM_SIGNAL, UNCLAIM_SIGNAL
from pg_durable.pausing import RELAY_PAUSE

logger = logging.getLogger(__name__)

_PAUSE_S = 0.5


def signal_activities(home: Home) -> tuple[ActivityDef[Any, Any], ...]:
    """`claim-signal`, `unclaim-signal` and `relay-pause`; all may be repeated."""

    async def claim_signal(ctx: ActivityContext, request_text: str) -> str:
        request = json.loads(request_text)
        return await _insistently(ctx, lambda: home.claim_signal(**request)) or "null"

    async def unclaim_signal(ctx: ActivityContext, request_text: str) -> str:
        request = json.loads(request_text)
        was_waiting = await _insistently(ctx, lambda: home.unclaim_signal(**request))
        return "true" if was_waiting else "false"

    async def relay_pause(ctx: ActivityContext, request_text: str) -> str:
        request = json.loads(request_text)
        await _insistently(ctx, lambda: home.relay_pause(**request))
        return "null"

    return tuple(
        define_activity(code, name=name, takes_context=True, raw=True)
        for code, name in (
            (claim_signal, CLAIM_SIGNAL),
            (unclaim_signal, UNCLAIM_SIGNAL),
            (relay_pause, RELAY_PAUSE),
        )
    )


async def _insistently(ctx: ActivityContext, ask: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, however often the connection or a conflict gets in the way."""
    while True:
        try:
            return await ask()
        except psycopg.OperationalError as error:
            if ctx.is_cancelled():
                raise
            logger.warning("instance %s: asking the database again: %s", ctx.instance_id, error)
            await asyncio.sleep(_PAUSE_S)
