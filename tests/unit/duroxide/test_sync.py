"""The blocking client and runtime, as code written for the official SDK uses them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import duroxide
from duroxide import (
    Client,
    ClientError,
    InstanceFilter,
    InstanceQuery,
    PruneOptions,
    Runtime,
    RuntimeOptions,
    Signal,
    SqliteProvider,
    StartRequest,
    TagFilter,
)


def greet(ctx: Any, name: str) -> str:
    ctx.trace_info("greeting")
    return f"Hello, {name}!"


def broken(ctx: Any, _: object) -> None:
    raise ValueError("out of paper")


def hello(ctx: Any, given: Any) -> Any:
    ctx.set_custom_status("greeting")
    ctx.set_kv_value("who", given["name"])
    greeting = yield ctx.schedule_activity("Greet", given["name"])
    return {"greeting": greeting}


def failing(ctx: Any, given: Any) -> Any:
    yield ctx.schedule_activity("Broken")


def patient(ctx: Any, given: Any) -> Any:
    first = yield ctx.wait_for_event("go")
    second = yield ctx.dequeue_event("mail")
    yield ctx.schedule_timer(10)
    return [first, second]


def parent(ctx: Any, given: Any) -> Any:
    result = yield ctx.schedule_sub_orchestration("Hello", {"name": "child"})
    other = yield ctx.get_kv_value_from_instance(f"{ctx.instance_id}::sub::2", "who")
    return [result, other]


class App:
    def __init__(self, provider: Any) -> None:
        self.client = Client(provider)
        self.runtime = Runtime(provider, RuntimeOptions(worker_concurrency=8))
        self.runtime.register_activity("Greet", greet)
        self.runtime.register_activity("Broken")(broken)
        self.runtime.register_orchestration("Hello", hello)
        self.runtime.register_orchestration("Failing")(failing)
        self.runtime.register_orchestration("Patient", patient)
        self.runtime.register_orchestration_versioned("Parent", "2.0.0", parent)
        self.runtime.start()


@pytest.fixture(params=["file", "memory"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    if request.param == "file":
        provider = SqliteProvider.open(f"sqlite:{tmp_path}/sub/app.db")
    else:
        provider = SqliteProvider.in_memory()
    made = App(provider)
    yield made
    made.runtime.shutdown()


def test_a_generator_written_for_the_sdk_runs(app: App) -> None:
    app.client.start_orchestration("i1", "Hello", {"name": "Ann"})
    result = app.client.wait_for_orchestration("i1", 5_000)
    assert (result.status, result.error) == ("Completed", None)
    assert result.output == {"greeting": "Hello, Ann!"}
    assert (result.custom_status, result.custom_status_version) == ("greeting", 1)
    assert app.client.get_status("i1") == result
    assert app.client.get_status("nobody").status == "NotFound"
    assert app.client.get_kv_value("i1", "who") == "Ann"
    assert app.client.get_kv_value("i1", "other") is None
    assert app.client.wait_for_kv_value("i1", "who") == "Ann"
    assert app.client.wait_for_orchestration_typed("i1") == result.output
    assert app.client.wait_for_status_change("i1", 0).custom_status == "greeting"


def test_a_failure_is_told_in_the_words_of_the_sdk(app: App) -> None:
    app.client.start_orchestration("i1", "Failing")
    result = app.client.wait_for_orchestration("i1", 5_000)
    assert result.status == "Failed"
    assert result.error is not None
    assert "Activity 'Broken' call failed: ValueError: out of paper" in result.error
    with pytest.raises(Exception, match="out of paper"):
        app.client.wait_for_orchestration_typed("i1")


def test_events_and_queues_reach_the_instance(app: App) -> None:
    app.client.start_orchestration("i1", "Patient")
    app.client.enqueue_event("i1", "mail", {"n": 1})
    while app.client.get_status("i1").status != "Running":
        pass
    app.client.raise_event("i1", "go", "now")
    assert app.client.wait_for_orchestration("i1", 5_000).output == ["now", {"n": 1}]


def test_waits_that_are_too_short_raise_what_the_sdk_raises(app: App) -> None:
    app.client.start_orchestration("i1", "Patient")
    with pytest.raises(RuntimeError, match="Operation timed out"):
        app.client.wait_for_orchestration("i1", 50)
    with pytest.raises(TimeoutError, match="Timed out waiting for value 'k' on instance 'i1'"):
        app.client.wait_for_kv_value("i1", "k", 50)
    app.client.cancel_instance("i1", "enough")
    result = app.client.wait_for_orchestration("i1", 5_000)
    assert (result.status, result.error) == ("Failed", "canceled: enough")


def test_children_and_management(app: App) -> None:
    app.client.start_orchestration_versioned("root", "Parent", None, "2.0.0")
    result = app.client.wait_for_orchestration("root", 5_000)
    assert result.output == [{"greeting": "Hello, child!"}, "child"]
    tree = app.client.get_instance_tree("root")
    assert (tree.size, tree.root_id) == (2, "root")
    info = app.client.get_instance_info("root")
    assert (info.orchestration_name, info.orchestration_version) == ("Parent", "2.0.0")
    assert info.created_at > 1_600_000_000_000
    assert app.client.list_executions("root") == [1]
    assert app.client.get_execution_info("root", 1).event_count > 2
    kinds = [event.kind for event in app.client.read_execution_history("root", 1)]
    assert kinds[0] == "OrchestrationStarted"
    assert kinds[-1] == "OrchestrationCompleted"
    assert app.client.get_system_metrics().completed_instances == 2
    assert app.client.get_queue_depths().worker_queue == 0
    stats = app.client.get_orchestration_stats("root")
    assert stats is not None
    assert stats.history_event_count == len(kinds)
    assert app.client.prune_executions("root", PruneOptions(keep_last=1)).executions_deleted == 0
    with pytest.raises(RuntimeError, match="sub-orchestration"):
        app.client.delete_instance(tree.all_ids[1])
    assert app.client.delete_instance("root").instances_deleted == 2
    assert app.client.list_all_instances() == []
    assert app.client.delete_instance_bulk(InstanceFilter()).instances_deleted == 0
    snapshot = app.runtime.metrics_snapshot()
    assert snapshot is not None
    assert (snapshot.orch_starts, snapshot.orch_completions) == (2, 2)


def test_what_only_we_have(app: App, tmp_path: Path) -> None:
    client = app.client
    word = Signal(name="q", data="early", queued=True)
    answers = client.send_many(
        [
            StartRequest(orchestration="Hello", args=({"name": "Ann"},), instance_id="i1"),
            StartRequest(orchestration="Failing", instance_id="nul\0"),
            StartRequest(orchestration="Patient", instance_id="i2", signal=word),
        ]
    )
    assert [answer.ok for answer in answers] == [True, False, True]
    assert client.wait_for_orchestration("i1", 5_000).output == {"greeting": "Hello, Ann!"}
    again = client.start_again("i1")
    assert client.wait_for_orchestration(again, 5_000).output == {"greeting": "Hello, Ann!"}
    path = tmp_path / "i1.jsonl"
    assert client.export_instance("i1", path) == len(path.read_text().splitlines()) > 3
    assert client.has_management_capability()
    with pytest.raises(ClientError, match="'i1' can't be suspended: it has ended"):
        client.suspend_instance("i1")
    assert not client.resume_instance("i1")
    page = client.list_instances(InstanceQuery(names=("Hello",)), limit=1)
    rest = client.list_instances(InstanceQuery(names=("Hello",)), cursor=page.next_cursor)
    found = [state.instance_id for state in (*page.instances, *rest.instances)]
    assert found == [again, "i1"]
    assert client.list_poisoned().instances == ()
    assert client.list_dead_letters().letters == ()
    with pytest.raises(ClientError, match="'i1' has ended"):
        client.requeue_instance("i1")
    assert client.discard_dead_letters("i1") == 0


def test_an_unknown_instance_is_named(app: App) -> None:
    with pytest.raises(RuntimeError, match="instance 'nobody' not found"):
        app.client.get_instance_info("nobody")


async def test_blocking_calls_work_inside_a_running_loop(app: App) -> None:
    app.client.start_orchestration("i1", "Hello", {"name": "Ann"})
    result = await asyncio.to_thread(app.client.wait_for_orchestration, "i1", 5_000)
    assert result.status == "Completed"
    assert app.client.get_status("i1").status == "Completed"


def test_many_threads_share_a_client(app: App) -> None:
    results: list[Any] = []

    def work(number: int) -> None:
        app.client.start_orchestration(f"i{number}", "Hello", {"name": str(number)})
        results.append(app.client.wait_for_orchestration(f"i{number}", 10_000).output)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [{"greeting": f"Hello, {number}!"} for number in range(10)]
    assert sorted(results, key=str) == sorted(expected, key=str)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_a_fork_the_old_client_refuses_and_says_what_to_do() -> None:
    client = Client(SqliteProvider.in_memory())
    client.get_status("nobody")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            client.get_status("nobody")
            answer = "no error"
        except RuntimeError as error:
            answer = str(error)
        os.write(writing, answer.encode())
        os._exit(0)
    os.waitpid(child, 0)
    answer = os.read(reading, 1_000).decode()
    os.close(reading)
    os.close(writing)
    assert "before the process forked" in answer
    assert "anew in the child" in answer


def test_a_runtime_that_runs_can_not_be_started_again(app: App) -> None:
    with pytest.raises(RuntimeError, match="running already"):
        app.runtime.start()


def test_options_are_those_of_the_sdk_by_position() -> None:
    options = RuntimeOptions(4, 8, 50, 20_000)
    assert (options.turn_slots, options.activity_slots) == (4, 8)
    assert options.activity_lease_ms == 20_000
    assert RuntimeOptions(worker_tag_filter=TagFilter.tags(["gpu"])).tags.accepts("gpu")
    assert RuntimeOptions(worker_tag_filter=TagFilter.ANY).tags.accepts("gpu")
    assert not RuntimeOptions().tags.accepts("gpu")
    with pytest.raises(ValueError, match="worker_concurrency must be at least 1, not 0"):
        RuntimeOptions(worker_concurrency=0)


def test_every_public_name_exists() -> None:
    for name in duroxide.__all__:
        assert getattr(duroxide, name) is not None
