"""Slots own their tasks until the end."""

from __future__ import annotations

import asyncio

from duroxide.runtime.slots import Slots


async def test_a_task_that_has_just_ended_does_not_keep_them_from_ending() -> None:
    slots, ended = Slots(2), asyncio.Event()

    async def work() -> None:
        ended.set()

    slots.spawn(work(), "ends at once")
    await ended.wait()  # its callbacks have not run yet
    async with asyncio.timeout(5):
        await slots.cancel()
        await slots.idle()
    assert slots.free == 2
