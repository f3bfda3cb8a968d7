"""A program run as a coroutine or as a generator; both must do exactly the same."""

from __future__ import annotations

from collections.abc import Generator
from copy import copy
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from duroxide.context import OrchestrationContext
from duroxide.errors import OrchestrationError
from duroxide.registry import OrchestrationDef, Registry, define_orchestration
from duroxide.retry import RetryPolicy
from tests.property.engine.programs import (
    COMMANDS,
    Body,
    Call,
    Child,
    ContinueAsNew,
    Dequeue,
    Detached,
    Fail,
    Gather,
    KeyClear,
    KeyPrune,
    KeySet,
    Leaf,
    Patch,
    Peek,
    Program,
    Retry,
    Select,
    Sleep,
    SpawnCancel,
    Statement,
    Status,
    Timed,
    Try,
    Wait,
)

NATIVE, GENERATOR = "native", "generator"


@dataclass
class Probe:
    """What a test watches of one run, and how it disturbs it; reaches the code as `ctx.prepared`."""

    trace: list[tuple[str, Any]] = field(default_factory=list)
    alter: str | None = None  # label of a command to emit differently
    skip: str | None = None  # label of a command to leave out
    repeat: str | None = None  # label of a command to emit twice
    logged: list[str] = field(default_factory=list)  # trace lines that were not muted


class Failure(ValueError):
    """What `Fail` raises."""


class Env:
    """The interpreter's state of one execution."""

    def __init__(self, ctx: OrchestrationContext, counter: int) -> None:
        self.ctx = ctx
        self.counter = counter
        self.probe: Probe = ctx.prepared if isinstance(ctx.prepared, Probe) else Probe()
        self.log: list[Any] = []
        self.before_ms = ctx.journal.now_ms
        self.is_timed = False  # it runs as a coroutine in either style, inside of a time limit

    def note(self, label: str, value: Any) -> None:
        """What the code saw; goes into the output and, with more detail, into the trace."""
        self.log.append([label, value])
        self.probe.trace.append((label, repr(value)))
        if not self.ctx.is_replaying:
            self.probe.logged.append(label)

    def text(self, label: str) -> str:
        return f"{label}!" if self.probe.alter == label else label


# What is the same in both styles: statements that never wait.


def at_once(env: Env, statement: Statement) -> bool:
    """Do a statement that needs no waiting; False if it is not of that kind."""
    ctx, label = env.ctx, statement.label
    match statement:
        case Status(clear=True):
            ctx.set_custom_status(label) if env.probe.alter == label else ctx.reset_custom_status()
        case Status():
            ctx.set_custom_status(env.text(label))
        case KeySet(key=key):
            old = ctx.get_kv_value(key) or ""
            ctx.set_kv_value(key, f"{old[-20:]}+{env.text(label)}")
            env.note(label, ctx.get_kv_value(key))
        case KeyClear(key=None):
            ctx.clear_kv_value("other") if env.probe.alter == label else ctx.clear_all_kv_values()
        case KeyClear(key=str(key)):
            ctx.clear_kv_value(f"{key}!" if env.probe.alter == label else key)
        case KeyPrune():
            env.note(label, ctx.prune_kv_values_updated_before(ctx.journal.now_ms - 50))
        case Peek():
            now_ms = ctx.journal.now_ms
            env.probe.trace.append((label, (now_ms, str(ctx.uuid()), ctx.random.random())))
            env.note(label, now_ms >= env.before_ms)
            env.before_ms = now_ms
        case Patch():
            env.note(label, ctx.patched(label))
        case Fail():
            raise Failure(label)
        case _:
            return False
    return True


def disturbed(env: Env, statement: Statement) -> bool:
    """Whether to leave the statement out; also does the extra command of a repeated one."""
    if env.probe.repeat == statement.label:
        env.ctx.set_custom_status("twice")
    return env.probe.skip == statement.label and isinstance(statement, (*COMMANDS, Retry))


# As a coroutine.


async def run_native(env: Env, body: Body) -> None:
    for statement in body:
        if disturbed(env, statement) or at_once(env, statement):
            continue
        await _native(env, statement)


async def _native(env: Env, statement: Statement) -> None:
    ctx, label = env.ctx, statement.label
    match statement:
        case Gather(branches=branches, collect=collect):
            found = await ctx.gather(
                *(_native_branch(env, b) for b in branches), return_exceptions=collect
            )
            env.note(label, [_word(r) for r in found])
        case Select(branches=branches):
            winner = await ctx.select(*(_native_branch(env, b) for b in branches))
            env.note(label, winner.index)
        case Try(body=body):
            try:
                await run_native(env, body)
            except Exception as error:
                env.note(label, _word(error))
        case Timed(delay_ms=delay_ms, body=body) if env.is_timed:
            await _timed(env, label, delay_ms, body)
        case Timed(delay_ms=delay_ms, body=body):
            # A task of its own, as a generator needs one for it: else a run has fewer steps.
            await ctx.spawn(_timed(env, label, delay_ms, body))
        case SpawnCancel(branch=branch, body=body):
            task = ctx.spawn(run_native(env, branch))
            await run_native(env, body)
            env.note(label, task.cancel())
        case ContinueAsNew():
            if env.counter > 0:
                ctx.continue_as_new(env.counter - 1)
        case _:
            env.note(label, await _native_leaf(env, statement))


async def _native_branch(env: Env, body: Body) -> str:
    await run_native(env, body)
    return "done"


async def _timed(env: Env, label: str, delay_ms: int, body: Body) -> None:
    try:
        async with env.ctx.timeout(milliseconds=delay_ms):
            inside = copy(env)
            inside.is_timed = True
            await run_native(inside, body)
    except TimeoutError:
        env.note(label, "timeout")


def _native_leaf(env: Env, leaf: Leaf) -> Any:
    ctx, text = env.ctx, env.text(leaf.label)
    changed = env.probe.alter == leaf.label
    match leaf:
        case Call(tag=tag):
            return ctx.call("act", text, tag=tag)
        case Retry(attempts=attempts, timeout_ms=timeout_ms):
            limit = timedelta(milliseconds=timeout_ms) if timeout_ms else None
            policy = RetryPolicy(max_attempts=attempts, timeout=limit, retry_on_timeout=False)
            return ctx.call("act", text, retry=policy)
        case Sleep(delay_ms=delay_ms):
            return ctx.sleep(milliseconds=delay_ms + changed)
        case Wait(name=name, buffered=buffered):
            return ctx.wait_event(f"{name}!" if changed else name, buffered=buffered)
        case Dequeue(name=name):
            return ctx.queue(f"{name}!" if changed else name).get()
        case Child(name=name, explicit_id=explicit):
            return ctx.call_child(name, 0, id=_child_id(env, text, explicit))
        case Detached(name=name):
            ctx.start(name, 0, id=_detached_id(env, text))
            return ctx.gather()
        case _:
            raise AssertionError(leaf)


def _child_id(env: Env, text: str, explicit: bool) -> str | None:
    if explicit:
        return f"{env.ctx.instance_id}/{env.ctx.execution_id}/{text}"
    return f"altered-{text}" if text.endswith("!") else None


def _detached_id(env: Env, text: str) -> str:
    return f"{env.ctx.instance_id}/{env.ctx.execution_id}/{text}"


# As a generator, with the official SDK's descriptors wherever it has one.


def run_generator(env: Env, body: Body) -> Generator[Any, Any, None]:
    for statement in body:
        if disturbed(env, statement) or at_once(env, statement):
            continue
        yield from _generator(env, statement)


def _generator(env: Env, statement: Statement) -> Generator[Any, Any, None]:
    ctx, label = env.ctx, statement.label
    match statement:
        case Gather(branches=branches, collect=collect):
            yield from _generator_gather(env, label, branches, collect)
        case Select(branches=branches):
            won = yield ctx.race(*(_generator_branch(env, b) for b in branches))
            env.note(label, won["index"])
        case Try(body=body):
            try:
                yield from run_generator(env, body)
            except Exception as error:
                env.note(label, _word(error))
        case Timed(delay_ms=delay_ms, body=body):
            yield ctx.spawn(_timed(env, label, delay_ms, body))
        case SpawnCancel(branch=branch, body=body):
            task = ctx.run(run_generator(env, branch))
            yield from run_generator(env, body)
            env.note(label, task.cancel())
        case ContinueAsNew():
            if env.counter > 0:
                yield ctx.continue_as_new(env.counter - 1)
        case _:
            value = yield _descriptor(env, statement)
            env.note(label, [] if isinstance(statement, Detached) else value)


def _generator_gather(
    env: Env, label: str, branches: tuple[Body, ...], collect: bool
) -> Generator[Any, Any, None]:
    ctx = env.ctx
    futures = [ctx.run(_generator_done(env, b)) for b in branches]
    if collect:
        found = yield ctx.all(futures)  # type: ignore[arg-type]  # futures are a superset
        words = [r["ok"] if "ok" in r else f"err:{r['err']}" for r in found]
    else:
        words = yield ctx.gather(*futures)
    env.note(label, [_word(w) for w in words])


def _generator_branch(env: Env, body: Body) -> Any:
    return env.ctx.run(_generator_done(env, body))


def _generator_done(env: Env, body: Body) -> Generator[Any, Any, str]:
    yield from run_generator(env, body)
    return "done"


def _descriptor(env: Env, leaf: Leaf) -> Any:
    ctx, text = env.ctx, env.text(leaf.label)
    changed = env.probe.alter == leaf.label
    match leaf:
        case Call(tag=tag):
            task = ctx.schedule_activity("act", text)
            return task if tag is None else task.with_tag(tag)
        case Retry(attempts=attempts, timeout_ms=timeout_ms):
            retry: dict[str, Any] = {"max_attempts": attempts}
            if timeout_ms:
                retry["timeout_ms"] = timeout_ms
            return ctx.schedule_activity_with_retry("act", text, retry)
        case Sleep(delay_ms=delay_ms):
            return ctx.schedule_timer(delay_ms + changed)
        case Wait(name=name, buffered=False):
            return ctx.wait_for_event(f"{name}!" if changed else name)
        case Wait(name=name):
            return ctx.wait_event(f"{name}!" if changed else name, buffered=True)
        case Dequeue(name=name):
            return ctx.dequeue_event(f"{name}!" if changed else name)
        case Child(name=name, explicit_id=explicit):
            instance_id = _child_id(env, text, explicit)
            if instance_id is None:
                return ctx.schedule_sub_orchestration(name, 0)
            return ctx.schedule_sub_orchestration_with_id(name, instance_id, 0)
        case Detached(name=name):
            return ctx.start_orchestration(name, _detached_id(env, text), 0)
        case _:
            raise AssertionError(leaf)


def _word(value: Any) -> str:
    """An outcome without the type of the error, which the styles show differently."""
    if isinstance(value, BaseException):
        return f"err:{value}"
    return str(value)


# Definitions.


def definition(name: str, body: Body, style: str) -> OrchestrationDef[..., Any]:
    async def native(ctx: OrchestrationContext, counter: int) -> list[Any]:
        env = Env(ctx, counter)
        try:
            await run_native(env, body)
        except Exception as error:
            raise OrchestrationError(str(error)) from None
        return env.log

    def generator(ctx: OrchestrationContext, counter: int) -> Generator[Any, Any, list[Any]]:
        env = Env(ctx, counter)
        try:
            yield from run_generator(env, body)
        except Exception as error:
            raise OrchestrationError(str(error)) from None
        return env.log

    fn: Any = native if style == NATIVE else generator
    return define_orchestration(fn, name=name)


def registry(program: Program, style: str = NATIVE) -> Registry:
    found = Registry()
    found.add(definition("root", program.root, style))
    for index, body in enumerate(program.children):
        found.add(definition(f"child{index}", body, style))
    return found
