"""Calling an activity's function where it belongs, and what its answer or its exception means."""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from duroxide.activity_context import ActivityContext
from duroxide.errors import LimitExceeded, TaskError
from duroxide.failures import Failure, activity_failure
from duroxide.limits import Limits
from duroxide.registry import ActivityDef
from duroxide.storable import text_of

TRACEBACK_CHARACTERS = 16_384


async def call_activity(
    definition: ActivityDef[..., Any], context: ActivityContext, text: str, threads: Executor
) -> Any:
    """Decode the input and call the function: on this loop, in a thread, or on its own executor.

    Only a call on this loop can be interrupted; one in a thread or elsewhere has to look at
    `context.is_cancelled()`.
    """
    args, kwargs = definition.decode_arguments(text)
    if definition.takes_context:
        args = (context, *args)
    if definition.is_async:
        return await _without_exit(definition.fn(*args, **kwargs))
    call = partial(definition.fn, *args, **kwargs)
    if definition.executor is None:
        call = partial(contextvars.copy_context().run, call)
    return await _without_exit(_answer_of(definition.executor or threads, call))


async def _answer_of(executor: Executor, call: Callable[[], Any]) -> Any:
    """As `loop.run_in_executor`, whose future never ends if the function raises `StopIteration`."""
    loop = asyncio.get_running_loop()
    future = executor.submit(call)
    ended = loop.create_future()

    def tell(_: Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, ended)

    future.add_done_callback(tell)
    try:
        await ended
    except asyncio.CancelledError:
        future.cancel()
        raise
    if future.cancelled():  # by who owns the executor
        raise asyncio.CancelledError
    return future.result()


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


async def _without_exit(awaitable: Any) -> Any:
    """An activity that exits or interrupts fails; it does not end the worker, nor its event loop."""
    try:
        return await awaitable
    except SystemExit as error:
        raise RuntimeError(f"the activity called sys.exit({error.code!r})") from error
    except KeyboardInterrupt as error:
        raise RuntimeError("the activity raised KeyboardInterrupt") from error


def result_text(definition: ActivityDef[..., Any], value: Any, limits: Limits) -> str:
    """The result as it will be recorded.

    Raises:
        LimitExceeded: it is too large to be recorded.
        CodecError: it has no form as text.
    """
    text = definition.encode_result(value)
    size = len(text) if text.isascii() else len(text.encode())
    if size > limits.payload_bytes:
        raise LimitExceeded(f"Result of activity {definition.name!r}", size, limits.payload_bytes)
    return text


def failure_of_activity(definition: ActivityDef[..., Any], error: BaseException) -> Failure:
    """What is recorded for an activity that raised."""
    name = type(error).__name__
    retryable = error.retryable if isinstance(error, TaskError) else not _is_refusal(error)
    data = error.data if isinstance(error, TaskError) else None
    if isinstance(error, TaskError) and definition.raw:
        message = error.message
    else:
        kind = type(error).__qualname__
        message = f"Activity '{definition.name}' call failed: {kind}: {text_of(error)}"
    if isinstance(error, TaskError) and error.error_type is not None:
        name = error.error_type
    return activity_failure(
        message,
        error_type=name,
        retryable=retryable,
        traceback="".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:],
        data=data,
    )


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, LimitExceeded)
