"""What the runtime logs: levels, and facts as fields of the record, by the names of the reference."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from duroxide.context import OrchestrationContext
from duroxide.decorators import activity, orchestration
from duroxide.errors import ActivityError, ProviderError
from duroxide.providers.memory import MemoryProvider
from duroxide.retry import NoBackoff, RetryPolicy
from duroxide.runtime.telemetry import LoggingObserver
from duroxide.testing.virtualtime import LoopClock
from tests.unit.duroxide.runtime.test_runtime import working

SECRET = "the text of a payload"

TURN = {
    "instance_id",
    "execution_id",
    "orchestration_name",
    "orchestration_version",
    "history_events",
    "attempt_count",
    "outcome",
    "duration_ms",
}
ACTIVITY = {
    "instance_id",
    "execution_id",
    "activity_name",
    "activity_id",
    "activity_tag",
    "attempt_count",
    "outcome",
    "duration_ms",
}


@contextmanager
def logged(name: str = "duroxide.runtime") -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, logger = Keep(), logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def about(records: list[logging.LogRecord], fields: set[str]) -> list[dict[str, Any]]:
    """The records that have all these fields."""
    return [vars(record) for record in records if fields <= set(vars(record))]


@activity
async def keep(text: str) -> str:
    return text


@orchestration
async def pass_on(ctx: OrchestrationContext, text: str) -> str:
    return str(await ctx.call(keep, text))


async def test_turns_and_activities_are_logged_with_their_facts() -> None:
    with logged() as records:
        async with working(pass_on, keep) as (client, _):
            await client.result(await client.start(pass_on, SECRET, instance_id="i1"))
    turns, (done,) = about(records, TURN), about(records, ACTIVITY)
    assert [turn["history_events"] for turn in turns] == [2, 4]
    assert [turn["outcome"] for turn in turns] == ["Running", "Completed"]
    assert {turn["orchestration_name"] for turn in turns} == {"pass_on"}
    assert (done["activity_name"], done["activity_id"], done["outcome"]) == ("keep", 2, "success")
    assert (done["instance_id"], done["attempt_count"], done["activity_tag"]) == ("i1", 1, None)
    assert {record["levelno"] for record in (*turns, done)} == {logging.DEBUG}


async def test_no_payload_is_logged_not_even_for_debugging() -> None:
    with logged() as records:
        async with working(pass_on, keep) as (client, _):
            await client.result(await client.start(pass_on, SECRET))
    assert records
    assert [r for r in records if SECRET in r.getMessage() or SECRET in str(vars(r))] == []


@activity
async def refuses(text: str) -> None:
    raise ValueError(text)


@orchestration
async def gives_up(ctx: OrchestrationContext, text: str) -> None:
    await ctx.call(refuses, text)


async def test_a_failure_is_a_warning_and_keeps_its_text_to_itself() -> None:
    with logged() as records:
        async with working(gives_up, refuses) as (client, _):
            await client.wait(await client.start(gives_up, SECRET, instance_id="i1"))
    (called,) = about(records, ACTIVITY)
    (ended,) = [turn for turn in about(records, TURN) if turn["outcome"] == "Failed"]
    assert (called["levelno"], called["outcome"]) == (logging.WARNING, "failure")
    assert (ended["levelno"], ended["error_type"]) == (logging.WARNING, "app_error")
    loud = [record for record in records if record.levelno > logging.DEBUG]
    assert [r for r in loud if SECRET in r.getMessage() or SECRET in str(vars(r))] == []


def test_what_goes_wrong_is_a_warning_that_names_it() -> None:
    observer = LoggingObserver()
    with logged() as records:
        observer.store_failed("commit", ProviderError("commit", "connection lost", retryable=True))
        observer.instance_poisoned("i1", 11)
        observer.turn_refused("i2", "lease lost")
    assert [record.levelno for record in records] == [logging.WARNING] * 3
    facts = [vars(record) for record in records]
    assert (facts[0]["operation"], facts[0]["error"]) == ("commit", "commit: connection lost")
    assert (facts[1]["instance_id"], facts[1]["attempt_count"]) == ("i1", 11)
    assert (facts[2]["instance_id"], facts[2]["error"]) == ("i2", "lease lost")


async def test_a_retry_and_code_that_changed_are_logged_without_payloads() -> None:
    @activity(name="work")
    async def works(text: str) -> None:
        raise ValueError(text)

    @orchestration(name="changing")
    async def old(ctx: OrchestrationContext, text: str) -> None:
        retry = RetryPolicy(max_attempts=2, backoff=NoBackoff())
        with suppress(ActivityError):
            await ctx.call(works, text, retry=retry)
        ctx.set_custom_status("tried")
        await ctx.wait_event("go")

    @orchestration(name="changing")
    async def new(ctx: OrchestrationContext, text: str) -> None:
        await ctx.call("other", f"{text}, changed")

    clock = LoopClock()
    store = MemoryProvider(clock)
    with logged("duroxide") as records:
        async with working(old, works, provider=store) as (client, _):
            instance = await client.start(old, SECRET)
            await client.wait_for_custom_status(instance)
        options = {"max_attempts": 1, "unregistered_backoff_ms": (1, 1)}
        async with working(new, provider=store, **options) as (client, _):
            await client.raise_event(instance, "go", SECRET)
            await client.wait(instance)
    told = [(r.levelname, r.getMessage()) for r in records if r.levelno > logging.DEBUG]
    assert ("WARNING", "attempt 1 of 2 failed: ValueError") in told
    assert any("code did  ActivityScheduled  name='other'  input=(" in text for _, text in told)
    assert not [text for _, text in told if SECRET in text]
    assert [r for r in records if SECRET in r.getMessage()], "at DEBUG, for who looks closer"
