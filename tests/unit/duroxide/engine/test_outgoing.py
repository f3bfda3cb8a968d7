"""What a turn sends, field by field: starts, cancellations, the next execution, key-values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from duroxide import OrchestrationContext, work
from duroxide.engine.run import Run
from duroxide.engine.turn import NewExecutionInfo, StartInfo, run_turn
from duroxide.registry import define_orchestration
from duroxide.state import (
    ClearKeyValue,
    ClearKeyValues,
    ExecutionStatus,
    KeyValue,
    SetCustomStatus,
    SetKeyValue,
)

INFO = StartInfo(
    instance_id="i",
    execution_id=4,
    name="o",
    version="1.2.3",
    input="null",
    seed="00",
    parent_instance="p",
    parent_id=7,
    parent_execution_id=2,
    initial_custom_status="before",
)


async def continues(ctx: OrchestrationContext, n: int = 0) -> None:
    assert ctx.get_custom_status() == "before"
    await ctx.wait_event("go")
    ctx.set_custom_status("after")
    ctx.start("other", 1, id="detached", version="1.0.0")
    ctx.call("act")
    ctx.continue_as_new(n + 1, version="2.0.0")


def test_the_next_execution_is_given_all_that_it_has_to_know() -> None:
    run = Run.start(define_orchestration(continues, name="o"), INFO, now_ms=5)
    first = run.apply([work.QueueMessage(instance="i", name="q", data="kept")], 5)
    assert first.new_execution == NewExecutionInfo(
        name="o", version="1.2.3", parent_instance_id="p"
    )
    late = work.QueueMessage(instance="i", name="q", data="late")
    go = work.ExternalRaised(instance="i", name="go", data="1")
    result = run.apply([go, late], 6)
    assert (result.status, result.output) == (ExecutionStatus.CONTINUED_AS_NEW, "1")
    assert result.unapplied == 1
    assert result.new_execution is None
    assert result.activities == ()  # given up in the turn that asked for it
    assert result.custom_status == SetCustomStatus(status="after")
    assert result.messages == (
        work.StartOrchestration(
            instance="detached", orchestration="other", input="1", version="1.0.0"
        ),
        work.ContinueAsNew(
            instance="i",
            orchestration="o",
            input="1",
            version="2.0.0",
            carry_forward_events=(("q", "kept"),),
            initial_custom_status="after",
            parent_instance="p",
            parent_id=7,
            parent_execution_id=2,
        ),
    )


def test_what_was_carried_over_arrives_first_as_ordinary_messages() -> None:
    async def reads(ctx: OrchestrationContext) -> list[Any]:
        queue = ctx.queue("q")
        return [await queue.get(), await queue.get()]

    info = replace(INFO, carry_forward_events=(("q", "1"),), initial_custom_status=None)
    new = work.QueueMessage(instance="i", name="q", data="2")
    result = run_turn(define_orchestration(reads, name="o"), (), [new], now_ms=5, start=info)
    assert result.output == "[1,2]"


async def with_children(ctx: OrchestrationContext, how: str) -> None:
    dropped = ctx.call_child("c", 1, id="dropped")
    ctx.call_child("c", 2)
    await ctx.wait_event("go")
    dropped.cancel()
    await ctx.wait_event("end")


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (work.ExternalRaised(instance="i", name="end", data="1"), "parent ended"),
        (work.CancelInstance(instance="i", reason="enough"), "parent canceled"),
    ],
)
def test_children_are_started_and_cancelled_with_their_full_ids(
    last: work.Inbound, why: str
) -> None:
    code = define_orchestration(with_children, name="o")
    run = Run.start(code, replace(INFO, input='"x"', parent_instance=None), now_ms=0)
    first = run.apply((), 0)
    assert [m for m in first.messages if isinstance(m, work.StartOrchestration)] == [
        work.StartOrchestration(
            instance="dropped",
            orchestration="c",
            input="1",
            parent_instance="i",
            parent_id=2,
            parent_execution_id=4,
        ),
        work.StartOrchestration(
            instance="i::sub::4_3",
            orchestration="c",
            input="2",
            parent_instance="i",
            parent_id=3,
            parent_execution_id=4,
        ),
    ]
    second = run.apply([work.ExternalRaised(instance="i", name="go", data="1")], 0)
    assert second.messages == (
        work.CancelInstance(instance="dropped", reason="parent dropped sub-orchestration future"),
    )
    third = run.apply([last], 0)
    assert third.messages == (work.CancelInstance(instance="i::sub::4_3", reason=why),)


async def key_values(ctx: OrchestrationContext) -> list[Any]:
    seen: list[Any] = [ctx.get_kv_value("old"), ctx.get_kv_all_keys(), ctx.get_kv_length()]
    ctx.set_kv_value("b", 1)
    ctx.set_kv_value("a", 2)
    pruned = ctx.prune_kv_values_updated_before(50)
    seen += [pruned, ctx.get_kv_all_values()]
    ctx.clear_kv_value("absent")
    ctx.clear_all_kv_values()
    return [*seen, ctx.get_kv_length()]


def test_key_values_start_from_the_snapshot_and_every_change_is_told() -> None:
    result = run_turn(
        define_orchestration(key_values, name="o"),
        (),
        (),
        now_ms=100,
        start=INFO,
        key_values={"old": KeyValue(value="v", updated_at_ms=1)},
    )
    assert result.output == '["v",["old"],1,1,{"a":"2","b":"1"},0]'
    assert result.key_values == (
        SetKeyValue(key="b", value="1", updated_at_ms=100),
        SetKeyValue(key="a", value="2", updated_at_ms=100),
        ClearKeyValue(key="old"),
        ClearKeyValue(key="absent"),
        ClearKeyValues(),
    )
