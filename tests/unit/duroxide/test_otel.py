"""What a collector sees of a workflow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra `opentelemetry` is not installed")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from duroxide.activity_context import ActivityContext
from duroxide.client import AsyncClient
from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.otel import DurableIds, OpenTelemetryObserver
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import Registry
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime

TRACER = "the activity's own"


@activity
def in_a_thread(ctx: ActivityContext, tracer: str) -> int:
    with trace.get_tracer(tracer).start_as_current_span("inner"):
        return trace.get_current_span().get_span_context().trace_id


@activity
async def on_the_loop() -> int:
    await asyncio.sleep(0)
    return trace.get_current_span().get_span_context().span_id


@orchestration
async def child(ctx: OrchestrationContext) -> None:
    await ctx.call(on_the_loop)


@orchestration
async def parent(ctx: OrchestrationContext) -> int:
    await ctx.call_child(child)
    await ctx.call(on_the_loop)
    return int(await ctx.call(in_a_thread, TRACER))


async def observed() -> tuple[int, list[ReadableSpan], dict[str, Any]]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    traces = TracerProvider(id_generator=DurableIds())
    traces.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider(metric_readers=[reader])
    observer = OpenTelemetryObserver(tracer_provider=traces, meter_provider=meters)
    store = MemoryProvider()
    registry = Registry().add(parent, child, in_a_thread, on_the_loop)
    async with AsyncRuntime(store, registry, RuntimeOptions(observer=observer)):
        client = AsyncClient(store)
        result = await client.result(await client.start(parent, instance_id="root"))
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        metric.name: metric.data.data_points
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }
    traces.shutdown()
    return int(result), list(exporter.get_finished_spans()), found


def by_name(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def parent_id(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def test_a_workflow_and_its_children_are_one_tree() -> None:
    _, spans, _ = await observed()
    (root,) = by_name(spans, "orchestration parent")
    (below,) = by_name(spans, "orchestration child")
    assert root.parent is None
    assert parent_id(below) == root.context.span_id
    assert {span.context.trace_id for span in spans} == {root.context.trace_id}
    activities = [span for span in spans if span.name.startswith("activity ")]
    assert sorted(parent_id(span) or 0 for span in activities) == sorted(
        [below.context.span_id, root.context.span_id, root.context.span_id]
    )
    assert len(by_name(spans, "turn parent")) == 4
    assert {parent_id(span) for span in by_name(spans, "turn parent")} == {root.context.span_id}


async def test_the_span_of_an_activity_is_current_in_its_code() -> None:
    trace_id, spans, _ = await observed()
    assert trace_id == spans[0].context.trace_id


async def test_what_happened_once_is_counted_once() -> None:
    _, _, found = await observed()
    starts = {
        (point.attributes["orchestration_name"], point.attributes["initiated_by"]): point.value
        for point in found["duroxide_orchestration_starts_total"]
    }
    assert starts == {("parent", "client"): 1, ("child", "suborchestration"): 1}
    ends = found["duroxide_orchestration_completions_total"]
    assert [(point.value, point.attributes["status"]) for point in ends] == [(1, "success")] * 2
    executions = found["duroxide_activity_executions_total"]
    assert {
        (point.attributes["activity_name"], point.attributes["outcome"]): point.value
        for point in executions
    } == {("on_the_loop", "success"): 2, ("in_a_thread", "success"): 1}


async def test_the_ids_of_a_workflow_do_not_depend_on_the_process() -> None:
    _, first, _ = await observed()
    _, second, _ = await observed()
    one, other = (by_name(spans, "orchestration child")[0].context for spans in (first, second))
    assert (one.trace_id, one.span_id) == (other.trace_id, other.span_id)
