"""Wrong code is refused and harms nothing; the right code, deployed again, lets the instance go on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from duroxide.client import AsyncClient
from duroxide.context import OrchestrationContext
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import Registry, define_activity, define_orchestration
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.runtime.telemetry import Observer
from duroxide.state import ExecutionStatus
from duroxide.testing.replay import assert_replays
from duroxide.testing.virtualtime import LoopClock, run_virtual

Code = Callable[[OrchestrationContext], Awaitable[str]]


async def reserve(sku: str) -> str:
    return f"hold-{sku}"


async def charge(hold: str) -> str:
    return f"paid {hold}"


async def ship(ctx: OrchestrationContext) -> str:
    return "shipped"


async def right(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("ordering")
    hold = await ctx.call("reserve", "x", result=str)
    await ctx.sleep(seconds=5)
    await ctx.call_child("ship", version="1.0.0")
    await ctx.wait_event("go")
    return await ctx.call("charge", hold, result=str)


async def changed_activity(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("ordering")
    await ctx.call("reserve", "y")
    return "wrong"


async def removed_step(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("ordering")
    await ctx.sleep(seconds=5)
    return "wrong"


async def early_return(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("ordering")
    await ctx.call("reserve", "x")
    return "wrong"


async def changed_timer(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("ordering")
    await ctx.call("reserve", "x")
    await ctx.sleep(seconds=6)
    return "wrong"


async def changed_child_version(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("ordering")
    await ctx.call("reserve", "x")
    await ctx.sleep(seconds=5)
    await ctx.call_child("ship", version="2.0.0")
    return "wrong"


async def changed_status(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("begun")
    return "wrong"


class Refusals(Observer):
    def __init__(self) -> None:
        self.reports: list[str] = []
        self.came = asyncio.Event()

    def turn_refused(self, instance_id: str, reason: str) -> None:
        self.reports.append(reason)
        self.came.set()


def deployed(
    provider: MemoryProvider, code: Code, observer: Observer | None = None, **options: Any
) -> AsyncRuntime:
    registry = Registry().add(
        define_activity(reserve),
        define_activity(charge),
        define_orchestration(ship),
        define_orchestration(ship, version="2.0.0"),
        define_orchestration(code, name="order"),
    )
    settings = RuntimeOptions(observer=observer or Observer(), **options)
    return AsyncRuntime(provider, registry, settings)


@pytest.mark.parametrize(
    ("wrong", "recorded", "did"),
    [
        (changed_activity, "ActivityScheduled.*'reserve'.*.3 characters, differs.", "differs"),
        (removed_step, "ActivityScheduled.*'reserve'", "TimerCreated"),
        (early_return, "TimerCreated", "OrchestrationCompleted"),
        (changed_timer, "delay_ms=5000", "delay_ms=6000"),
        (changed_child_version, "version='1.0.0'", "version='2.0.0'"),
        (changed_status, "status=.8 characters, differs.", "status=.5 characters, differs."),
    ],
)
def test_an_instance_goes_on_when_the_right_code_is_deployed_again(
    wrong: Code, recorded: str, did: str
) -> None:
    async def story() -> None:
        provider = MemoryProvider(clock=LoopClock())
        async with AsyncClient(provider) as client:
            async with deployed(provider, right):
                await client.start("order", instance_id="o1")
                await asyncio.sleep(10)  # virtual: past the timer, to the wait for "go"
            before = await client.history("o1")
            assert type(before[-1].kind).__name__ == "ExternalSubscribed"

            refusals = Refusals()
            async with deployed(provider, wrong, refusals):
                await client.raise_event("o1", "go")
                await refusals.came.wait()
                state = await client.status("o1")
                assert state is not None
                assert state.status is ExecutionStatus.RUNNING
            assert await client.history("o1") == before
            _, was, now = refusals.reports[0].splitlines()
            assert re.search(recorded, was)
            assert re.search(did, now)
            assert "test_redeploy.py:" in now or wrong is early_return

            async with deployed(provider, right):
                assert await client.result("o1") == "paid hold-x"
            after: list[Any] = list(await client.history("o1"))
            assert_replays(after, define_orchestration(right, name="order"))

    run_virtual(story())


@pytest.mark.parametrize("cache", ["on", "off"])
def test_wrong_code_fails_an_instance_at_once_where_that_is_wanted(cache: str) -> None:
    async def wrong(ctx: OrchestrationContext) -> str:
        await right(ctx)
        await asyncio.sleep(0)
        return "wrong"

    async def story() -> None:
        provider = MemoryProvider(clock=LoopClock())
        refusals = Refusals()
        async with AsyncClient(provider) as client:
            async with deployed(provider, wrong, refusals, nondeterminism="fail", cache=cache):
                await client.start("order", instance_id="o1")
                await asyncio.sleep(10)
                await client.raise_event("o1", "go")
                state = await client.wait("o1")
            assert state.status is ExecutionStatus.FAILED
            assert (state.output or "").startswith(
                "nondeterministic: an orchestration can await only"
            )
            assert len(refusals.reports) == 1
            events = await client.history("o1")
            assert type(events[-1].kind).__name__ == "OrchestrationFailed"
            assert [e.event_id for e in events] == list(range(1, len(events) + 1))

    run_virtual(story())


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="nondeterminism must be 'retry' or 'fail', not 'ignore'"):
        RuntimeOptions(nondeterminism="ignore")  # type: ignore[arg-type]


def test_what_code_asked_for_and_forgot_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    async def forgets(ctx: OrchestrationContext) -> str:
        ctx.wait_event("never", buffered=True)
        return await ctx.call("reserve", "x", result=str)

    async def story() -> None:
        provider = MemoryProvider(clock=LoopClock())
        async with AsyncClient(provider) as client, deployed(provider, forgets):
            await client.start("order", instance_id="o1")
            assert await client.result("o1") == "hold-x"

    run_virtual(story())
    told = [r.getMessage() for r in caplog.records if "without awaiting" in r.getMessage()]
    assert told == [
        "o1 (order) completed without awaiting or cancelling what it had asked for, so that was "
        "given up: ExternalSubscribed never"
    ]
