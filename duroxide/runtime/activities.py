"""Lease an activity, call it, commit what came of it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Protocol

from duroxide import work
from duroxide.activity_context import FinishedAs, Foreseen
from duroxide.codec import decode_work
from duroxide.errors import CodecError
from duroxide.failures import activity_failure
from duroxide.ids import ActivityToken, EventId
from duroxide.providers.base import (
    AbandonActivity,
    CommitCode,
    CommitItem,
    CommitTurn,
    EagerDispatch,
    LeasedActivity,
    Provider,
)
from duroxide.registry import Registry
from duroxide.runtime.builtin import builtin_activities
from duroxide.runtime.declined import Declined
from duroxide.runtime.deliveries import (
    Completion,
    Delivery,
    context_of,
    failed,
    finish_item,
    outcome_of,
    record_of,
)
from duroxide.runtime.flusher import Flusher
from duroxide.runtime.headstarts import Begun
from duroxide.runtime.heartbeats import Heartbeats
from duroxide.runtime.leases import Leases
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.places import Places
from duroxide.runtime.poller import Poller
from duroxide.runtime.running import Running
from duroxide.runtime.sessions import SessionKeeper
from duroxide.runtime.storeclock import StoreClock
from duroxide.runtime.suspects import Suspects
from duroxide.runtime.telemetry import Observer

logger = logging.getLogger("duroxide.runtime")


class Deliver(Protocol):
    """Offers a completion to the next turn of an instance that is kept in this process.

    Returns:
        False if it is not kept here. Otherwise `recorded` is called once, with whether a turn has
        recorded the completion, durably; if not, it has to be sent by message.
    """

    def __call__(
        self, leased: LeasedActivity, completion: Completion, recorded: Callable[[bool], None]
    ) -> bool: ...


class Ended(Protocol):
    """Is told of an activity that has nothing to record; of its message, if it left one and knows it."""

    def __call__(
        self, leased: LeasedActivity, *, wrote_itself: bool, message: FinishedAs | None
    ) -> None: ...


_UNKNOWN: Mapping[EventId, work.ActivityExecute] = {}

LONGEST_WAIT_S = 1.0  # for a slot; then others may have what was leased ahead
SESSION_PAUSE_MS = 100  # of an activity whose session is one too many here


class ActivityDispatcher:
    """Runs activities: those that the store gives, and those that this process's turns have added.

    The code of an activity is one task; what comes before and after it is callbacks, because a busy
    process runs thousands of short activities a second.
    """

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
        suspects: Suspects,
        sessions: SessionKeeper,
        heartbeats: Heartbeats,
        deliver: Deliver,
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
        self._observer = observer
        self._hears_beginnings = observer.hears("activity_started")
        self._suspects = suspects
        self._sessions = sessions
        self._heartbeats = heartbeats
        self._deliver = deliver
        self._builtin = builtin_activities(provider)
        self._tell_ended = ended
        self._declined = Declined(
            options, flusher=flusher, leases=leases, suspects=suspects, ended=self._ended
        )
        self._places = Places(options, self._look_again)
        self._running = Running(threads, called=self._called, given_up=self._given_up)
        self._waiting: dict[ActivityToken, Delivery] = {}  # for a slot, in the order of arrival
        self._look: asyncio.TimerHandle | None = None
        self._in_hand: dict[ActivityToken, LeasedActivity] = {}  # until they are recorded
        self._nothing_in_hand = asyncio.Event()
        self._nothing_in_hand.set()
        self._is_draining = False
        self._is_stopped = False
        self.poller = Poller(
            "poll_activities",
            self._poll,
            self._places.slots,
            pause_s=options.poll_interval_s,
            observer=observer,
            draw=draw,
        )

    # Where activities come from.

    def offer(self) -> EagerDispatch | None:
        """How many of the activities that a commit adds this process starts at once."""
        if self._is_draining:
            return None
        return self._places.offer(self._worker_id, self._leases.lease_ms)

    async def _poll(self, want: int) -> int:
        answer = await self._provider.poll_activities(
            worker=self._worker_id,
            want=self._places.at_most(want),
            lease_ms=self._leases.lease_ms,
            wait_ms=self._options.long_poll_ms,
            tags=self._places.selection(),
            sessions=self._sessions.claim(),
        )
        self._clock.observe(answer.now_ms)
        self.accept(answer.activities)
        return len(answer.activities)

    def accept(
        self,
        activities: Iterable[LeasedActivity],
        known: Mapping[EventId, work.ActivityExecute] = _UNKNOWN,
    ) -> None:
        """Run what was leased to this process.

        Args:
            known: what the bodies say, of activities that a turn of this process has just added.
        """
        for leased in activities:
            begun = self._places.head_starts.claim(
                (leased.instance_id, leased.execution_id, leased.activity_id)
            )
            self._in_hand[leased.token] = leased
            self._nothing_in_hand.clear()
            has_room = self._places.take(leased.token, leased.tag)
            fits = self._sessions.began(leased)
            execute = known.get(leased.activity_id)
            self._receive(leased, execute, begun, has_room=has_room, fits=fits)

    def foresee(self, turn: CommitTurn, added: Mapping[EventId, work.ActivityExecute]) -> None:
        """The commit of a turn has begun: begin the activities that can be begun before they are leased."""
        if self._is_draining:
            return
        tags = self._places.selection()
        for activity in turn.activities:
            execute = added[activity.activity_id]
            definition = self._registry.activity(execute.name)
            if definition is None or definition.head_start is None:
                continue
            if activity.session_id is None and tags.accepts(activity.tag):
                foreseen = Foreseen(
                    instance_id=turn.instance_id,
                    execution_id=turn.execution_id,
                    activity_id=activity.activity_id,
                    text=execute.input,
                )
                gates = self._places.gates(definition, activity.tag)
                starts = self._places.head_starts
                starts.give(foreseen, definition.head_start, activity.tag, gates)

    def settle(self, turn: CommitTurn) -> None:
        """What became of a turn is known, and what it leased to this process was accepted."""
        for activity in turn.activities:
            self._places.head_starts.drop(
                (turn.instance_id, turn.execution_id, activity.activity_id)
            )

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
        self._places.head_starts.drop_all()
        for delivery in tuple(self._waiting.values()):
            self._hand_back_waiting(delivery)

    async def drain(self) -> None:
        """Take nothing new and wait until everything in hand has ended."""
        self.begin_nothing_new()
        await self._nothing_in_hand.wait()

    async def stop(self) -> list[CommitItem]:
        """Cancel what still runs; returns what gives it back to the store."""
        self.begin_nothing_new()
        self._is_stopped = True
        if self._look is not None:
            self._look.cancel()
        await self._running.stop()
        await self._places.slots.cancel()
        back: list[CommitItem] = [
            AbandonActivity(token=token, count_attempt=False) for token in self._in_hand
        ]
        for token in tuple(self._in_hand):
            self._let_go(token)
        return back

    def _let_go(self, token: ActivityToken) -> None:
        self._leases.release(token)
        self._suspects.leave(token)
        leased = self._in_hand.pop(token, None)
        if leased is not None:
            self._places.free(token)
            if self._sessions.ended(leased):
                self._look_again()
        if not self._in_hand:
            self._nothing_in_hand.set()

    def _leave_gate(self, delivery: Delivery) -> None:
        if delivery.is_let_through:
            delivery.is_let_through = False
            self._places.leave(delivery.gates)

    # One activity.

    def _receive(
        self,
        leased: LeasedActivity,
        execute: work.WorkItem | None,
        begun: Begun | None,
        *,
        has_room: bool,
        fits: bool,
    ) -> None:
        delivery = self._delivery(leased, execute, has_room=has_room, fits=fits)
        is_suspect = self._suspects.is_one(leased.attempt_count)
        if begun is not None and (is_suspect or not isinstance(delivery, Delivery)):
            self._places.head_starts.undo(begun)
            begun = None
        if not isinstance(delivery, Delivery):
            return self._beside(leased, delivery)
        self._leases.hold(
            leased.token, leased.expires_at_ms, lambda: self._lose(delivery), delivery.renewed
        )
        delivery.began = asyncio.get_running_loop().time()
        self._waiting[leased.token] = delivery
        delivery.gates = self._places.gates(delivery.definition, leased.tag)
        if is_suspect:
            self._beside(leased, self._enter_alone(delivery))
        elif begun is not None:  # it is behind the gates
            delivery.context.head_start = begun.head_start
            self._run(delivery)
        else:
            self._places.enter(delivery.gates, lambda: self._run(delivery))
        if leased.token in self._waiting:
            self._look_soon()
        return None

    def _delivery(
        self, leased: LeasedActivity, execute: work.WorkItem | None, *, has_room: bool, fits: bool
    ) -> Delivery | Coroutine[Any, Any, None]:
        """What to run, or, if this process can't, what ends it or gives it back."""
        try:
            if execute is None:
                execute = decode_work(leased.body)
            if not isinstance(execute, work.ActivityExecute):
                raise CodecError("the activity queue holds what is not an activity")
        except CodecError as error:
            return self._declined.leave_to_others(leased, "unreadable", str(error))
        name = execute.name
        if leased.attempt_count > self._options.attempts:
            return self._declined.poison(leased, name)
        definition = self._builtin.get(name) or self._registry.activity(name)
        if definition is None:
            why = "it is not registered here"
            return self._declined.leave_to_others(leased, name, why)
        if not has_room:  # leased while others of its tag were on their way here
            return self._declined.hand_back(leased, name)
        if not fits:  # one session too many is in flight here
            return self._put_off(leased, name)
        attempts = leased.attempt_count
        if self._suspects.is_one(attempts) and not self._suspects.seat(leased.token, attempts):
            delay_ms = self._suspects.turn_away()
            return self._declined.turn_away(leased, name, delay_ms)
        beat = self._heartbeats.of(leased.token)
        context = context_of(leased, execute, self._worker_id, beat)
        return Delivery(leased, definition, context, execute.input, contextvars.copy_context())

    async def _put_off(self, leased: LeasedActivity, name: str) -> None:
        await self._declined.hand_back(leased, name, SESSION_PAUSE_MS)
        # A poll that waits need not know when what belongs to a session is due again.
        asyncio.get_running_loop().call_later(SESSION_PAUSE_MS / 1000, self._look_again)

    def _look_again(self) -> None:
        if self.poller.is_asking:
            self._provider.wake(activities=True)

    async def _enter_alone(self, delivery: Delivery) -> None:
        await self._suspects.alone()
        if not delivery.is_concluded:
            self._places.enter(delivery.gates, lambda: self._run(delivery))

    def _look_soon(self) -> None:
        if self._look is None:
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(LONGEST_WAIT_S / 2, self._look_at_waiting)

    def _look_at_waiting(self) -> None:
        """Give back what has waited for too long: another worker may have a free slot."""
        self._look = None
        now = asyncio.get_running_loop().time()
        late = [d for d in self._waiting.values() if now - d.began >= LONGEST_WAIT_S]
        for delivery in late:
            self._places.waited(now - delivery.began)
            self._hand_back_waiting(delivery)
        if self._waiting:
            self._look_soon()

    def _hand_back_waiting(self, delivery: Delivery) -> None:
        delivery.is_concluded = True  # its turn will come, and nothing will happen then
        del self._waiting[delivery.leased.token]
        name = delivery.definition.name
        self._beside(delivery.leased, self._declined.hand_back(delivery.leased, name))

    def _beside(self, leased: LeasedActivity, ending: Coroutine[Any, Any, None]) -> None:
        """End an activity in hand by something that has to wait."""
        name = f"activity {leased.instance_id}#{leased.activity_id}"
        task = self._places.slots.spawn_beside(ending, name)
        task.add_done_callback(lambda task: self._drop_if_broken(leased.token, task))

    def _drop_if_broken(self, token: ActivityToken, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._let_go(token)

    def _run(self, delivery: Delivery) -> None:
        """It has been let through: begin, unless it came too late."""
        leased, definition = delivery.leased, delivery.definition
        loop = asyncio.get_running_loop()
        delivery.is_let_through = True
        if delivery.is_concluded or self._is_draining:
            loop.call_soon(self._leave_gate, delivery)  # not within another's end
            _drop_head_start(delivery)
            if not delivery.is_concluded:
                self._hand_back_waiting(delivery)
            return
        del self._waiting[leased.token]
        now = loop.time()
        delivery.waited_s = leased.waited_ms / 1000 + now - delivery.began
        delivery.began = now
        if delivery.context.is_cancelled():
            _drop_head_start(delivery)
            loop.call_soon(self._conclude, delivery, "lost", None)
            return
        if self._hears_beginnings:
            record = record_of(leased, definition.name, "started", 0.0, delivery.waited_s)
            delivery.variables.run(self._observer.activity_started, record)
        self._running.begin(delivery)

    def _lose(self, delivery: Delivery) -> None:
        """Nobody waits for it any more: say so, and interrupt it after the grace period."""
        delivery.context.cancel()
        grace_s = self._options.cancellation_grace_ms / 1000
        asyncio.get_running_loop().call_later(grace_s, self._running.interrupt, delivery)

    def _given_up(self, delivery: Delivery) -> None:
        if not self._is_stopped:
            self._conclude(delivery, "cancelled", None)

    def _called(self, delivery: Delivery, task: asyncio.Task[Any]) -> None:
        """The code has ended, one way or another."""
        self._places.free(delivery.leased.token)  # while its completion is written, others run
        self._leave_gate(delivery)
        _drop_head_start(delivery)
        seconds = task.get_loop().time() - delivery.began
        self._places.ran(seconds)
        if self._is_stopped or delivery.is_concluded:
            if not task.cancelled():
                task.exception()  # seen: nobody asks for it
            return None
        outcome, completion = outcome_of(delivery, task, self._options.limits)
        if completion is None:
            message = task.result() if outcome == "finished" else None
            return self._conclude(delivery, outcome, None, message)
        self._heartbeats.forget(delivery.leased.token)
        self._leases.ending(delivery.leased.token)

        def recorded(is_recorded: bool) -> None:
            if is_recorded:
                self._conclude(delivery, outcome, seconds)
            elif not self._is_stopped:
                by_message = self._finish_by_message(delivery, completion, outcome, seconds)
                self._beside(delivery.leased, by_message)

        if not self._deliver(delivery.leased, completion, recorded):
            recorded(False)
        return None

    async def _finish_by_message(
        self, delivery: Delivery, completion: Completion, outcome: str, seconds: float
    ) -> None:
        """Write what came of the activity; it was lost if nobody wants it any more."""
        leased = delivery.leased
        result = await self._flusher.commit(finish_item(leased, completion))
        if result.code is CommitCode.REFUSED:
            refusal = activity_failure(f"the result can't be stored: {result.error}")
            result = await self._flusher.commit(finish_item(leased, failed(leased, refusal)))
        self._conclude(delivery, outcome if result.ok else "lost", seconds)

    def _conclude(
        self,
        delivery: Delivery,
        outcome: str,
        recorded_s: float | None,
        message: object = None,
    ) -> None:
        """It has ended.

        Args:
            recorded_s: how long the code ran whose completion was offered to the store; None if
                there is nothing to record.
            message: what the code returned if it recorded its completion itself.
        """
        delivery.is_concluded = True
        self._leave_gate(delivery)
        seconds = recorded_s
        if seconds is None:
            seconds = asyncio.get_running_loop().time() - delivery.began
        delivery.variables.run(
            self._ended,
            delivery.leased,
            delivery.definition.name,
            outcome,
            seconds,
            is_recorded=recorded_s is not None,
            message=message if isinstance(message, FinishedAs) else None,
            waited_s=delivery.waited_s,
        )

    def _ended(
        self,
        leased: LeasedActivity,
        name: str,
        outcome: str,
        seconds: float,
        *,
        is_recorded: bool = False,
        message: FinishedAs | None = None,
        waited_s: float = 0.0,
    ) -> None:
        self._let_go(leased.token)
        if not is_recorded:
            self._tell_ended(leased, wrote_itself=outcome == "finished", message=message)
        self._observer.activity_ended(record_of(leased, name, outcome, seconds, waited_s))


def _drop_head_start(delivery: Delivery) -> None:
    if delivery.context.head_start is not None:
        delivery.context.head_start.drop()
