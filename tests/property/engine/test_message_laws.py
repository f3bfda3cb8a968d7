"""Laws of what goes in and out: nothing is lost, nothing comes twice, everybody is answered."""

from __future__ import annotations

import json
import random
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duroxide import history, work
from duroxide.context import OrchestrationContext
from duroxide.engine.turn import StartInfo, TurnResult, run_turn
from duroxide.failures import nondeterminism
from duroxide.history import Event
from duroxide.registry import Registry, define_orchestration
from duroxide.state import ExecutionStatus
from duroxide.testing.stage import Instance, Stage
from tests.property.engine.interpret import NATIVE, registry
from tests.property.engine.play import Player, play
from tests.property.engine.programs import Program, programs

SEEDS = st.integers(0, 2**32)

ANSWERS: dict[type[Any], type[Any]] = {
    history.ActivityCompleted: history.ActivityScheduled,
    history.ActivityFailed: history.ActivityScheduled,
    history.TimerFired: history.TimerCreated,
    history.SubOrchestrationCompleted: history.SubOrchestrationScheduled,
    history.SubOrchestrationFailed: history.SubOrchestrationScheduled,
    history.ActivityCancelRequested: history.ActivityScheduled,
    history.TimerCancelled: history.TimerCreated,
    history.SubOrchestrationCancelRequested: history.SubOrchestrationScheduled,
    history.QueueSubscriptionCancelled: history.QueueSubscribed,
    history.ExternalSubscribedCancelled: history.ExternalSubscribed,
}


def assert_well_formed(events: list[Event]) -> None:
    """Property 14."""
    assert [e.event_id for e in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0].kind, history.OrchestrationStarted)
    assert not any(isinstance(e.kind, history.OrchestrationStarted) for e in events[1:])
    assert not any(isinstance(e.kind, history.Terminal) for e in events[:-1])
    answered: set[int] = set()
    for event in events:
        wanted = ANSWERS.get(type(event.kind))
        if wanted is None:
            continue
        source: int = getattr(event.kind, "source_event_id")  # noqa: B009 - not on every kind
        assert source < event.event_id
        assert isinstance(events[source - 1].kind, wanted)
        assert source not in answered
        answered.add(source)


# 14. Shape.


@given(programs(), SEEDS)
def test_every_history_is_well_formed_and_ends_once(program: Program, seed: int) -> None:
    for executions in play(program, seed).histories().values():
        for events in executions:
            assert_well_formed(events)
            assert isinstance(events[-1].kind, history.Terminal)


# 4. Permutation.


async def gathers(ctx: OrchestrationContext, _: int) -> list[Any]:
    return await ctx.gather(*(ctx.call("act", i) for i in range(4)))


async def selects(ctx: OrchestrationContext, _: int) -> list[Any]:
    first = await ctx.select(*(ctx.call("act", i) for i in range(4)))
    return [first.index, first.value]


INFO = StartInfo(instance_id="i", execution_id=1, name="o", version="1.0.0", input="0", seed="00")


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_order_of_completions_decides_a_select_and_nothing_of_a_gather(
    order: tuple[int, ...],
) -> None:
    answers = [
        work.ActivityCompletion(instance="i", execution_id=1, id=i + 2, result=str(i * 10))
        for i in order
    ]
    gathered = run_turn(define_orchestration(gathers), (), answers, now_ms=0, start=INFO)
    selected = run_turn(define_orchestration(selects), (), answers, now_ms=0, start=INFO)
    assert gathered.output == "[0,10,20,30]"
    assert selected.output == f"[{order[0]},{order[0] * 10}]"
    assert len(selected.ignored) == 3


# 10. Queues.


async def reads_and_races(ctx: OrchestrationContext, seen: list[str]) -> list[str]:
    """Takes messages in races that a read often loses, and continues as new every so often."""
    queue = ctx.queue("q", str)
    for _ in range(3):
        won = await ctx.select(read=queue.get(), tick=ctx.sleep(milliseconds=5))
        if won.key == "read":
            seen.append(won.value)
        if seen and seen[-1] == "stop":
            return seen
    return ctx.continue_as_new(seen)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), SEEDS)
def test_every_message_is_read_once_and_in_order_across_races_and_executions(
    gaps: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    stage = Stage(Registry().add(define_orchestration(reads_and_races)))
    start = work.StartOrchestration(instance="i", orchestration="reads_and_races", input="[]")
    stage.send(start)
    sent = [f"m{n}" for n in range(len(gaps))] + ["stop"]
    for gap, data in zip([*gaps, 0], sent, strict=True):
        stage.send(work.QueueMessage(instance="i", name="q", data=f'"{data}"'))
        for _ in range(gap):
            stage.clock.advance(rng.choice((1, 5, 9)))
            stage.deliver_due_timers()
            if stage.runnable():
                stage.turn("i", rng.randint(1, len(stage.instance("i").inbox)))
    for _ in range(1000):
        if stage.instance("i").ended:
            break
        stage.clock.advance(5)
        stage.deliver_due_timers()
        if stage.runnable():
            stage.turn("i")
    assert json.loads(stage.instance("i").output or "null") == sent


def unread_of(events: list[Event], name: str) -> tuple[list[str], list[str]]:
    """By the rules of a queue: what came to it in an execution, and what of that nobody took."""
    came: list[str] = []
    kept: list[str] = []
    readers: list[int] = []
    open_reads = {e.event_id for e in events if isinstance(e.kind, history.QueueSubscribed)}
    for event in events:
        match event.kind:
            case history.QueueSubscribed(name=asked) if asked == name:
                if kept:
                    del kept[0]
                else:
                    readers.append(event.event_id)
            case history.QueueEventDelivered(name=to, data=data) if to == name:
                came.append(data)
                if readers:
                    del readers[0]
                else:
                    kept.append(data)
            case history.QueueSubscriptionCancelled(source_event_id=source):
                assert source in open_reads
                if source in readers:
                    readers.remove(source)
            case _:
                pass
    return came, kept


@given(programs(), SEEDS)
def test_what_was_sent_is_what_was_read_or_carried_on_each_once_and_in_order(
    program: Program, seed: int
) -> None:
    played = play(program, seed)
    for name, sent in played.sent.items():
        recorded: list[str] = []
        carried: list[str] = []
        for events in played.root.executions:
            came, unread = unread_of(events, name)
            assert came[: len(carried)] == carried
            recorded += came[len(carried) :]
            carried = unread
        assert recorded == sent[: len(recorded)]


# 11. Losers.


@given(programs(), SEEDS)
def test_what_is_given_up_before_it_was_sent_off_is_never_sent_off(
    program: Program, seed: int
) -> None:
    player = Player(program, seed, NATIVE, 0)
    committed: list[TurnResult] = []
    player.watchers.append(committed.append)
    player.play()
    for result in committed:
        dropped = {
            e.kind.source_event_id
            for e in result.events
            if isinstance(e.kind, history.ActivityCancelRequested)
        }
        sent = {task.id for task in result.activities}
        assert not dropped & sent
        assert not sent & set(result.cancelled_activities)


# 12 and 13. Key-values and status.


def assert_state_follows_history(instance: Instance) -> None:
    """Key-values and status are what the events, taken one by one, make of them."""
    values: dict[str, str] = {}
    status: str | None = None
    updates = 0
    for events in instance.executions:
        first = events[0].kind
        assert isinstance(first, history.OrchestrationStarted)
        assert first.initial_custom_status == status
        for event in events:
            match event.kind:
                case history.KeyValueSet(key=key, value=value):
                    values[key] = value
                case history.KeyValueCleared(key=key):
                    values.pop(key, None)
                case history.KeyValuesCleared():
                    values.clear()
                case history.CustomStatusUpdated(status=text):
                    status = text
                    updates += 1
                case _:
                    pass
    assert {k: v.value for k, v in instance.key_values.items()} == values
    assert instance.custom_status == status
    assert (instance.custom_status_version > 0) == (updates > 0)
    assert instance.custom_status_version <= updates


@given(programs(), SEEDS)
def test_key_values_and_status_equal_a_model_of_what_history_says(
    program: Program, seed: int
) -> None:
    for instance in play(program, seed).stage.instances.values():
        assert_state_follows_history(instance)


# 15. Cancellation.


@given(programs(), SEEDS, st.integers(0, 30))
def test_after_a_cancel_the_instance_is_cancelled_and_no_descendant_runs(
    program: Program, seed: int, moves: int
) -> None:
    stage = Stage(registry(program))
    rng = random.Random(seed)
    stage.send(work.StartOrchestration(instance="root", orchestration="root", input="1"))
    for _ in range(moves):
        _step(stage, rng)
    was_over = stage.instance("root").ended
    stage.send(work.CancelInstance(instance="root", reason="enough"))
    for _ in range(200):
        for name in stage.runnable():
            stage.turn(name)
        if not stage.runnable():
            break
    root = stage.instance("root")
    assert root.ended
    if not was_over and root.status is ExecutionStatus.FAILED:
        assert root.output is not None
        _assert_descendants_ended(stage, "root")
        assert not [key for key in stage.activities if key[0] == "root"]


def _step(stage: Stage, rng: random.Random) -> None:
    stage.deliver_due_timers()
    for name in stage.runnable():
        stage.turn(name, rng.randint(1, len(stage.instance(name).inbox)))
    for key in list(stage.activities):
        if rng.random() < 0.5:
            stage.finish(key, stage.activities[key].input)
    stage.clock.advance(rng.choice((0, 10, 100)))


def _assert_descendants_ended(stage: Stage, name: str) -> None:
    for instance in stage.instances.values():
        if instance.parent_instance == name and instance.executions:
            assert instance.ended
            _assert_descendants_ended(stage, instance.instance_id)


# 16. Parents.


@given(programs(), SEEDS, st.booleans())
def test_a_parent_gets_exactly_one_answer_of_each_child(
    program: Program, seed: int, poison: bool
) -> None:
    rng = random.Random(seed)
    answers: list[tuple[str, int, int]] = []

    def watch(instance: Instance, result: TurnResult) -> None:
        answers.extend(
            (m.parent_instance, m.parent_execution_id, m.parent_id)
            for m in result.messages
            if isinstance(m, work.ChildCompleted | work.ChildFailed)
        )

    stage = Stage(registry(program), on_turn=watch)
    stage.send(work.StartOrchestration(instance="root", orchestration="root", input="1"))
    for _ in range(60):
        _step(stage, rng)
        running = [n for n, i in stage.instances.items() if i.executions and not i.ended]
        children = [n for n in running if stage.instance(n).parent_instance]
        if poison and children and rng.random() < 0.3:
            name = rng.choice(children)
            if stage.instance(name).status is ExecutionStatus.RUNNING:
                stage.fail(name, nondeterminism("changed code"))
        stage.send(work.ExternalRaised(instance="root", name="e1", data="1"))
        stage.send(work.QueueMessage(instance="root", name="q1", data="1"))
    for instance in stage.instances.values():
        for events in instance.executions:
            assert_well_formed(events)
    assert len(answers) == len(set(answers))
    ended = [i for i in stage.instances.values() if i.parent_instance and i.ended]
    assert len(answers) == len(ended)
