"""Runs user code for the engine: `async def` as it is, generators through what they yield."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from duroxide.definitions import OrchestrationDef, Style
from duroxide.descriptors import Descriptor, ScheduledTask, json_or_text, retry_descriptor
from duroxide.engine.combinators import Gather, Mapped, Select, Winner, settled
from duroxide.engine.futures import DurableFuture, State
from duroxide.engine.journal import Journal
from duroxide.engine.locate import waiting_line
from duroxide.errors import Cancelled
from duroxide.retry import (
    ExponentialBackoff,
    FixedBackoff,
    LinearBackoff,
    RetryPolicy,
)

if TYPE_CHECKING:
    from duroxide.context import OrchestrationContext

Steps = Generator[Any, Any, Any]


def launch(
    definition: OrchestrationDef[..., Any], journal: Journal, prepared: object
) -> Coroutine[Any, Any, str]:
    """The coroutine that the engine drives; it decodes the input and encodes the output."""
    from duroxide.context import OrchestrationContext

    journal.executor.blame = _blame
    ctx = OrchestrationContext.attached(journal, definition, prepared)
    return _run(definition, ctx, journal.started.input)


async def _run(definition: OrchestrationDef[..., Any], ctx: OrchestrationContext, text: str) -> str:
    args, kwargs = definition.decode_input(text)
    _this_task_yields(ctx, definition.style is not Style.NATIVE)
    result = definition.fn(ctx, *args, **kwargs)
    if isinstance(result, Generator):  # also that of a plain function around a generator
        result = await drive(ctx, result)
    elif definition.style is Style.NATIVE:
        result = await result
    return definition.encode_output(result)


def _blame(interrupt: KeyboardInterrupt) -> BaseException | None:
    """The code's, in a thread that no Ctrl-C comes to: it would end the loop of everybody there."""
    if threading.current_thread() is threading.main_thread():
        return None
    failure = RuntimeError("the orchestration raised KeyboardInterrupt")
    failure.__cause__ = interrupt
    return failure.with_traceback(interrupt.__traceback__)


def _this_task_yields(ctx: OrchestrationContext, yields: bool) -> None:
    """Say how the task that runs is written; coroutines and generators may call each other."""
    task = ctx.journal.executor.current
    assert task is not None
    task.yields = yields


# Generators.


async def drive(ctx: OrchestrationContext, steps: Steps) -> Any:
    """Run a generator: schedule what it yields, and send back what that gives.

    Failures are thrown in as plain `Exception`s with the failure's text, as the official SDK does.
    """
    journal = ctx.journal
    _this_task_yields(ctx, True)
    resume: Callable[[], Any] = lambda: next(steps)  # noqa: E731
    try:
        while True:
            try:
                yielded = resume()
            except StopIteration as stop:
                return stop.value
            journal.line_hint = lambda: waiting_line(steps)
            try:
                value = await schedule(ctx, yielded)
            except Exception as error:
                resume = _throwing(steps, error)
            except Cancelled as cancelled:  # its clean-up may ask for more, as a coroutine's may
                resume = _interrupting(steps, cancelled)
            else:
                resume = _sending(steps, value)
            finally:
                journal.line_hint = None
    finally:
        steps.close()


def _sending(steps: Steps, value: Any) -> Callable[[], Any]:
    return lambda: steps.send(value)


def _throwing(steps: Steps, error: Exception) -> Callable[[], Any]:
    text = error_text(error)
    return lambda: steps.throw(Exception(text))


def _interrupting(steps: Steps, cancelled: Cancelled) -> Callable[[], Any]:
    return lambda: steps.throw(cancelled)


def error_text(error: Exception) -> str:
    """What a generator sees of a failure; JSON is written anew, as the official SDK does."""
    text = str(error)
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        return text


def schedule(ctx: OrchestrationContext, yielded: Any) -> DurableFuture[Any]:
    """Do what a yielded value says.

    Raises:
        Exception: it is nothing that can be yielded.
    """
    if isinstance(yielded, ScheduledTask) and yielded.future is not None:
        return yielded.future
    if isinstance(yielded, dict) and isinstance(yielded.get("type"), str):
        do = _SCHEDULE.get(yielded["type"])
        if do is not None:
            try:
                return do(ctx, yielded)
            except KeyError as missing:
                raise TypeError(
                    f"Invalid generator step result: {yielded!r} has no {missing}; "
                    "yield what the methods of ctx return"
                ) from None
    if isinstance(yielded, DurableFuture):
        return yielded
    raise TypeError(
        f"Invalid generator step result: {yielded!r} is nothing that an orchestration can yield; "
        "yield what the methods of ctx return"
    )


def _activity(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    return ctx.journal.activity(
        task["name"],
        task["input"],
        decode=json_or_text,
        tag=task.get("tag"),
        session_id=task.get("sessionId"),
    )


def _activity_with_retry(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    return ctx.retrying(lambda: _plain_activity(ctx, task), retry_policy(task["retry"]))


def _plain_activity(ctx: OrchestrationContext, task: Descriptor) -> Any:
    return _activity(ctx, task)


def retry_policy(retry: Mapping[str, Any] | None) -> RetryPolicy:
    """The policy that a `retry` dict stands for; a timed-out attempt is final, as in the official SDK."""
    given = retry_descriptor(retry)

    def duration(name: str) -> timedelta | None:
        value = given[name]
        return None if value is None else timedelta(milliseconds=value)

    match given["backoff"]:
        case None | "exponential":
            backoff: Any = ExponentialBackoff()
        case "fixed":
            backoff = FixedBackoff(timedelta(seconds=1))
        case _:
            backoff = LinearBackoff()
    return RetryPolicy(
        max_attempts=given["maxAttempts"],
        backoff=backoff,
        timeout=duration("timeoutMs"),
        total_timeout=duration("totalTimeoutMs"),
        retry_on_timeout=False,
    )


def _timer(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    return ctx.journal.timer(task["delayMs"])


def _wait_event(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    return ctx.journal.external_event(task["name"], json_or_text)


def _dequeue(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    return ctx.journal.queue_read(task["queueName"], json_or_text)


def _child(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    return ctx.journal.child(
        task["name"],
        task["input"],
        instance=task.get("instanceId"),
        version=task.get("version"),
        decode=json_or_text,
    )


def _detached(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    ctx.journal.detached(task["name"], task["instanceId"], task["input"], task.get("version"))
    return settled(ctx.journal.executor, None)


def _new_guid(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    return settled(ctx.journal.executor, str(ctx.uuid()))


def _utc_now(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    return settled(ctx.journal.executor, ctx.journal.now_ms)


def _continue_as_new(ctx: OrchestrationContext, task: Descriptor) -> NoReturn:
    ctx.journal.continue_as_new(task["input"], task.get("version"))


def _join(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    children = [_guarded(ctx, child) for child in task["tasks"]]
    unwrap = bool(task.get("_typed_all"))
    gathered = Gather(ctx.journal.executor, children, collect=True)
    return Mapped(
        ctx.journal.executor, gathered, lambda results: [_entry(r, unwrap) for r in results]
    )


def _guarded(ctx: OrchestrationContext, task: Any) -> DurableFuture[Any]:
    """A task that can't be scheduled is a failed one: `all` never raises."""
    try:
        return schedule(ctx, task)
    except Exception as error:
        failed: DurableFuture[Any] = DurableFuture(ctx.journal.executor)
        failed.settle(State.FAILED, error)
        return failed


def _entry(result: Any, unwrap: bool) -> Any:
    if isinstance(result, BaseException):
        return {"err": json_or_text(str(result) or type(result).__name__)}
    return result if unwrap else {"ok": result}


def _select(ctx: OrchestrationContext, task: Descriptor) -> DurableFuture[Any]:
    tasks = task["tasks"]
    if len(tasks) < 2:
        raise ValueError(f"select needs at least 2 tasks, not {len(tasks)}")
    children = [schedule(ctx, child) for child in tasks]
    first = Select(ctx.journal.executor, children, range(len(children)))
    return Mapped(ctx.journal.executor, first, _winner)


def _winner(winner: Winner[Any]) -> dict[str, Any]:
    return {"index": winner.index, "value": winner.value}


_SCHEDULE: Mapping[str, Callable[[OrchestrationContext, Descriptor], DurableFuture[Any]]] = {
    "activity": _activity,
    "activityWithSession": _activity,
    "activityWithRetry": _activity_with_retry,
    "activityWithRetryOnSession": _activity_with_retry,
    "timer": _timer,
    "waitEvent": _wait_event,
    "dequeueEvent": _dequeue,
    "subOrchestration": _child,
    "subOrchestrationWithId": _child,
    "subOrchestrationVersioned": _child,
    "subOrchestrationVersionedWithId": _child,
    "orchestration": _detached,
    "orchestrationVersioned": _detached,
    "newGuid": _new_guid,
    "utcNow": _utc_now,
    "continueAsNew": _continue_as_new,
    "continueAsNewVersioned": _continue_as_new,
    "join": _join,
    "select": _select,
}
