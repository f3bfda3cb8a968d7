"""Whole workflows through the runtime, on the reference store, in virtual time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from duroxide import history, work
from duroxide.activity_context import ALREADY_FINISHED, ActivityContext, LeaseLost
from duroxide.client import AsyncClient, OrchestrationFailed
from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.errors import ActivityError, WaitTimeout
from duroxide.outgoing import Signal
from duroxide.providers.base import Capabilities, FinishActivity, Provider
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import Registry
from duroxide.routing import message_of
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.runtime.telemetry import ActivityRecord, Observer, TurnRecord
from duroxide.state import ExecutionStatus
from duroxide.testing.virtualtime import LoopClock, run_virtual
from tests.unit.duroxide.runtime.stores import Scripted

HOUR = timedelta(hours=1)
CACHE: ContextVar[str] = ContextVar("CACHE", default="on")


class Seen(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.turns: list[TurnRecord] = []
        self.activities: list[ActivityRecord] = []
        self.refused: list[str] = []
        self.dropped: list[str] = []
        self.poisoned: list[str] = []

    def turn_committed(self, record: TurnRecord) -> None:
        self.turns.append(record)

    def activity_ended(self, record: ActivityRecord) -> None:
        self.activities.append(record)

    def turn_refused(self, instance_id: str, reason: str) -> None:
        self.refused.append(reason)

    def message_dropped(self, instance_id: str, reason: str) -> None:
        self.dropped.append(instance_id)

    def instance_poisoned(self, instance_id: str, attempts: int) -> None:
        self.poisoned.append(instance_id)


@asynccontextmanager
async def working(
    *definitions: Any, provider: Provider | None = None, **options: Any
) -> AsyncIterator[tuple[AsyncClient, AsyncRuntime]]:
    store = provider or MemoryProvider(LoopClock())
    registry = Registry().add(*definitions)
    settings = RuntimeOptions(**{"cache": CACHE.get(), **options})
    async with (
        AsyncClient(store) as client,
        AsyncRuntime(store, registry, settings) as runtime,
    ):
        yield client, runtime


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[str], None]:
    """Run a test on a loop whose time passes by itself, in each mode of the cache."""

    def run(cache: str) -> None:
        token = CACHE.set(cache)
        try:
            run_virtual(test())
        finally:
            CACHE.reset(token)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    mark: Callable[[Callable[[str], None]], Callable[[str], None]]
    mark = pytest.mark.parametrize("cache", ["on", "off", "verify"])
    return mark(run)


@activity
async def double(number: int) -> int:
    return number * 2


@activity
def fail(message: str) -> None:
    raise ValueError(message)


@orchestration
async def one_activity(ctx: OrchestrationContext, number: int) -> int:
    return int(await ctx.call(double, number))


@orchestration
async def chain(ctx: OrchestrationContext, length: int) -> int:
    total = 1
    for _ in range(length):
        total = await ctx.call(double, total) % 1_000_003
    return total


@orchestration
async def fan_out(ctx: OrchestrationContext, width: int) -> int:
    return sum(await ctx.gather(*(ctx.call(double, number) for number in range(width))))


@orchestration
async def nap(ctx: OrchestrationContext, seconds: float) -> str:
    await ctx.sleep(seconds)
    return "rested"


@orchestration
async def failing(ctx: OrchestrationContext, message: str) -> None:
    await ctx.call(fail, message)


@orchestration
async def waiting(ctx: OrchestrationContext) -> str:
    return str(await ctx.wait_event("go"))


@virtually
async def test_an_activity_is_run_and_its_result_returned() -> None:
    async with working(one_activity, double) as (client, _):
        instance = await client.start(one_activity, 21)
        assert await client.result(instance, one_activity) == 42
        kinds = [type(event.kind) for event in await client.history(instance)]
    assert kinds == [
        history.OrchestrationStarted,
        history.ActivityScheduled,
        history.ActivityCompleted,
        history.OrchestrationCompleted,
    ]


@virtually
async def test_a_chain_of_activities() -> None:
    async with working(chain, double) as (client, _):
        instance = await client.start(chain, 100)
        assert await client.result(instance) == pow(2, 100, 1_000_003)


@virtually
async def test_many_instances_fan_out_at_once() -> None:
    async with working(fan_out, double) as (client, _):
        ids = [await client.start(fan_out, 5) for _ in range(100)]
        results = await asyncio.gather(*(client.result(instance) for instance in ids))
    assert results == [20] * 100


@virtually
async def test_a_timer_fires_when_it_is_due_and_not_before() -> None:
    async with working(nap) as (client, _):
        loop = asyncio.get_running_loop()
        started = loop.time()
        instance = await client.start(nap, 3600)
        assert await client.result(instance, timeout=2 * HOUR) == "rested"
        assert 3600 <= loop.time() - started < 3600.05


@virtually
async def test_a_failure_says_what_failed_and_why() -> None:
    async with working(failing, fail) as (client, _):
        instance = await client.start(failing, "no such order")
        with pytest.raises(OrchestrationFailed) as failure:
            await client.result(instance)
        text = "Activity 'fail' call failed: ValueError: no such order"
        assert text in str(failure.value)
        (event,) = [
            e.kind
            for e in await client.history(instance)
            if isinstance(e.kind, history.ActivityFailed)
        ]
    assert str(event.details) == text


@virtually
async def test_an_event_reaches_the_instance() -> None:
    async with working(waiting) as (client, _):
        instance = await client.start(waiting)
        await client.wait_until(instance, lambda state: True)
        await client.raise_event(instance, "go", "now")
        assert await client.result(instance) == "now"


@virtually
async def test_a_start_with_a_signal_is_one_commit() -> None:
    @orchestration
    async def mailbox(ctx: OrchestrationContext) -> str:
        return str(await ctx.queue("in").get())

    async with working(mailbox) as (client, _):
        instance = await client.start(mailbox, signal=Signal(name="in", data="hello", queued=True))
        assert await client.result(instance) == "hello"


@virtually
async def test_a_cancelled_instance_ends_as_failed() -> None:
    async with working(waiting) as (client, _):
        instance = await client.start(waiting)
        await client.cancel(instance, "not needed")
        state = await client.wait(instance)
    assert (state.status, state.output) == (ExecutionStatus.FAILED, "canceled: not needed")


@virtually
async def test_a_child_answers_its_parent() -> None:
    @orchestration
    async def parent(ctx: OrchestrationContext, number: int) -> int:
        return int(await ctx.call_child(one_activity, number)) + 1

    async with working(parent, one_activity, double) as (client, _):
        instance = await client.start(parent, 20)
        assert await client.result(instance) == 41


@virtually
async def test_an_instance_continues_as_new() -> None:
    @orchestration
    async def countdown(ctx: OrchestrationContext, left: int) -> str:
        await ctx.call(double, left)
        if left:
            ctx.continue_as_new(left - 1)
        return "lift-off"

    async with working(countdown, double) as (client, _):
        instance = await client.start(countdown, 5)
        assert await client.result(instance) == "lift-off"
        state = await client.status(instance)
    assert state is not None
    assert state.execution_id == 6


@virtually
async def test_an_actor_that_takes_one_message_an_execution_works_off_any_backlog() -> None:
    """What an execution leaves to the next one was not delivered in vain."""

    @orchestration
    async def actor(ctx: OrchestrationContext, seen: list[int]) -> list[int]:
        seen.append(await ctx.queue("numbers", int).get())
        if len(seen) < 30:
            ctx.continue_as_new(seen)
        return seen

    async with working(actor, max_attempts=2) as (client, _):
        first = Signal(name="numbers", data=0, queued=True)
        instance = await client.start(actor, [], signal=first)
        for number in range(1, 30):
            await client.enqueue(instance, "numbers", number)
        assert await client.result(instance) == list(range(30))


@virtually
async def test_starting_an_id_twice_starts_it_once() -> None:
    seen = Seen()
    async with working(one_activity, double, observer=seen) as (client, _):
        for _ in range(3):
            await client.start(one_activity, 1, instance_id="once")
        await client.result("once")
        await client.start(one_activity, 1, instance_id="once")
        await asyncio.sleep(1)
        assert len(await client.history("once")) == 4
    assert len([a for a in seen.activities if a.outcome == "success"]) == 1


@virtually
async def test_a_wait_that_is_too_short_says_so() -> None:
    async with working(waiting) as (client, _):
        instance = await client.start(waiting)
        with pytest.raises(WaitTimeout, match="Operation timed out"):
            await client.wait(instance, timedelta(seconds=1))


@virtually
async def test_one_may_wait_for_what_does_not_exist_yet() -> None:
    async with working(one_activity, double) as (client, _):
        wait = asyncio.create_task(client.result("later"))
        await asyncio.sleep(10)
        await client.start(one_activity, 1, instance_id="later")
        assert await wait == 2


# What can't be run here.


@virtually
async def test_an_unregistered_orchestration_becomes_poison_and_says_so() -> None:
    seen = Seen()
    async with working(observer=seen) as (client, _):
        await client.start("nowhere", instance_id="lost")
        state = await client.wait("lost", 2 * HOUR)
    assert state.status is ExecutionStatus.FAILED
    assert state.output is not None
    assert "poison: orchestration lost exceeded 11 attempts (max 10)" in state.output
    assert "orchestration 'nowhere' is not registered here" in seen.refused


@virtually
async def test_another_worker_takes_what_this_one_can_not_run() -> None:
    store = MemoryProvider(LoopClock())
    often = 100  # each of the two may be the one that gets it, ten times in a row
    async with working(provider=store, max_attempts=often) as (client, _):
        await client.start(one_activity, 21, instance_id="i1")
        await asyncio.sleep(5)
        async with working(one_activity, double, provider=store, max_attempts=often):
            assert await client.result("i1", timeout=HOUR) == 42


@virtually
async def test_an_unregistered_activity_becomes_poison_and_fails_its_caller() -> None:
    async with working(one_activity) as (client, _):
        await client.start(one_activity, 1, instance_id="i1")
        state = await client.wait("i1", 2 * HOUR)
    assert state.status is ExecutionStatus.FAILED
    assert state.output is not None
    assert "poison: activity double#2 exceeded 11 attempts (max 10)" in state.output


@virtually
async def test_a_poisoned_child_fails_its_parent() -> None:
    @orchestration
    async def parent(ctx: OrchestrationContext) -> None:
        await ctx.call_child("nowhere", 1)

    async with working(parent) as (client, _):
        await client.start(parent, instance_id="i1")
        state = await client.wait("i1", 2 * HOUR)
    assert state.status is ExecutionStatus.FAILED


@virtually
async def test_code_that_changed_is_not_run_and_ends_as_poison() -> None:
    store = MemoryProvider(LoopClock())

    @orchestration(name="changing")
    async def before(ctx: OrchestrationContext) -> None:
        await ctx.call(double, 1)
        await ctx.wait_event("go")

    @orchestration(name="changing")
    async def after(ctx: OrchestrationContext) -> None:
        await ctx.sleep(1)
        await ctx.wait_event("go")

    seen = Seen()
    async with working(before, double, provider=store) as (client, _):
        await client.start(before, instance_id="i1")
        await asyncio.sleep(1)
    async with working(after, provider=store, observer=seen) as (client, _):
        length = len(await client.history("i1"))
        await client.raise_event("i1", "go")
        await asyncio.sleep(60)
        assert len(await client.history("i1")) == length, "nothing of such a turn is written"
        state = await client.wait("i1", 2 * HOUR)
    assert state.status is ExecutionStatus.FAILED
    assert seen.poisoned == ["i1"]


@virtually
async def test_messages_to_nobody_are_dropped_after_a_while_and_block_nobody() -> None:
    seen = Seen()
    async with working(one_activity, double, observer=seen) as (client, _):
        await client.raise_event("nobody", "go")
        await client.enqueue("nobody", "in", 1)
        await client.cancel("nobody")
        instance = await client.start(one_activity, 1)
        assert await client.result(instance) == 2
        await asyncio.sleep(600)
        assert set(seen.dropped) == {"nobody"}
        depths = await client.provider.queue_depths()  # type: ignore[attr-defined]
    assert depths.orchestrator_queue == 0


@virtually
async def test_what_was_sent_before_the_start_is_not_lost() -> None:
    @orchestration
    async def mailbox(ctx: OrchestrationContext) -> str:
        return str(await ctx.queue("in").get())

    async with working(mailbox) as (client, _):
        await client.enqueue("i1", "in", "early")
        await asyncio.sleep(20)
        await client.start(mailbox, instance_id="i1")
        assert await client.result("i1") == "early"


# Activities.


@virtually
async def test_an_activity_sees_where_it_runs() -> None:
    seen: list[ActivityContext] = []

    @activity
    async def look(ctx: ActivityContext) -> None:
        seen.append(ctx)

    @orchestration
    async def looking(ctx: OrchestrationContext) -> None:
        await ctx.call(look)

    async with working(looking, look, worker_node_id="here") as (client, _):
        await client.start(looking, instance_id="i1")
        await client.result("i1")
    (ctx,) = seen
    assert (ctx.instance_id, ctx.execution_id, ctx.activity_id) == ("i1", 1, 2)
    assert (ctx.orchestration_name, ctx.orchestration_version) == ("looking", "1.0.0")
    assert (ctx.activity_name, ctx.worker_id, ctx.attempt) == ("look", "here", 1)


@virtually
async def test_a_long_activity_keeps_its_lease() -> None:
    runs: list[int] = []

    @activity
    async def slow(ctx: ActivityContext) -> str:
        runs.append(ctx.attempt)
        await asyncio.sleep(600)
        return "done"

    @orchestration
    async def patient(ctx: OrchestrationContext) -> str:
        return str(await ctx.call(slow))

    store = MemoryProvider(LoopClock())
    async with (
        working(patient, slow, provider=store) as (client, _),
        working(patient, slow, provider=store),
    ):
        instance = await client.start(patient)
        assert await client.result(instance, timeout=HOUR) == "done"
    assert runs == [1]


@virtually
async def test_an_activity_hears_that_nobody_waits_any_more() -> None:
    heard: list[bool] = []

    @activity
    async def endless(ctx: ActivityContext) -> None:
        await ctx.cancelled()
        heard.append(ctx.is_cancelled())

    @orchestration
    async def impatient(ctx: OrchestrationContext) -> str:
        try:
            async with ctx.timeout(5):
                await ctx.call(endless)
        except TimeoutError:
            return "gave up"
        return "done"

    seen = Seen()
    async with working(impatient, endless, observer=seen) as (client, _):
        instance = await client.start(impatient)
        assert await client.result(instance, timeout=HOUR) == "gave up"
        await asyncio.sleep(60)
    assert heard == [True]
    assert [record.outcome for record in seen.activities] == ["lost"]


@virtually
async def test_an_activity_that_ignores_its_cancellation_is_interrupted() -> None:
    ended: list[str] = []

    @activity
    async def stubborn() -> None:
        try:
            await asyncio.sleep(100_000)
        finally:
            ended.append("interrupted")

    @orchestration
    async def impatient(ctx: OrchestrationContext) -> None:
        await ctx.select(ctx.call(stubborn), ctx.sleep(5))

    seen = Seen()
    async with working(impatient, stubborn, observer=seen, cancellation_grace_ms=2_000) as (
        client,
        _,
    ):
        await client.result(await client.start(impatient), timeout=HOUR)
        await asyncio.sleep(60)
    assert ended == ["interrupted"]
    assert [record.outcome for record in seen.activities] == ["cancelled"]


@virtually
async def test_an_activity_that_recorded_its_own_completion_sends_no_other() -> None:
    store = MemoryProvider(LoopClock())

    @activity(raw=True)
    async def transactional(ctx: ActivityContext, text: str) -> Any:
        completion = work.ActivityCompletion(
            instance=ctx.instance_id, execution_id=ctx.execution_id, id=ctx.activity_id, result="42"
        )
        finish = FinishActivity(token=ctx.token, completion=message_of(completion))
        await store.commit([finish])
        return ALREADY_FINISHED

    @orchestration
    async def trusting(ctx: OrchestrationContext) -> int:
        return int(await ctx.call(transactional, "{}"))

    seen = Seen()
    async with working(trusting, transactional, provider=store, observer=seen) as (client, _):
        assert await client.result(await client.start(trusting)) == 42
    assert [record.outcome for record in seen.activities] == ["finished"]
    assert seen.dropped == []


@virtually
async def test_an_activity_that_lost_its_lease_writes_nothing_and_comes_again() -> None:
    attempts: list[int] = []

    @activity
    async def unlucky(ctx: ActivityContext) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise LeaseLost
        return "done"

    @orchestration
    async def patient(ctx: OrchestrationContext) -> str:
        return str(await ctx.call(unlucky))

    async with working(patient, unlucky) as (client, _):
        assert await client.result(await client.start(patient), timeout=HOUR) == "done"
    assert attempts == [1, 2]


@virtually
async def test_an_error_of_the_author_says_whether_to_try_again() -> None:
    @activity
    async def refuse() -> None:
        raise ActivityError("card declined", "CardDeclined", '{"code":51}', retryable=False)

    @orchestration
    async def paying(ctx: OrchestrationContext) -> str:
        try:
            await ctx.call(refuse)
        except ActivityError as error:
            return f"{error.error_type} {error.data} {error.retryable}"
        return ""

    async with working(paying, refuse) as (client, _):
        result = await client.result(await client.start(paying))
    assert result == 'CardDeclined {"code":51} False'


@virtually
async def test_an_activity_has_a_limit_of_its_own() -> None:
    now, most = 0, 0

    @activity(max_concurrency=3)
    async def limited() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1

    @orchestration
    async def wide(ctx: OrchestrationContext) -> None:
        await ctx.gather(*(ctx.call(limited) for _ in range(20)))

    async with working(wide, limited) as (client, _):
        await client.result(await client.start(wide))
    assert most == 3


@virtually
async def test_no_more_activities_run_than_there_are_slots() -> None:
    now, most = 0, 0

    @activity
    async def busy() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1

    @orchestration
    async def wide(ctx: OrchestrationContext) -> None:
        await ctx.gather(*(ctx.call(busy) for _ in range(30)))

    async with working(wide, busy, worker_concurrency=4) as (client, _):
        ids = [await client.start(wide) for _ in range(3)]
        await asyncio.gather(*(client.result(i, timeout=HOUR) for i in ids))
    assert most == 4


# Ending.


@virtually
async def test_draining_finishes_what_is_under_way() -> None:
    seen = Seen()

    @activity
    async def slow() -> None:
        await asyncio.sleep(10)

    @orchestration
    async def patient(ctx: OrchestrationContext) -> None:
        await ctx.call(slow)

    store = MemoryProvider(LoopClock())
    async with working(patient, slow, provider=store, observer=seen) as (client, runtime):
        await client.start(patient, instance_id="i1")
        await asyncio.sleep(1)
        assert await runtime.drain(timedelta(seconds=60))
    assert [record.outcome for record in seen.activities] == ["success"]
    async with working(patient, slow, provider=store, observer=seen) as (client, _):
        await client.result("i1")
    assert len(seen.activities) == 1, "not run again"


@virtually
async def test_what_a_drain_can_not_finish_goes_to_others_at_once() -> None:
    attempts: list[int] = []

    @activity
    async def slow(ctx: ActivityContext) -> None:
        attempts.append(ctx.attempt)
        await asyncio.sleep(1_000)

    @orchestration
    async def patient(ctx: OrchestrationContext) -> None:
        await ctx.call(slow)

    store = MemoryProvider(LoopClock())
    async with working(patient, slow, provider=store) as (client, runtime):
        await client.start(patient, instance_id="i1")
        await asyncio.sleep(1)
        assert not await runtime.drain(timedelta(seconds=5))
        await runtime.stop()
        assert attempts == [1]
        async with working(patient, slow, provider=store):
            await asyncio.sleep(0.1)
            assert attempts == [1, 1], "at once, and the first delivery does not count"
            await client.result("i1", timeout=HOUR)


@virtually
async def test_a_stop_whose_caller_is_cancelled_goes_on() -> None:
    """Or what it has leased would be nobody's until the lease runs out."""
    began: list[int] = []

    @activity
    async def slow() -> None:
        began.append(1)
        await asyncio.sleep(5)

    @orchestration
    async def waiting(ctx: OrchestrationContext) -> None:
        await ctx.call(slow)

    loop = asyncio.get_running_loop()
    async with working(waiting, slow) as (client, runtime):
        instance = await client.start(waiting)
        await asyncio.sleep(1)
        stopping = asyncio.create_task(runtime.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await runtime.stop()
        stopped = loop.time()
        await runtime.start()
        await client.result(instance)
        assert (len(began), round(loop.time() - stopped)) == (2, 5)


@virtually
async def test_stopping_gives_back_what_a_commit_under_way_has_leased() -> None:
    store = Scripted(LoopClock())
    loop = asyncio.get_running_loop()
    async with AsyncClient(store) as client:
        await client.start(one_activity, 21, instance_id="i1")
        store.called.clear()
        store.gate = asyncio.Event()
        async with working(one_activity, double, provider=store) as (_, runtime):
            await (
                store.called.wait()
            )  # the first turn is on its way, and so is the offer to take on
            stopping = asyncio.create_task(runtime.stop())
            await asyncio.sleep(0.1)
            store.gate.set()
            await stopping
        began = loop.time()
        async with working(one_activity, double, provider=store):
            assert await client.result("i1") == 42
        assert loop.time() - began < 1, "nobody had to wait for the end of a lease"


@virtually
async def test_draining_begins_nothing_new() -> None:
    attempts: list[int] = []

    @activity(max_concurrency=1)
    async def slow(ctx: ActivityContext) -> None:
        attempts.append(ctx.attempt)
        await asyncio.sleep(10)

    @orchestration
    async def wide(ctx: OrchestrationContext) -> None:
        await ctx.gather(*(ctx.call(slow) for _ in range(4)))

    store = MemoryProvider(LoopClock())
    async with working(wide, slow, provider=store) as (client, runtime):
        await client.start(wide, instance_id="i1")
        await asyncio.sleep(1)
        assert await runtime.drain(timedelta(seconds=60))
        assert attempts == [1], "the others wait in the store again"
    async with working(wide, slow, provider=store) as (client, _):
        await client.result("i1", timeout=HOUR)
    assert attempts == [1, 1, 1, 1]


@virtually
async def test_a_turn_that_holds_the_loop_is_named() -> None:
    records: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    @orchestration
    async def heavy(ctx: OrchestrationContext) -> None:
        end = time.perf_counter() + 0.55
        while time.perf_counter() < end:
            pass

    handler = Keep()
    logging.getLogger("duroxide.runtime").addHandler(handler)
    try:
        async with working(heavy) as (client, _):
            await client.result(await client.start(heavy, instance_id="i1"))
    finally:
        logging.getLogger("duroxide.runtime").removeHandler(handler)
    assert any("a turn of i1 (heavy) held the event loop for 0." in line for line in records)


@virtually
async def test_nothing_is_left_behind() -> None:
    before = asyncio.all_tasks()
    async with working(fan_out, double) as (client, _):
        for _ in range(10):
            await client.start(fan_out, 5)
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


# Stores that can do less.


class Bare(MemoryProvider):
    """A store that has no optional capability and can't wait."""

    async def poll_turns(self, **question: Any) -> Any:
        return await super().poll_turns(**{**question, "wait_ms": 0})

    async def poll_activities(self, **question: Any) -> Any:
        return await super().poll_activities(**{**question, "wait_ms": 0})

    async def wait_for_change(self, instance_ids: Any, *, wait_ms: int) -> None:
        await asyncio.sleep(0.02)


@virtually
async def test_a_store_without_any_optional_capability_will_do() -> None:
    store = Bare(LoopClock(), capabilities=Capabilities())
    loop = asyncio.get_running_loop()
    async with working(chain, nap, double, provider=store) as (client, _):
        started = loop.time()
        assert await client.result(await client.start(chain, 20)) == pow(2, 20, 1_000_003)
        assert loop.time() - started < 5
        assert await client.result(await client.start(nap, 7)) == "rested"
