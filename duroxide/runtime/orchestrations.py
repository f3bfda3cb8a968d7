"""Lease instances, run turns of them, commit what the turns add."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace

from duroxide import work
from duroxide.activity_context import FinishedAs
from duroxide.codec import decode_work
from duroxide.errors import CodecError
from duroxide.ids import ActivityToken, EventId, InstanceId, TurnToken
from duroxide.providers.base import (
    AbandonTurn,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    LeasedActivity,
    LeasedTurn,
    Provider,
)
from duroxide.registry import Registry
from duroxide.runtime.activities import ActivityDispatcher
from duroxide.runtime.cache import Live, LiveCache
from duroxide.runtime.flusher import Flusher
from duroxide.runtime.inbox import read_inbox
from duroxide.runtime.leases import Leases
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.poller import Poller
from duroxide.runtime.residents import (
    Arrival,
    HeldLeases,
    InMemory,
    Resident,
    Residents,
    as_leased,
    ended_by,
    take_arrivals,
    unanswered,
)
from duroxide.runtime.slots import Slots
from duroxide.runtime.storeclock import StoreClock
from duroxide.runtime.suspects import Suspects
from duroxide.runtime.telemetry import FailureLabels, Observer, TurnRecord
from duroxide.runtime.turning import Decision, TurnRunner, hand_back
from duroxide.runtime.watchdog import Watchdog
from duroxide.state import ExecutionStatus

logger = logging.getLogger("duroxide.runtime")

REMEMBERED = 1_000  # leases that are over; a poll that took long may bring messages under them
REFRESH_S = 0.05  # until a waiting poll is told of instances that were kept meanwhile
COMMIT_END_S = 1.0  # for commits under way when the process stops: they may lease activities to it


@dataclass(slots=True, eq=False)
class _Pending:
    """A turn on its way to the store."""

    leased: LeasedTurn
    decision: Decision
    resident: Resident | None
    arrivals: Sequence[Arrival]
    waited_for: dict[ActivityToken, EventId] = field(default_factory=dict)
    keeps: bool = False
    submitted: float = 0.0  # by the loop's clock


class OrchestrationDispatcher:
    """Runs turns. Whatever goes wrong with one instance, the others go on."""

    def __init__(
        self,
        provider: Provider,
        registry: Registry,
        options: RuntimeOptions,
        *,
        worker_id: str,
        flusher: Flusher,
        leases: Leases[TurnToken],
        clock: StoreClock,
        observer: Observer,
        activities: ActivityDispatcher,
        suspects: Suspects,
        new_seed: Callable[[], str],
        guard: Callable[[], AbstractContextManager[object]] = nullcontext,
        watchdog: Watchdog,
        draw: random.Random | None = None,
    ) -> None:
        self._provider = provider
        self._options = options
        self._worker_id = worker_id
        self._flusher = flusher
        self._leases = leases
        self._clock = clock
        self._observer = observer
        self._hears_cache = observer.hears("cache_changed")
        self._activities = activities
        self._suspects = suspects
        self._slots = Slots(options.turn_slots)
        self._cache = LiveCache(options.live_executions)
        self._runner = TurnRunner(
            registry,
            options,
            cache=self._cache,
            clock=clock,
            observer=observer,
            new_seed=new_seed,
            guard=guard,
            watchdog=watchdog,
        )
        self._residents = Residents(run=self._run_resident, release=self._release)
        self._known = InMemory(self._residents, self._cache)
        self._held = HeldLeases(self._residents)
        self._in_hand: dict[TurnToken, InstanceId] = {}
        self._pending: set[_Pending] = set()
        self._nothing_pends = asyncio.Event()
        self._nothing_pends.set()
        self._gone: OrderedDict[TurnToken, None] = (
            OrderedDict()
        )  # leases that a late answer may name
        self._asked_for: frozenset[TurnToken] = frozenset()
        self._refresh: asyncio.TimerHandle | None = None
        can = provider.capabilities
        self._may_keep = options.cache != "off" and (
            can.sticky_lease and can.eager_dispatch and can.fused_completion
        )
        self.poller = Poller(
            "poll_turns",
            self._poll,
            self._slots,
            pause_s=options.poll_interval_s,
            observer=observer,
            draw=draw,
        )

    async def _poll(self, want: int) -> int:
        self._asked_for = frozenset(self._held)
        answer = await self._provider.poll_turns(
            worker=self._worker_id,
            want=want,
            lease_ms=self._leases.lease_ms,
            wait_ms=self._options.long_poll_ms,
            known=self._known if self._provider.capabilities.history_suffix else None,
            held=self._held,
            versions=self._options.version_ranges,
        )
        self._clock.observe(answer.now_ms)
        for leased in answer.turns:
            resident = self._residents.get(leased.instance_id)
            if resident is not None and resident.token == leased.token:
                self._deliver(resident, leased)
            elif leased.token not in self._gone and leased.token not in self._in_hand:
                if resident is not None:  # its lease ran out, and this process got it again
                    self._lost(resident)
                self._in_hand[leased.token] = leased.instance_id
                self._slots.spawn(self._process(leased), f"turn of {leased.instance_id}")
        return len(answer.turns)

    def _deliver(self, resident: Resident, leased: LeasedTurn) -> None:
        try:
            inbox = read_inbox(leased.messages)
        except CodecError as error:
            decision = self._runner.leave_to_others(leased, str(error))
            return self._give_up(resident, decision.item)
        if self._suspects.is_one(leased.attempt_count):
            return self._give_up(resident, hand_back(leased))
        return self._residents.deliver_messages(resident, leased, inbox)

    # Ending.

    async def drain(self) -> None:
        """Wait until all turns in hand are committed."""
        await self._slots.idle()

    async def stop(self) -> list[CommitItem]:
        """Cancel what still runs; returns what gives it back to the store."""
        if self._refresh is not None:
            self._refresh.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(COMMIT_END_S):
                await self._nothing_pends.wait()
        await self._slots.cancel()
        for pending in self._pending:
            _park(pending.decision.live)
        self._pending.clear()
        for resident in self._residents.everybody():
            self._residents.leave(resident)
            resident.live.run.park()
        back: list[CommitItem] = [
            AbandonTurn(instance_id=instance_id, token=token, count_attempt=False)
            for token, instance_id in self._in_hand.items()
        ]
        for token in tuple(self._in_hand):
            self._let_go(token)
        self._cache.clear()
        return back

    def _let_go(self, token: TurnToken) -> None:
        self._in_hand.pop(token, None)
        self._leases.release(token)
        self._gone[token] = None
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)

    # A turn.

    async def _process(self, leased: LeasedTurn) -> None:
        task = asyncio.current_task()
        assert task is not None

        def lost() -> None:
            self._in_hand.pop(leased.token, None)
            task.cancel("the lease of the turn was lost")

        self._leases.hold(leased.token, leased.expires_at_ms, lost)
        if not self._suspects.is_one(leased.attempt_count):
            self._submit(leased, await self._runner.decide(leased))
        elif self._suspects.seat(leased.token, leased.attempt_count):
            try:
                await self._suspects.alone()
                self._submit(leased, await self._runner.decide(leased))
            except BaseException:
                self._suspects.leave(leased.token)
                raise
        else:
            await self._turn_away(leased, self._suspects.turn_away())

    async def _turn_away(self, leased: LeasedTurn, delay_ms: int) -> None:
        """Another suspect runs here."""
        self._leases.ending(leased.token)
        try:
            await self._flusher.commit(hand_back(leased, delay_ms=delay_ms))
        finally:
            self._suspects.turned_away()
        self._let_go(leased.token)

    def _run_resident(self, resident: Resident) -> None:
        # Not at once: what becomes ready in the same iteration of the loop goes into the same turn.
        self._slots.take()
        asyncio.get_running_loop().call_soon(self._turn_of, resident)

    def _turn_of(self, resident: Resident) -> None:
        try:
            if not resident.is_gone:
                arrivals, inbox = take_arrivals(resident)
                decision = self._runner.decide_resident(as_leased(resident), inbox, resident.live)
                self._submit(as_leased(resident), decision, resident, arrivals)
        finally:
            self._slots.give()

    def _submit(
        self,
        leased: LeasedTurn,
        decision: Decision,
        resident: Resident | None = None,
        arrivals: Sequence[Arrival] = (),
    ) -> None:
        """Commit what was decided; `_concluded` hears of it."""
        item, result = decision.item, decision.result
        pending = _Pending(leased, decision, resident, arrivals)
        if isinstance(item, CommitTurn) and result is not None:
            pending.waited_for = unanswered(resident, arrivals, item.cancelled_activities)
            pending.keeps = self._keeps(item, pending.waited_for)
            item = replace(
                item,
                finished=ended_by(arrivals, result.unapplied, item.cancelled_activities),
                keep_lease_ms=self._leases.lease_ms if pending.keeps else None,
            )
        self._leases.ending(leased.token)
        pending.submitted = asyncio.get_running_loop().time()
        self._pending.add(pending)
        self._nothing_pends.clear()
        self._slots.take()
        self._flusher.submit(item, lambda answer: self._concluded(pending, item, answer))
        if isinstance(item, CommitTurn) and pending in self._pending and _is_usual(leased, item):
            self._activities.foresee(item, _added_by(decision))

    def _concluded(self, pending: _Pending, item: CommitItem, answer: CommitResult) -> None:
        """Keep the instance, or what is in memory of it, or neither."""
        if pending not in self._pending:  # this process has stopped meanwhile
            return
        self._pending.remove(pending)
        if not self._pending:
            self._nothing_pends.set()
        try:
            self._conclude(pending, item, answer)
        finally:
            self._slots.give()

    def _conclude(self, pending: _Pending, item: CommitItem, answer: CommitResult) -> None:
        leased, resident, decision = pending.leased, pending.resident, pending.decision
        live = decision.live
        self._suspects.leave(leased.token)
        # Not if the lease ran out before the answer came, and this process has got it again.
        is_ours = self._residents.get(leased.instance_id) is resident
        is_written = answer.ok and isinstance(item, CommitTurn)
        _answer(pending.arrivals, is_recorded=is_written)
        if is_written and isinstance(item, CommitTurn):
            self._tell(item)
        if is_written and pending.keeps and is_ours and live is not None:
            self._keep(pending, live, answer)
        else:
            if resident is not None:
                self._residents.leave(resident)
            self._let_go(leased.token)
            self._activities.accept(answer.activities, _added_by(decision))
            if is_written and is_ours and live is not None and not live.run.ended:
                self._keep_in_memory(live)
            else:
                _park(live)
        if isinstance(item, CommitTurn):
            self._activities.settle(item)
        if is_written and pending.keeps and not is_ours:
            self._write_beside(hand_back(leased))
        if decision.unreadable is not None:
            self._unreadable(leased, decision.unreadable, answer)
        elif not answer.ok:
            self._refused(leased, answer, is_kept=resident is not None)
        elif decision.result is not None and live is not None:
            seconds = asyncio.get_running_loop().time() - pending.submitted
            self._observe(leased, decision, seconds)

    def _keep_in_memory(self, live: Live) -> None:
        evicted = self._cache.keep(live)
        if self._hears_cache:
            self._observer.cache_changed(len(self._cache) + len(self._residents), evicted)

    def _write_beside(self, item: CommitItem) -> None:
        self._slots.spawn(self._write(item), "give an instance back")

    async def _write(self, item: CommitItem) -> None:
        await self._flusher.commit(item)

    def _keeps(self, item: CommitTurn, waited_for: dict[ActivityToken, EventId]) -> bool:
        """Keep the lease if activities of the instance run here, or are about to."""
        if not self._may_keep or item.status is not ExecutionStatus.RUNNING:
            return False
        if waited_for:
            return True
        offer = self._activities.offer()
        return offer is not None and any(
            activity.session_id is None and offer.tags.accepts(activity.tag)
            for activity in item.activities
        )

    def _keep(self, pending: _Pending, live: Live, answer: CommitResult) -> None:
        leased = pending.leased
        kept = pending.resident or Resident(
            instance_id=leased.instance_id, token=leased.token, live=live, activities={}
        )
        kept.attempt_count = 1
        kept.activities = pending.waited_for | {
            activity.token: activity.activity_id for activity in answer.activities
        }
        expires_at_ms = self._clock.now_ms() + self._leases.lease_ms
        self._leases.hold(kept.token, expires_at_ms, lambda: self._lost(kept))
        self._residents.settle(kept)
        self._activities.accept(answer.activities, _added_by(pending.decision))
        if self._refresh is None:
            loop = asyncio.get_running_loop()
            self._refresh = loop.call_later(REFRESH_S, self._ask_for_residents)

    def _ask_for_residents(self) -> None:
        """A poll that waits does not know of instances that were kept since; it has to ask anew."""
        self._refresh = None
        if not self._asked_for.issuperset(self._residents.tokens()):
            self.wake()

    def wake(self) -> None:
        """Let the waiting poll look again."""
        self.poller.nudge()
        self._provider.wake(turns=True)

    def _tell(self, turn: CommitTurn) -> None:
        """This process has just made work, or ended some; a store that can't wait is polled at once."""
        if turn.messages:
            self.poller.nudge()
        if turn.activities:
            self._activities.poller.nudge()
        if turn.cancelled_activities:
            self._activities.cancelled(turn)

    def _unreadable(self, leased: LeasedTurn, problem: str, answer: CommitResult) -> None:
        if answer.code is CommitCode.LEASE_LOST:
            logger.info("%s was removed before its turn began", leased.instance_id)
        else:
            self._observer.turn_refused(leased.instance_id, problem)

    def _refused(self, leased: LeasedTurn, answer: CommitResult, *, is_kept: bool) -> None:
        self._observer.turn_refused(leased.instance_id, answer.error or answer.code.name)
        if answer.code is CommitCode.REFUSED:
            reason = f"the store refused the turn: {answer.error}"
            self._write_beside(self._runner.leave_to_others(leased, reason).item)
        elif is_kept:  # perhaps only one of its activities was lost
            self._write_beside(hand_back(leased))

    # Instances that are kept.

    def _release(self, resident: Resident) -> None:
        """Nothing of it runs here any more: whoever gets its next message may have it."""
        self._give_up(resident, hand_back(as_leased(resident)), live=resident.live)

    def _give_up(self, resident: Resident, item: CommitItem, *, live: Live | None = None) -> None:
        self._residents.leave(resident)
        if live is None:
            resident.live.run.park()
        self._slots.spawn(self._give_back(resident, item, live), "give an instance back")

    async def _give_back(self, resident: Resident, item: CommitItem, live: Live | None) -> None:
        self._leases.ending(resident.token)
        answer = await self._flusher.commit(item)
        self._let_go(resident.token)
        if live is not None and answer.ok:
            self._keep_in_memory(live)
        else:
            resident.live.run.park()

    def _lost(self, resident: Resident) -> None:
        self._residents.leave(resident)
        self._let_go(resident.token)
        if not resident.is_busy:
            resident.live.run.park()

    def deliver(
        self,
        leased: LeasedActivity,
        completion: work.ActivityCompletion | work.ActivityFailure,
        recorded: Callable[[bool], None],
    ) -> bool:
        """Give what came of an activity to the next turn of its instance, if that is kept here."""
        return self._residents.deliver(leased, completion, recorded)

    def activity_ended(
        self, leased: LeasedActivity, *, wrote_itself: bool, message: FinishedAs | None
    ) -> None:
        """It has nothing to record: it was lost, cancelled, left to others, or wrote it itself."""
        if message is not None and self._take_message(leased, message):
            return
        self._residents.activity_ended(leased, wrote_itself=wrote_itself)
        if wrote_itself:
            self.wake()

    def _take_message(self, leased: LeasedActivity, message: FinishedAs) -> bool:
        """Take what an activity says of its message into the next turn, without a poll."""
        try:
            item = decode_work(message.body)
        except CodecError:  # the store has the same text, and its turn says what is wrong
            return False
        return isinstance(
            item, work.ActivityCompletion | work.ActivityFailure
        ) and self._residents.deliver_message(leased, item, message.message_id)

    def _observe(self, leased: LeasedTurn, decision: Decision, commit_seconds: float) -> None:
        result, live = decision.result, decision.live
        assert result is not None
        assert live is not None
        for ignored in result.ignored:
            self._observer.message_dropped(leased.instance_id, ignored.reason.value)
        for schedule in result.unawaited:
            logger.warning(
                "%s (%s) completed without awaiting or cancelling what it had asked for, so that was "
                "given up: %s %s",
                leased.instance_id,
                live.definition.name,
                type(schedule).__name__,
                getattr(schedule, "name", ""),
            )
        self._observer.turn_committed(
            TurnRecord(
                instance_id=leased.instance_id,
                execution_id=live.execution_id,
                orchestration_name=live.definition.name,
                orchestration_version=live.definition.version,
                status=result.status,
                is_first=result.new_execution is not None,
                attempt=leased.attempt_count,
                event_count=len(result.events),
                activity_count=len(result.activities),
                ignored_count=len(result.ignored),
                run_seconds=decision.run_seconds,
                commit_seconds=commit_seconds,
                is_cached=decision.is_cached,
                history_events=live.cursor.last_event_id,
                began_ms=live.began_ms,
                waited_s=leased.waited_ms / 1000,
                parent=live.parent,
                failure=FailureLabels.of(result.events),
            )
        )


def _is_usual(leased: LeasedTurn, turn: CommitTurn) -> bool:
    """Whether its commit will surely go through: nothing went wrong before, and others know the instance."""
    return leased.attempt_count <= 1 and (turn.new_execution is None or turn.execution_id > 1)


def _added_by(decision: Decision) -> dict[EventId, work.ActivityExecute]:
    added = () if decision.result is None else decision.result.activities
    return {execute.id: execute for execute in added}


def _answer(arrivals: Sequence[Arrival], *, is_recorded: bool) -> None:
    for arrival in arrivals:
        arrival.answer(is_recorded=is_recorded)


def _park(live: Live | None) -> None:
    if live is not None:
        live.run.park()
