"""Lease an activity, call it, commit what came of it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any, Protocol, TypeAlias

from duroxide import work
from duroxide.activity_context import ALREADY_FINISHED, ActivityContext, LeaseLost
from duroxide.codec import decode_work
from duroxide.errors import CodecError
from duroxide.failures import Failure, PoisonedActivity, PoisonFailure, activity_failure
from duroxide.ids import ActivityToken
from duroxide.payload import JSON
from duroxide.providers.base import (
    AbandonActivity,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    EagerDispatch,
    FinishActivity,
    LeasedActivity,
    Provider,
    TagMode,
)
from duroxide.registry import ActivityDef, Registry
from duroxide.routing import message_of
from duroxide.runtime.backoff import redelivery_delay_ms
from duroxide.runtime.builtin import builtin_activities
from duroxide.runtime.calls import call_activity, failure_of_activity, result_text
from duroxide.runtime.flusher import Flusher
from duroxide.runtime.heartbeats import Heartbeats
from duroxide.runtime.leases import Leases
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.poller import Poller
from duroxide.runtime.sessions import SessionKeeper
from duroxide.runtime.slots import Slots
from duroxide.runtime.storeclock import StoreClock
from duroxide.runtime.telemetry import ActivityRecord, Observer

logger = logging.getLogger("duroxide.runtime")

Completion: TypeAlias = work.ActivityCompletion | work.ActivityFailure


class Finish(Protocol):
    """Records what came of an activity."""

    async def __call__(self, leased: LeasedActivity, completion: Completion) -> CommitResult: ...


class Ended(Protocol):
    """Is told of an activity that has nothing to record."""

    def __call__(self, leased: LeasedActivity, *, wrote_itself: bool) -> None: ...


INTERRUPT_S = 1.0  # for code to end once it was cancelled


class ActivityDispatcher:
    """Runs activities: those that the store gives, and those that this process's turns have added."""

    def __init__(
        self,
        provider: Provider,
        registry: Registry,
        options: RuntimeOptions,
        *,
        worker_id: str,
        flusher: Flusher,
        leases: Leases[ActivityToken],
        clock: StoreClock,
        threads: Executor,
        observer: Observer,
        sessions: SessionKeeper,
        heartbeats: Heartbeats,
        finish: Finish,
        ended: Ended,
        draw: random.Random | None = None,
    ) -> None:
        self._provider = provider
        self._registry = registry
        self._options = options
        self._worker_id = worker_id
        self._flusher = flusher
        self._leases = leases
        self._clock = clock
        self._threads = threads
        self._observer = observer
        self._sessions = sessions
        self._heartbeats = heartbeats
        self._finish = finish
        self._builtin = builtin_activities(provider)
        self._tell_ended = ended
        self._slots = Slots(options.activity_slots)
        self._running = asyncio.Semaphore(options.activity_slots)
        self._per_activity: dict[str, asyncio.Semaphore] = {}
        self._in_hand: dict[ActivityToken, LeasedActivity] = {}
        self._stray: set[asyncio.Task[Any]] = set()
        self._is_draining = False
        self.poller = Poller(
            "poll_activities",
            self._poll,
            self._slots,
            pause_s=options.poll_interval_s,
            observer=observer,
            draw=draw,
        )

    # Where activities come from.

    def offer(self) -> EagerDispatch | None:
        """How many of the activities that a commit adds this process starts at once."""
        free = self._slots.free
        if self._is_draining or free == 0 or self._options.tags.mode is TagMode.NONE:
            return None
        return EagerDispatch(
            worker=self._worker_id,
            limit=free,
            lease_ms=self._leases.lease_ms,
            tags=self._options.tags,
        )

    async def _poll(self, want: int) -> int:
        answer = await self._provider.poll_activities(
            worker=self._worker_id,
            want=want,
            lease_ms=self._leases.lease_ms,
            wait_ms=self._options.long_poll_ms,
            tags=self._options.tags,
            sessions=self._sessions.claim(),
        )
        self._clock.observe(answer.now_ms)
        self.accept(answer.activities)
        return len(answer.activities)

    def accept(self, activities: Iterable[LeasedActivity]) -> None:
        """Run what was leased to this process."""
        for leased in activities:
            self._in_hand[leased.token] = leased
            self._sessions.began(leased)
            name = f"activity {leased.instance_id}#{leased.activity_id}"
            self._slots.spawn(self._process(leased), name)

    def cancelled(self, turn: CommitTurn) -> None:
        """A turn has given activities up: those that run here hear of it before their next renewal."""
        given_up = {
            (turn.instance_id, turn.execution_id, activity_id)
            for activity_id in turn.cancelled_activities
        }
        for token, leased in tuple(self._in_hand.items()) if given_up else ():
            if (leased.instance_id, leased.execution_id, leased.activity_id) in given_up:
                self._leases.lose(token)

    # Ending.

    def begin_nothing_new(self) -> None:
        """From now on, hand back what a commit leases to this process."""
        self._is_draining = True

    async def drain(self) -> None:
        """Take nothing new and wait until everything in hand has ended."""
        self.begin_nothing_new()
        await self._slots.idle()

    async def stop(self) -> list[CommitItem]:
        """Cancel what still runs; returns what gives it back to the store."""
        self.begin_nothing_new()
        await self._slots.cancel()
        back: list[CommitItem] = [
            AbandonActivity(token=token, count_attempt=False) for token in self._in_hand
        ]
        for token in tuple(self._in_hand):
            self._let_go(token)
        return back

    def _let_go(self, token: ActivityToken) -> None:
        leased = self._in_hand.pop(token, None)
        self._leases.release(token)
        if leased is not None:
            self._sessions.ended(leased)

    # One activity.

    async def _process(self, leased: LeasedActivity) -> None:
        try:
            execute = decode_work(leased.body)
            if not isinstance(execute, work.ActivityExecute):
                raise CodecError("the activity queue holds what is not an activity")
        except CodecError as error:
            return await self._leave_to_others(leased, "unreadable", str(error))
        if leased.attempt_count > self._options.attempts:
            return await self._poison(leased, execute.name)
        definition = self._builtin.get(execute.name) or self._registry.activity(execute.name)
        if definition is None:
            return await self._leave_to_others(leased, execute.name, "it is not registered here")
        beat = self._heartbeats.of(leased.token)
        context = _context(leased, execute, self._worker_id, beat)

        def renewed(expires_at_ms: int) -> None:
            context.expires_at_ms = expires_at_ms

        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def lose() -> None:
            context.cancel()
            _settle(over)

        self._leases.hold(leased.token, leased.expires_at_ms, lose, renewed)
        async with self._limit(definition), self._running:
            if self._is_draining:
                return await self._hand_back(leased, definition.name)
            await self._run(leased, definition, context, execute.input, over)
        return None

    def _limit(self, definition: ActivityDef[..., Any]) -> asyncio.Semaphore:
        limit = self._per_activity.get(definition.name)
        if limit is None:
            limit = asyncio.Semaphore(definition.max_concurrency or self._options.activity_slots)
            self._per_activity[definition.name] = limit
        return limit

    async def _run(
        self,
        leased: LeasedActivity,
        definition: ActivityDef[..., Any],
        context: ActivityContext,
        text: str,
        over: asyncio.Future[None],
    ) -> None:
        if context.is_cancelled():
            return self._ended(leased, definition.name, "lost", 0.0)
        self._observer.activity_started(_record_of(leased, definition.name, "started", 0.0))
        loop = asyncio.get_running_loop()
        started = loop.time()
        name = f"call of {definition.name} {leased.instance_id}#{leased.activity_id}"
        call = loop.create_task(call_activity(definition, context, text, self._threads), name=name)
        try:
            await self._wait(call, over)
        finally:
            await self._interrupt(call)
        seconds = loop.time() - started
        outcome, completion = self._outcome(leased, definition, context, call)
        if completion is not None and not await self._record(leased, completion):
            outcome = "lost"
        self._ended(leased, definition.name, outcome, seconds, is_recorded=completion is not None)
        return None

    async def _record(self, leased: LeasedActivity, completion: Completion) -> bool:
        """Write what came of the activity; false if nobody wants it any more."""
        self._heartbeats.forget(leased.token)
        self._leases.ending(leased.token)
        result = await self._finish(leased, completion)
        if result.code is CommitCode.REFUSED:
            refusal = activity_failure(f"the result can't be stored: {result.error}")
            item = finish_item(leased, _failure(leased, refusal))
            result = await self._flusher.commit(item)
        return result.ok

    async def _wait(self, call: asyncio.Task[Any], over: asyncio.Future[None]) -> None:
        """Wait for the call; once the lease is lost, only for as long as the grace period.

        Args:
            over: settled by the loss of the lease, and by the end of the call. `asyncio.wait` for
                two things takes several times as long, and this happens once an activity.
        """
        call.add_done_callback(lambda _: _settle(over))
        await over
        if not call.done():
            await asyncio.wait((call,), timeout=self._options.cancellation_grace_ms / 1000)

    async def _interrupt(self, call: asyncio.Task[Any]) -> None:
        """End a call that still runs; code that refuses to end is left behind, and said so."""
        if call.done():
            return
        call.cancel()
        await asyncio.wait((call,), timeout=INTERRUPT_S)
        if not call.done():
            logger.warning("%s ignores its cancellation", call.get_name())
            self._stray.add(call)
            call.add_done_callback(self._stray.discard)

    def _outcome(
        self,
        leased: LeasedActivity,
        definition: ActivityDef[..., Any],
        context: ActivityContext,
        call: asyncio.Task[Any],
    ) -> tuple[str, Completion | None]:
        """What to call it, and what to record.

        The result of a call that ended within its grace period is offered to the store all the
        same: only the store knows whether it is still wanted.
        """
        error: BaseException | None
        if not call.done():
            return "cancelled", None
        if call.cancelled():
            if context.is_cancelled():
                return "cancelled", None
            error = asyncio.CancelledError("the activity cancelled itself")
        else:
            error = call.exception()
        if isinstance(error, LeaseLost):
            return "lost", None
        if error is None and call.result() is ALREADY_FINISHED:
            return "finished", None
        if error is None:
            try:
                text = result_text(definition, call.result(), self._options.limits)
                return "success", _completion(leased, text)
            except Exception as unusable:
                error = unusable
        return "failure", _failure(leased, failure_of_activity(definition, error))

    # What can't be run.

    async def _leave_to_others(self, leased: LeasedActivity, name: str, why: str) -> None:
        """Leave it to another worker for a while; after too many deliveries it is poison."""
        if leased.attempt_count > self._options.attempts:
            return await self._poison(leased, name)
        base_ms, longest_ms = self._options.unregistered_backoff_ms
        delay_ms = redelivery_delay_ms(leased.attempt_count, base_ms=base_ms, longest_ms=longest_ms)
        logger.warning(
            "activity %r of %s is left to others for %s ms: %s",
            name,
            leased.instance_id,
            delay_ms,
            why,
            extra={"instance_id": leased.instance_id, "activity_name": name},
        )
        self._leases.ending(leased.token)
        await self._flusher.commit(AbandonActivity(token=leased.token, delay_ms=delay_ms))
        return self._ended(leased, name, "unregistered", 0.0)

    async def _hand_back(self, leased: LeasedActivity, name: str) -> None:
        """Nothing new is begun any more: somebody else may have it, and it does not count."""
        self._leases.ending(leased.token)
        await self._flusher.commit(AbandonActivity(token=leased.token, count_attempt=False))
        return self._ended(leased, name, "handed_back", 0.0)

    async def _poison(self, leased: LeasedActivity, name: str) -> None:
        failure = Failure(
            kind=PoisonFailure(
                attempt_count=leased.attempt_count,
                max_attempts=self._options.attempts,
                subject=PoisonedActivity(
                    instance_id=leased.instance_id,
                    execution_id=leased.execution_id,
                    activity_name=name,
                    activity_id=leased.activity_id,
                ),
                message=leased.body,
            )
        )
        self._leases.ending(leased.token)
        await self._flusher.commit(finish_item(leased, _failure(leased, failure)))
        return self._ended(leased, name, "poisoned", 0.0)

    def _ended(
        self,
        leased: LeasedActivity,
        name: str,
        outcome: str,
        seconds: float,
        *,
        is_recorded: bool = False,
    ) -> None:
        self._let_go(leased.token)
        if not is_recorded:
            self._tell_ended(leased, wrote_itself=outcome == "finished")
        self._observer.activity_ended(_record_of(leased, name, outcome, seconds))


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _record_of(leased: LeasedActivity, name: str, outcome: str, seconds: float) -> ActivityRecord:
    return ActivityRecord(
        instance_id=leased.instance_id,
        execution_id=leased.execution_id,
        activity_id=leased.activity_id,
        activity_name=name,
        attempt=leased.attempt_count,
        tag=leased.tag,
        outcome=outcome,
        seconds=seconds,
    )


def _context(
    leased: LeasedActivity,
    execute: work.ActivityExecute,
    worker_id: str,
    beat: Callable[[Any], None] | None,
) -> ActivityContext:
    return ActivityContext(
        instance_id=leased.instance_id,
        execution_id=leased.execution_id,
        activity_id=leased.activity_id,
        activity_name=execute.name,
        orchestration_name=execute.orchestration or "",
        orchestration_version=execute.version or "",
        worker_id=worker_id,
        attempt=leased.attempt_count,
        token=leased.token,
        expires_at_ms=leased.expires_at_ms,
        tag=leased.tag,
        session_id=leased.session_id,
        last_heartbeat=None if leased.heartbeat is None else JSON.decode(leased.heartbeat),
        _beat=beat,
    )


def _completion(leased: LeasedActivity, result: str) -> work.ActivityCompletion:
    return work.ActivityCompletion(
        instance=leased.instance_id,
        execution_id=leased.execution_id,
        id=leased.activity_id,
        result=result,
    )


def _failure(leased: LeasedActivity, details: Failure) -> work.ActivityFailure:
    return work.ActivityFailure(
        instance=leased.instance_id,
        execution_id=leased.execution_id,
        id=leased.activity_id,
        details=details,
    )


def finish_item(leased: LeasedActivity, completion: Completion) -> FinishActivity:
    """Records by message what came of an activity."""
    return FinishActivity(token=leased.token, completion=message_of(completion))
