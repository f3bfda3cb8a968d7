"""The scripted world: whole orchestrations in milliseconds, with a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from duroxide import (
    ActivityError,
    DurableTimeout,
    NonDeterminismError,
    OrchestrationCancelled,
    OrchestrationContext,
    RetryPolicy,
    SubOrchestrationError,
    activity,
    orchestration,
)
from duroxide.testing.world import HOLD, World


@dataclass
class Order:
    sku: str
    amount: int


@activity
def reserve(order: Order) -> str:
    return f"hold-{order.sku}"


@orchestration
async def checkout(ctx: OrchestrationContext, order: Order) -> str:
    hold = await ctx.call(reserve, order)
    won = await ctx.select(paid=ctx.wait_event("paid", int), late=ctx.sleep(hours=1))
    match won.key:
        case "paid":
            return f"{hold}:{won.value}"
        case _:
            return "expired"


def test_an_order_that_is_paid_in_time_completes() -> None:
    world = World(checkout, reserve)
    order = world.start(checkout, Order("x", 3))
    assert order.status == "Running"
    order.raise_event("paid", 42)
    assert order.output == "hold-x:42"
    order.assert_replays()


def test_an_order_that_is_not_paid_expires() -> None:
    world = World(checkout, reserve)
    order = world.start(checkout, Order("x", 3))
    world.advance(minutes=59)
    assert order.status == "Running"
    world.advance(minutes=1)
    assert order.output == "expired"
    order.assert_replays()


def test_a_scripted_failure_reaches_the_code() -> None:
    world = World(checkout, reserve)
    world.answer(reserve, raises=ValueError("sold out"))
    order = world.start(checkout, Order("x", 3))
    assert order.status == "Failed"
    assert order.error == "ActivityError: Activity 'reserve' call failed: ValueError: sold out"


def test_a_held_activity_waits_for_the_test() -> None:
    world = World(checkout, reserve)
    world.answer(reserve, lambda order: HOLD)
    order = world.start(checkout, Order("x", 3))
    [key] = world.held
    assert world.calls == [("reserve", {"sku": "x", "amount": 3})]
    world.finish(key, "mine")
    order.raise_event("paid", 1)
    assert order.output == "mine:1"


def test_an_activity_that_nobody_knows_is_an_error_of_the_test() -> None:
    world = World(checkout)
    with pytest.raises(LookupError, match="reserve"):
        world.start(checkout, Order("x", 3))


@orchestration
async def retries(ctx: OrchestrationContext, policy_name: str) -> str:
    policy = RetryPolicy(max_attempts=3, timeout=timedelta(seconds=5))
    return str(await ctx.call("flaky", policy_name, retry=policy, result=str))


def test_retries_follow_the_policy_and_leave_no_timer_behind() -> None:
    world = World(retries)
    attempts = []

    def flaky(name: str) -> str:
        attempts.append(name)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return "done"

    world.answer("flaky", flaky)
    run = world.start(retries, "x")
    assert len(attempts) == 1
    world.advance(milliseconds=100)
    assert len(attempts) == 2
    world.advance(milliseconds=200)
    assert run.output == "done"
    assert world.stage.next_timer_ms() is None
    run.assert_replays()


def test_an_attempt_that_hangs_is_given_up_and_repeated() -> None:
    world = World(retries)
    world.answer("flaky", lambda name: HOLD)
    run = world.start(retries, "x")
    world.advance(seconds=5.1)
    assert len(world.calls) == 2
    assert len(world.held) == 1
    world.finish(world.held[0], "second")
    assert run.output == "second"


@orchestration
async def parent(ctx: OrchestrationContext, n: int) -> list[Any]:
    results = await ctx.gather(
        *(ctx.call_child(child, i) for i in range(n)), return_exceptions=True
    )
    return [r if isinstance(r, int) else str(r) for r in results]


@orchestration
async def child(ctx: OrchestrationContext, i: int) -> int:
    if i == 1:
        raise ValueError("one is too few")
    await ctx.sleep(seconds=i)
    return i * 10


def test_children_answer_their_parent_whatever_happens_to_them() -> None:
    world = World(parent, child)
    run = world.start(parent, 3)
    world.advance(seconds=5)
    assert run.output == [0, "ValueError: one is too few", 20]
    assert world.handle("instance-1::sub::2").output == 0
    run.assert_replays()


@orchestration
async def counter(ctx: OrchestrationContext, total: int) -> int:
    queue = ctx.queue("add", int)
    for _ in range(2):
        total += await queue.get()
    if total >= 10:
        return total
    return ctx.continue_as_new(total)


def test_continue_as_new_loses_no_message() -> None:
    world = World(counter)
    run = world.start(counter, 0)
    for n in (1, 2, 3):
        run.enqueue("add", n)
    assert run.status == "Running"
    assert len(run.executions) == 2
    run.enqueue("add", 4)
    assert run.output == 10
    run.assert_replays()


@orchestration(cancel_grace=timedelta(seconds=10))
async def tidy(ctx: OrchestrationContext) -> str:
    try:
        await ctx.wait_event("never")
    except OrchestrationCancelled as cancelled:
        await ctx.call("undo", cancelled.reason)
        raise
    return "never"


def test_a_cancelled_orchestration_may_clean_up() -> None:
    world = World(tidy)
    world.answer("undo", returns=None)
    run = world.start(tidy)
    run.cancel("enough")
    assert world.calls == [("undo", "enough")]
    assert run.error == "canceled: enough"
    run.assert_replays()


def test_cleaning_up_ends_with_the_grace() -> None:
    world = World(tidy)
    world.answer("undo", lambda reason: HOLD)
    run = world.start(tidy)
    run.cancel("enough")
    assert run.status == "Running"
    world.advance(seconds=10)
    assert run.error == "canceled: enough"
    assert world.held == []
    run.assert_replays()


@orchestration
async def limited(ctx: OrchestrationContext) -> str:
    try:
        async with ctx.timeout(seconds=3):
            await ctx.call("slow")
    except DurableTimeout as error:
        return str(error)
    return "in time"


def test_a_timeout_cancels_what_the_block_awaits() -> None:
    world = World(limited)
    world.answer("slow", lambda: HOLD)
    run = world.start(limited)
    world.advance(seconds=3)
    assert run.output == "timeout: not done within 3000 ms"
    assert world.held == []
    run.assert_replays()


@orchestration
async def scoped(ctx: OrchestrationContext) -> str:
    async def waits(seconds: float) -> None:
        await ctx.sleep(seconds)

    async def fails() -> None:
        await ctx.sleep(1)
        raise ValueError("inside")

    try:
        async with ctx.scope() as scope:
            scope.spawn(waits(100))
            scope.spawn(fails())
            await ctx.wait_event("never")
    except ValueError as error:
        return str(error)
    return "?"


def test_a_scope_ends_with_its_first_failure_and_leaves_nothing_running() -> None:
    world = World(scoped)
    run = world.start(scoped)
    world.advance(seconds=1)
    assert run.output == "inside"
    assert world.stage.next_timer_ms() is None
    run.assert_replays()


@orchestration
async def starter(ctx: OrchestrationContext) -> str:
    ctx.start(child, 0, id="other")
    try:
        await ctx.call_child(child, 0, id="other")
    except SubOrchestrationError as error:
        return str(error)
    return "?"


def test_a_child_id_that_is_taken_fails_the_call() -> None:
    world = World(starter, child)
    run = world.start(starter)
    world.advance(seconds=1)
    assert "already exists" in run.output
    assert world.handle("other").output == 0


def test_the_error_of_a_child_says_which_child_it_was() -> None:
    @orchestration(name="fails")
    async def fails(ctx: OrchestrationContext) -> None:
        raise ValueError("no")

    @orchestration(name="asks")
    async def asks(ctx: OrchestrationContext) -> list[Any]:
        told: list[Any] = []
        for given in (None, "chosen"):
            try:
                await ctx.call_child(fails, id=given)
            except SubOrchestrationError as error:
                told.append([error.name, error.instance_id])
        return told

    world = World(asks, fails)
    run = world.start(asks, instance_id="parent")
    assert run.output == [["fails", "parent::sub::2"], ["fails", "chosen"]]
    assert world.handle("parent::sub::2").error
    run.assert_replays()


@orchestration
def generated(ctx: OrchestrationContext, name: str) -> Any:
    try:
        yield ctx.schedule_activity("boom", name)
    except Exception as error:
        text = str(error)
    results = yield ctx.all([ctx.schedule_activity("ok", 1), ctx.schedule_activity("boom", 2)])
    won = yield ctx.race(ctx.schedule_activity("ok", 3), ctx.schedule_timer(1000))
    now = yield ctx.utc_now()
    guid = yield ctx.new_guid()
    return {"text": text, "results": results, "won": won, "now": now, "guid": len(guid)}


def test_a_generator_orchestration_sees_the_shapes_of_the_official_sdk() -> None:
    world = World(generated)
    world.answer("boom", raises=ValueError("bad"))
    world.answer("ok", lambda n: n * 2)
    run = world.start(generated, "x")
    assert run.output == {
        "text": "Activity 'boom' call failed: ValueError: bad",
        "results": [{"ok": 2}, {"err": "Activity 'boom' call failed: ValueError: bad"}],
        "won": {"index": 0, "value": 6},
        "now": world.clock.now_ms(),
        "guid": 36,
    }
    run.assert_replays()


@orchestration(name="checkout")
async def careless(ctx: OrchestrationContext, order: Order) -> str:
    return "done"


def test_changed_code_is_found_by_replaying_what_was_recorded() -> None:
    world = World(checkout, reserve)
    order = world.start(checkout, Order("x", 3))
    with pytest.raises(NonDeterminismError, match=r"recorded  #2  ActivityScheduled"):
        order.assert_replays(careless)


@orchestration
async def fails_in_an_activity(ctx: OrchestrationContext) -> str:
    try:
        await ctx.call("boom")
    except ActivityError as error:
        return f"{error.name} {error.error_type} {error.category} {error.attempt}"
    return "?"


def test_an_activity_error_says_which_and_what() -> None:
    world = World(fails_in_an_activity)
    world.answer("boom", raises=ValueError("bad"))
    assert world.start(fails_in_an_activity).output == "boom ValueError application 1"


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e18, 10**30])
def test_a_timer_that_no_calendar_has_is_refused_at_the_line(seconds: float) -> None:
    @orchestration
    async def sleeps(ctx: OrchestrationContext) -> str:
        try:
            await ctx.sleep(seconds)
        except ValueError as error:
            return str(error)
        return "slept"

    said = World(sleeps).start(sleeps).output
    assert said.startswith(f"a timer can't take {seconds!r} seconds: ")
