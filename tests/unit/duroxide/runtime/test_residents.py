"""Instances that stay here while their activities run here."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from duroxide import work
from duroxide.activity_context import ActivityContext, FinishedAs
from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.providers.base import (
    AbandonTurn,
    CommitItem,
    CommitResult,
    CommitTurn,
    EagerDispatch,
    FinishActivity,
    LeasedTurn,
    TurnPoll,
)
from duroxide.providers.memory import MemoryProvider
from duroxide.routing import message_of
from duroxide.runtime.orchestrations import REFRESH_S
from duroxide.state import ExecutionStatus
from duroxide.testing.virtualtime import LoopClock, run_virtual
from tests.unit.duroxide.runtime.stores import Scripted
from tests.unit.duroxide.runtime.test_runtime import (
    Seen,
    chain,
    double,
    fan_out,
    working,
)

HOUR = timedelta(hours=1)


def items(store: Scripted) -> list[CommitItem]:
    return [item for batch in store.batches for item in batch]


def turns_of(store: Scripted) -> Sequence[CommitTurn]:
    return [item for item in items(store) if isinstance(item, CommitTurn)]


@activity
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


def test_a_chain_costs_one_commit_for_each_step_and_no_message() -> None:
    async def scenario() -> None:
        store = Scripted(LoopClock())
        async with working(chain, double, provider=store) as (client, _):
            await client.result(await client.start(chain, 20))
        assert len(turns_of(store)) == 21
        assert not [i for i in items(store) if isinstance(i, FinishActivity | AbandonTurn)]
        assert [turn.keep_lease_ms is not None for turn in turns_of(store)] == [True] * 20 + [False]

    run_virtual(scenario())


def test_results_that_come_together_are_recorded_together() -> None:
    async def scenario() -> None:
        store = Scripted(LoopClock())
        async with working(fan_out, double, provider=store) as (client, _):
            await client.result(await client.start(fan_out, 50))
        assert len(turns_of(store)) == 2
        assert len(turns_of(store)[1].finished) == 50

    run_virtual(scenario())


def test_a_message_reaches_an_instance_that_is_kept() -> None:
    @orchestration
    async def both(ctx: OrchestrationContext) -> list[object]:
        work, go = ctx.call(slow, 3600), ctx.wait_event("go")
        first = await ctx.select(work, go)
        ctx.set_custom_status(str(first.value))
        return [first.value, await ctx.call(slow, 1)]

    async def scenario() -> None:
        async with working(both, slow) as (client, _):
            instance = await client.start(both)
            await asyncio.sleep(10)
            began = asyncio.get_running_loop().time()
            await client.raise_event(instance, "go", "now")
            state = await client.wait_until(instance, lambda s: s.custom_status is not None)
            assert state.custom_status == "now"
            assert asyncio.get_running_loop().time() - began < 0.1
            assert await client.result(instance) == ["now", "done"]

    run_virtual(scenario())


class Polled(MemoryProvider):
    """Notes the turns that it has given out."""

    def __init__(self, clock: LoopClock) -> None:
        super().__init__(clock)
        self.given: list[LeasedTurn] = []

    async def poll_turns(self, **how: Any) -> TurnPoll:
        answer = await super().poll_turns(**how)
        self.given += answer.turns
        return answer


def test_a_poll_that_waits_already_hears_of_an_instance_that_was_just_kept() -> None:
    @orchestration
    async def patient(ctx: OrchestrationContext) -> object:
        return (await ctx.select(ctx.call(slow, 3600), ctx.wait_event("go"))).value

    async def scenario() -> None:
        async with working(patient, slow) as (client, _):
            instance = await client.start(patient)
            await asyncio.sleep(0.01)
            began = asyncio.get_running_loop().time()
            await client.raise_event(instance, "go", 1)
            assert await client.result(instance) == 1
            assert asyncio.get_running_loop().time() - began < REFRESH_S / 2

    run_virtual(scenario())


def test_a_message_for_an_instance_that_is_kept_comes_without_its_history() -> None:
    @orchestration
    async def patient(ctx: OrchestrationContext) -> object:
        return (await ctx.select(ctx.call(slow, 3600), ctx.wait_event("go"))).value

    async def scenario() -> None:
        store = Polled(LoopClock())
        async with working(patient, slow, provider=store) as (client, _):
            instance = await client.start(patient)
            await asyncio.sleep(10)
            await client.raise_event(instance, "go", 1)
            assert await client.result(instance) == 1
        began, raised = store.given
        assert began.next_event_id == 1
        assert raised.history == ()
        assert raised.history_after == raised.next_event_id - 1 > 0

    run_virtual(scenario())


def test_a_kept_lease_is_given_back_when_nothing_runs_here_any_more() -> None:
    @orchestration
    async def then_wait(ctx: OrchestrationContext) -> str:
        await ctx.call(double, 1)
        return str(await ctx.wait_event("go"))

    async def scenario() -> None:
        store = MemoryProvider(LoopClock())
        async with working(then_wait, double, provider=store) as (client, _):
            instance = await client.start(then_wait)
            await asyncio.sleep(1)
            await client.raise_event(instance, "go", 1)
            polled = await store.poll_turns(worker="other", want=1, lease_ms=1)
            assert [turn.instance_id for turn in polled.turns] == [instance]
            assert await client.result(instance) == "1"

    run_virtual(scenario())


class LosesLeases(Scripted):
    """Ends every instance lease while nobody looks, as a long outage would."""

    def lose(self) -> None:
        for lease in self._store.leases.values():
            lease.expires_at_ms = 0


def test_when_the_lease_of_the_instance_is_lost_results_go_by_message() -> None:
    async def scenario() -> None:
        store = LosesLeases(LoopClock())

        @orchestration
        async def patient(ctx: OrchestrationContext) -> str:
            return str(await ctx.call(slow, 1))

        async with working(patient, slow, provider=store) as (client, _):
            instance = await client.start(patient)
            await asyncio.sleep(0.5)
            store.lose()
            assert await client.result(instance) == "done"
        assert [item for item in items(store) if isinstance(item, FinishActivity)]
        events = [event.event_id for event in await client.history(instance)]
        assert events == [1, 2, 3, 4]

    run_virtual(scenario())


class KeepsAReply(LosesLeases):
    """Holds back the reply to one commit of a turn, which it has written."""

    reply: asyncio.Event | None = None

    def holds(self, reply: asyncio.Event) -> bool:
        return self.reply is not reply

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        results = await super().commit(batch, eager=eager)
        if self.reply is not None and any(isinstance(item, CommitTurn) for item in batch):
            reply, self.reply = self.reply, None
            await reply.wait()
        return results


def test_an_answer_that_comes_after_the_lease_ran_out_disturbs_nobody() -> None:
    @orchestration
    async def busy(ctx: OrchestrationContext) -> str:
        await ctx.call(slow, 1)
        meanwhile = ctx.call(slow, 2)
        await ctx.wait_event("go")
        await ctx.call(slow, 30)
        return str(await meanwhile)

    async def scenario() -> None:
        store = KeepsAReply(LoopClock())
        async with working(busy, slow, provider=store) as (client, _):
            instance = await client.start(busy)
            await asyncio.sleep(0.5)
            store.reply = reply = asyncio.Event()
            await asyncio.sleep(1)
            assert store.holds(reply), "the second turn is written and waits for its answer"
            store.lose()
            await client.raise_event(instance, "go")
            await asyncio.sleep(10)  # the third turn is committed under another lease
            reply.set()
            assert await client.result(instance, timeout=HOUR) == "done"

    run_virtual(scenario())


def test_activities_that_a_last_commit_leases_to_a_process_go_to_others_at_once() -> None:
    attempts: list[int] = []

    @activity
    async def begin(ctx: ActivityContext) -> str:
        attempts.append(ctx.attempt)
        return "begun"

    @orchestration
    async def patient(ctx: OrchestrationContext) -> str:
        return str(await ctx.call(begin))

    async def scenario() -> None:
        store = KeepsAReply(LoopClock())
        async with working(patient, begin, provider=store) as (client, runtime):
            store.reply = reply = asyncio.Event()
            instance = await client.start(patient)
            await asyncio.sleep(0.1)
            assert not await runtime.drain(timedelta())
            stopping = asyncio.create_task(runtime.stop())
            await asyncio.sleep(0.5)
            reply.set()
            await stopping
            assert attempts == []
            async with working(patient, begin, provider=store):
                await asyncio.sleep(0.1)
                assert attempts == [1]
                assert await client.result(instance) == "begun"

    run_virtual(scenario())


def test_an_activity_that_is_given_up_hears_of_it_at_once() -> None:
    heard: list[float] = []

    @activity
    async def endless(ctx: ActivityContext) -> None:
        await ctx.cancelled()
        heard.append(asyncio.get_running_loop().time())

    @orchestration
    async def impatient(ctx: OrchestrationContext) -> str:
        await ctx.select(ctx.call(endless), ctx.sleep(5))
        return "gave up"

    async def scenario() -> None:
        async with working(impatient, endless) as (client, _):
            await client.result(await client.start(impatient))
            ended = asyncio.get_running_loop().time()
            await asyncio.sleep(1)
            assert heard
            assert heard[0] - ended < 0.1

    run_virtual(scenario())


def test_code_that_reads_the_world_is_caught_by_verification() -> None:
    numbers = itertools.count()

    @orchestration
    async def unfaithful(ctx: OrchestrationContext) -> int:
        await ctx.call(double, 1)
        return int(await ctx.call(double, next(numbers)))

    async def scenario(**options: Any) -> tuple[ExecutionStatus, Seen]:
        seen = Seen()
        async with working(unfaithful, double, observer=seen, **options) as (client, _):
            state = await client.wait(await client.start(unfaithful), HOUR)
        return state.status, seen

    status, _ = run_virtual(scenario(cache="on"))
    assert status is ExecutionStatus.COMPLETED, "nobody looked"
    status, seen = run_virtual(scenario(cache="verify"))
    assert status is ExecutionStatus.FAILED
    assert any("replayed it added" in reason for reason in seen.refused)


@pytest.mark.parametrize("slots", [1, 2, 64])
def test_few_slots_are_enough(slots: int) -> None:
    async def scenario() -> None:
        async with working(
            fan_out, double, worker_concurrency=slots, orchestration_concurrency=slots
        ) as (client, _):
            ids = [await client.start(fan_out, 20) for _ in range(20)]
            assert await asyncio.gather(*(client.result(i) for i in ids)) == [380] * 20

    run_virtual(scenario())


class Late(MemoryProvider):
    """Takes a second to answer a poll that has found something under a kept lease."""

    async def poll_turns(self, **how: Any) -> TurnPoll:
        held = frozenset(how["held"])
        answer = await super().poll_turns(**how)
        if any(turn.token in held for turn in answer.turns):
            await asyncio.sleep(1)
        return answer


def test_an_answer_under_a_lease_that_is_over_by_then_is_left_alone() -> None:
    @orchestration
    async def either(ctx: OrchestrationContext) -> object:
        return (await ctx.select(ctx.call(slow, 10), ctx.wait_event("go"))).value

    async def scenario() -> None:
        seen = Seen()
        async with working(either, slow, provider=Late(LoopClock()), observer=seen) as (client, _):
            instance = await client.start(either)
            await asyncio.sleep(9.5)
            await client.raise_event(instance, "go", "too late")
            assert await client.result(instance) == "done"
            await asyncio.sleep(5)
        assert seen.refused == []

    run_virtual(scenario())


class Telling(MemoryProvider):
    """Lets an activity record its own completion and know under which message."""

    async def finish(self, ctx: ActivityContext, result: str) -> FinishedAs:
        completion = work.ActivityCompletion(
            instance=ctx.instance_id,
            execution_id=ctx.execution_id,
            id=ctx.activity_id,
            result=result,
        )
        message = message_of(completion)
        await self.commit([FinishActivity(token=ctx.token, completion=message)])
        (message_id,) = self._store.messages[ctx.instance_id]
        return FinishedAs(message_id=message_id, body=message.body)


@pytest.mark.parametrize("polls_first", [False, True])
def test_a_message_that_its_activity_tells_of_is_taken_once(*, polls_first: bool) -> None:
    async def scenario() -> None:
        store = Telling(LoopClock())

        @activity(raw=True)
        async def transactional(ctx: ActivityContext, text: str) -> Any:
            finished = await store.finish(ctx, text)
            if polls_first:
                store.wake(turns=True)
                await asyncio.sleep(5)
            return finished

        @orchestration
        async def three(ctx: OrchestrationContext) -> list[str]:
            return [await ctx.call(transactional, raw_input=f"{n}") for n in range(3)]

        seen = Seen()
        async with working(three, transactional, provider=store, observer=seen) as (client, _):
            assert await client.result(await client.start(three)) == ["0", "1", "2"]
        assert seen.dropped == []
        depths = await store.queue_depths()
        assert depths.orchestrator_queue == 0

    run_virtual(scenario())
