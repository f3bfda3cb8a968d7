"""An instance that retention removes while a message to it is on its way."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import pytest

from duroxide import AsyncClient, AsyncRuntime, OrchestrationContext, Registry, orchestration
from duroxide.providers.base import TurnPoll
from duroxide.providers.memory import MemoryProvider

PROBLEM = "history has 0 events, not 1"


class Unread(MemoryProvider):
    """Reads the history of what it has leased too late, or not at all; once."""

    removes = False
    answered: asyncio.Event | None = None

    async def poll_turns(self, **question: Any) -> TurnPoll:
        answer = await super().poll_turns(**question)
        if self.answered is None or self.answered.is_set() or not answer.turns:
            return answer
        self.answered.set()
        if self.removes:
            ids = [turn.instance_id for turn in answer.turns]
            await self.delete_instances(ids, force=True)
        turns = tuple(
            dataclasses.replace(turn, history=(), history_after=0, history_error=PROBLEM)
            for turn in answer.turns
        )
        return dataclasses.replace(answer, turns=turns)


@orchestration
async def waits(ctx: OrchestrationContext) -> object:
    return await ctx.wait_event("go")


@pytest.mark.parametrize("is_removed", [True, False])
async def test_it_is_a_warning_only_if_it_is_still_there(
    is_removed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    provider = Unread()
    provider.removes = is_removed
    async with AsyncClient(provider) as client, AsyncRuntime(provider, Registry().add(waits)):
        instance = await client.start(waits)
        while (await provider.queue_depths()).orchestrator_queue:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        provider.answered = asyncio.Event()
        await client.raise_event(instance, "go", "now")
        await provider.answered.wait()
    said = [(r.levelname, r.getMessage()) for r in caplog.records if instance in r.getMessage()]
    if is_removed:
        assert said == [("INFO", f"{instance} was removed before its turn began")]
    else:
        assert said == [("WARNING", f"turn of {instance} not written: {PROBLEM}")]
