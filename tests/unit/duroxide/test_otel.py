"""What a collector sees of a workflow."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra `opentelemetry` is not installed")

from opentelemetry import metrics, trace
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
from duroxide.providers.base import QueueDepths, SystemMetrics
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


@activity
def refuses() -> None:
    raise ValueError("no")


@orchestration
async def fails(ctx: OrchestrationContext) -> None:
    await ctx.call(refuses)


async def observed(*, failing: bool = False) -> tuple[int, list[ReadableSpan], dict[str, Any]]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    traces = TracerProvider(id_generator=DurableIds())
    traces.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider(metric_readers=[reader])
    observer = OpenTelemetryObserver(tracer_provider=traces, meter_provider=meters)
    store = MemoryProvider()
    registry = Registry().add(parent, child, fails, in_a_thread, on_the_loop, refuses)
    async with AsyncRuntime(store, registry, RuntimeOptions(observer=observer)):
        client = AsyncClient(store)
        result = await client.result(await client.start(parent, instance_id="root"))
        if failing:
            await client.wait(await client.start(fails))
    traces.shutdown()
    return int(result), list(exporter.get_finished_spans()), points_of(reader)


def points_of(reader: InMemoryMetricReader) -> dict[str, Any]:
    """What was measured, by name."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: metric.data.data_points
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }


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


async def test_the_time_that_work_waits_is_measured() -> None:
    """One slot: the second activity waits for as long as the first one runs."""

    @activity
    async def slow() -> None:
        await asyncio.sleep(0.05)

    @orchestration
    async def two(ctx: OrchestrationContext) -> None:
        await ctx.gather(ctx.call(slow), ctx.call(slow))

    reader = InMemoryMetricReader()
    observer = OpenTelemetryObserver(meter_provider=MeterProvider(metric_readers=[reader]))
    store = MemoryProvider()
    options = RuntimeOptions(observer=observer, worker_concurrency=1, cache_size=1)
    async with AsyncRuntime(store, Registry().add(two, slow), options):
        client = AsyncClient(store)
        await client.result(await client.start(two))
    found = points_of(reader)
    (waited,) = found["duroxide_activity_schedule_to_start_seconds"]
    assert waited.count == 2
    assert 0.05 <= waited.max < 5
    assert waited.min < 0.05
    (turns,) = found["duroxide_turn_schedule_to_start_seconds"]
    assert turns.count >= 2


async def test_what_the_cache_drops_is_counted() -> None:
    @orchestration
    async def naps(ctx: OrchestrationContext) -> None:
        await ctx.sleep(3_600)

    reader = InMemoryMetricReader()
    observer = OpenTelemetryObserver(meter_provider=MeterProvider(metric_readers=[reader]))
    store = MemoryProvider()
    options = RuntimeOptions(observer=observer, cache_size=2)
    async with AsyncRuntime(store, Registry().add(naps), options):
        client = AsyncClient(store)
        for number in range(5):
            await client.start(naps, instance_id=f"{number}")
            async with asyncio.timeout(10):
                while (await store.queue_depths()).timer_queue <= number:  # noqa: ASYNC110  # no event tells
                    await asyncio.sleep(0)
    found = points_of(reader)
    (evicted,) = found["duroxide_cache_evictions_total"]
    assert (evicted.value, dict(evicted.attributes)) == (3, {"reason": "capacity"})
    assert found["duroxide_cache_entries"][0].value == 2


async def test_failures_are_told_apart_and_families_named() -> None:
    _, _, found = await observed(failing=True)
    (failed,) = found["duroxide_orchestration_failures_total"]
    assert failed.value == 1
    assert dict(failed.attributes) == {
        "orchestration_name": "fails",
        "version": "1.0.0",
        "error_type": "app_error",
        "error_category": "OrchestrationFailed",
    }
    calls = {
        (point.attributes["parent_orchestration"], point.attributes["child_orchestration"])
        for point in found["duroxide_suborchestration_calls_total"]
    }
    assert calls == {("parent", "child")}
    outcomes = {p.attributes["outcome"] for p in found["duroxide_activity_executions_total"]}
    assert outcomes == {"success", "app_error"}
    (turns,) = (
        point
        for point in found["duroxide_orchestration_turns"]
        if point.attributes["orchestration_name"] == "parent"
    )
    assert (turns.count, turns.sum) == (1, 4)
    assert turns.explicit_bounds == (1, 2, 5, 10, 20, 50, 100, 200, 500)


async def test_gauges_show_what_is_in_the_store() -> None:
    @orchestration
    async def naps(ctx: OrchestrationContext) -> None:
        await ctx.sleep(3_600)

    measured = asyncio.Event()

    class Measured(OpenTelemetryObserver):
        def store_measured(self, metrics: SystemMetrics, depths: QueueDepths) -> None:
            super().store_measured(metrics, depths)
            if depths.timer_queue:
                measured.set()

    reader = InMemoryMetricReader()
    observer = Measured(
        meter_provider=MeterProvider(metric_readers=[reader]), gauge_interval_s=0.01
    )
    store = MemoryProvider()
    async with AsyncRuntime(store, Registry().add(naps), RuntimeOptions(observer=observer)):
        await AsyncClient(store).start(naps)
        async with asyncio.timeout(10):
            await measured.wait()
    found = points_of(reader)
    names = ("active_orchestrations", "timer_backlog", "orchestrator_queue_depth")
    values = [found[f"duroxide_{name}"][0].value for name in (*names, "worker_queue_depth")]
    assert values == [1, 1, 0, 0]


# What §5 of the specification of the runtime names; what is not measured is said in the reference.
SPECIFIED = [
    "orchestration_starts_total",
    "orchestration_completions_total",
    "orchestration_failures_total",
    "orchestration_infrastructure_errors_total",
    "orchestration_configuration_errors_total",
    "orchestration_duration_seconds",
    "orchestration_turns",
    "orchestration_history_size",
    "orchestration_continue_as_new_total",
    "orchestration_poison_total",
    "activity_poison_total",
    "active_orchestrations",
    "orchestrator_queue_depth",
    "worker_queue_depth",
    "activity_executions_total",
    "activity_duration_seconds",
    "activity_infrastructure_errors_total",
    "activity_configuration_errors_total",
    "suborchestration_calls_total",
    "suborchestration_duration_seconds",
    "provider_operation_duration_seconds",
    "provider_errors_total",
    "orchestration_dispatcher_items_fetched",
    "orchestration_dispatcher_processing_duration_ms",
    "worker_dispatcher_items_fetched",
    "worker_dispatcher_execution_duration_ms",
    "timer_backlog",
    "group_commit_size",
    "cache_hits_total",
    "cache_misses_total",
    "cache_replayed_events_saved_total",
    "cache_entries",
    "cache_evictions_total",
    "activity_schedule_to_start_seconds",
    "turn_schedule_to_start_seconds",
]


def instruments() -> dict[str, str]:
    """Names and kinds of all that the observer makes."""
    made: dict[str, str] = {}

    class Noting(metrics.NoOpMeter):
        def create_counter(self, name: str, *more: Any, **options: Any) -> metrics.Counter:
            made[name] = "counter"
            return super().create_counter(name, *more, **options)

        def create_histogram(self, name: str, *more: Any, **options: Any) -> metrics.Histogram:
            made[name] = "histogram"
            return super().create_histogram(name, *more, **options)

        def create_gauge(self, name: str, *more: Any, **options: Any) -> Any:
            made[name] = "gauge"
            return super().create_gauge(name, *more, **options)

    class Provider(metrics.NoOpMeterProvider):
        def get_meter(self, name: str, *more: Any, **options: Any) -> metrics.Meter:
            return Noting(name)

    OpenTelemetryObserver(meter_provider=Provider())
    return made


def test_every_metric_that_is_specified_is_there() -> None:
    assert {f"duroxide_{name}" for name in SPECIFIED} - set(instruments()) == set()


def test_the_page_lists_the_metrics_and_their_kinds() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "runtime.md"
    rows = re.findall(r"(?m)^\| `(duroxide_\w+)` \| (\w+) \|", page.read_text(encoding="utf-8"))
    assert dict(rows) == instruments()


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import asyncio
import duroxide
from duroxide import AsyncClient, AsyncRuntime, MemoryProvider, OrchestrationContext, Registry

@duroxide.orchestration
async def hello(ctx: OrchestrationContext, name: str) -> str:
    return f"Hello, {name}!"

async def main() -> None:
    store = MemoryProvider()
    async with AsyncClient(store) as client, AsyncRuntime(store, Registry().add(hello)):
        print(await client.result(await client.start(hello, "Ann")))

asyncio.run(main())
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
try:
    import duroxide.otel
except ImportError as error:
    print(error)
"""


def test_without_the_extra_all_else_works_and_the_remedy_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Hello, Ann!",
        "duroxide.otel needs OpenTelemetry: pip install 'pg-durable[opentelemetry]'",
    ]


def test_where_it_is_installed_it_is_not_imported_unasked() -> None:
    program = "import duroxide, duroxide_pg, pg_durable, sys; print([n for n in sys.modules if n.startswith('opentelemetry')])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


async def test_the_ids_of_a_workflow_do_not_depend_on_the_process() -> None:
    _, first, _ = await observed()
    _, second, _ = await observed()
    one, other = (by_name(spans, "orchestration child")[0].context for spans in (first, second))
    assert (one.trace_id, one.span_id) == (other.trace_id, other.span_id)
