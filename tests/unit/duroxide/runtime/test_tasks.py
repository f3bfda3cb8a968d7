"""A task ends even if it has not heard of its cancellation the first time."""

from __future__ import annotations

import asyncio

from duroxide.runtime.tasks import end


async def test_a_task_that_forgot_its_cancellation_is_cancelled_again() -> None:
    heard = 0

    async def forgetful() -> None:
        nonlocal heard
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                heard += 1
                if heard == 2:
                    raise

    task = asyncio.ensure_future(forgetful())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    assert heard == 2


async def test_a_task_that_has_ended_is_left_alone() -> None:
    task = asyncio.ensure_future(asyncio.sleep(0, "result"))
    await task
    await end(task)
    assert task.result() == "result"
