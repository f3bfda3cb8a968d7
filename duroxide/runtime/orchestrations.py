"""Lease an instance, run a turn of it, commit what the turn adds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from duroxide import work
from duroxide.codec import decode_events
from duroxide.engine.run import Run
from duroxide.engine.turn import TurnResult
from duroxide.errors import CodecError, NonDeterminismError
from duroxide.history import OrchestrationStarted
from duroxide.ids import TurnToken
from duroxide.providers.base import (
    AbandonTurn,
    CommitCode,
    CommitItem,
    CommitTurn,
    LeasedActivity,
    LeasedTurn,
    Provider,
)
from duroxide.registry import OrchestrationDef, Registry
from duroxide.runtime.backoff import redelivery_delay_ms
from duroxide.runtime.cache import Live, LiveCache
from duroxide.runtime.flusher import Flusher
from duroxide.runtime.inbox import Inbox, read_inbox
from duroxide.runtime.leases import Leases
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.orphans import Orphans
from duroxide.runtime.poison import poisoned
from duroxide.runtime.poller import Poller
from duroxide.runtime.slots import Slots
from duroxide.runtime.storeclock import StoreClock
from duroxide.runtime.telemetry import Observer, TurnRecord
from duroxide.runtime.turns import consume_item, start_info, turn_item
from duroxide.state import ExecutionStatus

logger = logging.getLogger("duroxide.runtime")

Definition: TypeAlias = OrchestrationDef[..., Any]
Guard: TypeAlias = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to commit for a leased turn; `live` may be kept if it is applied."""

    item: CommitItem
    live: Live | None = None
    result: TurnResult | None = None
    run_seconds: float = 0.0
    is_cached: bool = False


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
        accept: Callable[[Iterable[LeasedActivity]], None],
        committed: Callable[[CommitTurn], None],
        new_seed: Callable[[], str],
        guard: Guard = nullcontext,
    ) -> None:
        self._provider = provider
        self._registry = registry
        self._options = options
        self._worker_id = worker_id
        self._flusher = flusher
        self._leases = leases
        self._clock = clock
        self._observer = observer
        self._accept = accept
        self._committed = committed
        self._new_seed = new_seed
        self._guard = guard
        self._slots = Slots(options.turn_slots)
        self._cache = LiveCache(options.cache_size)
        self._orphans = Orphans(options.orphan_retention_ms / 1000)
        self._in_hand: dict[TurnToken, LeasedTurn] = {}
        self.poller = Poller(
            "poll_turns",
            self._poll,
            self._slots,
            pause_s=options.poll_interval_s,
            observer=observer,
        )

    async def _poll(self, want: int) -> int:
        has_suffix = self._provider.capabilities.history_suffix
        answer = await self._provider.poll_turns(
            worker=self._worker_id,
            want=want,
            lease_ms=self._leases.lease_ms,
            wait_ms=self._options.long_poll_ms,
            known=self._cache.cursors() if has_suffix else None,
            versions=self._options.version_ranges,
        )
        self._clock.observe(answer.now_ms)
        for leased in answer.turns:
            self._in_hand[leased.token] = leased
            self._slots.spawn(self._process(leased), f"turn of {leased.instance_id}")
        return len(answer.turns)

    # Ending.

    async def drain(self) -> None:
        """Wait until all turns in hand are committed."""
        await self._slots.idle()

    async def stop(self) -> list[CommitItem]:
        """Cancel what still runs; returns what gives it back to the store."""
        await self._slots.cancel()
        back: list[CommitItem] = [
            AbandonTurn(instance_id=leased.instance_id, token=token, count_attempt=False)
            for token, leased in self._in_hand.items()
        ]
        for token in tuple(self._in_hand):
            self._let_go(token)
        self._cache.clear()
        return back

    def _let_go(self, token: TurnToken) -> None:
        self._in_hand.pop(token, None)
        self._leases.release(token)

    # One turn.

    async def _process(self, leased: LeasedTurn) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._leases.hold(leased.token, leased.expires_at_ms, lambda: _drop(task))
        decision = await self._decide(leased)
        self._leases.ending(leased.token)
        await self._commit(leased, decision)
        self._let_go(leased.token)

    async def _decide(self, leased: LeasedTurn) -> Decision:
        try:
            inbox = read_inbox(leased.messages)
        except CodecError as error:
            inbox = None
            problem: str | None = f"a message can't be read: {error}"
        else:
            problem = leased.history_error
        if leased.status.is_terminal:
            return Decision(item=consume_item(leased))
        if leased.attempt_count > self._options.attempts:
            return self._poison(leased, inbox)
        if inbox is None or problem is not None:
            return self._leave_to_others(leased, problem or "unreadable")
        if leased.name is None and inbox.beginning is None:
            return self._orphan(leased)
        try:
            return await self._run(leased, inbox)
        except (CodecError, NonDeterminismError) as error:
            return self._leave_to_others(leased, str(error))
        except Exception as error:
            logger.exception("a turn of %s failed outside its code", leased.instance_id)
            return self._leave_to_others(leased, f"{type(error).__name__}: {error}")

    async def _run(self, leased: LeasedTurn, inbox: Inbox) -> Decision:
        begins = leased.name is None or (
            leased.status is ExecutionStatus.CONTINUED_AS_NEW
            and isinstance(inbox.beginning, work.ContinueAsNew)
        )
        if begins:
            return await self._begin(leased, inbox)
        if leased.status is ExecutionStatus.CONTINUED_AS_NEW:
            # What arrived between two executions is for the next one, whose start is on its way.
            return Decision(item=_hand_back(leased, delay_ms=100))
        if not inbox.inbound:
            return Decision(item=consume_item(leased))
        live = self._cache.take(leased)
        is_cached = live is not None
        if live is None:
            if leased.history_after:
                return Decision(item=_hand_back(leased))
            live = await self._replay(leased)
            if live is None:
                return self._unregistered(leased, leased.name, leased.version)
        return self._apply(leased, inbox, live, is_cached)

    async def _begin(self, leased: LeasedTurn, inbox: Inbox) -> Decision:
        beginning = inbox.beginning
        assert beginning is not None
        definition = self._registry.orchestration(beginning.orchestration, beginning.version)
        if definition is None:
            return self._unregistered(leased, beginning.orchestration, beginning.version)
        execution_id = leased.execution_id + (leased.name is not None)
        prepared = await _prepare(definition, beginning.input)
        info = start_info(
            beginning,
            name=definition.name,
            version=definition.version,
            execution_id=execution_id,
            seed=self._new_seed(),
            limits=self._options.limits,
        )
        run = Run.start(
            definition,
            info,
            now_ms=self._clock.now_ms(),
            key_values=leased.key_values,
            prepared=prepared,
            guard=self._guard,
        )
        live = Live(
            instance_id=leased.instance_id,
            execution_id=execution_id,
            definition=definition,
            run=run,
        )
        return self._apply(leased, inbox, live, is_cached=False)

    async def _replay(self, leased: LeasedTurn) -> Live | None:
        """Bring the execution back from its history; None if its code isn't registered here."""
        events = decode_events(leased.history)
        first = events[0].kind if events else None
        if not isinstance(first, OrchestrationStarted):
            raise CodecError("corrupted history: the first event must be OrchestrationStarted")
        definition = self._registry.orchestration(first.name, first.version)
        if definition is None:
            return None
        prepared = await _prepare(definition, first.input)
        run = Run.replay(
            definition,
            events,
            key_values=leased.key_values,
            prepared=prepared,
            guard=self._guard,
        )
        return Live(
            instance_id=leased.instance_id,
            execution_id=leased.execution_id,
            definition=definition,
            run=run,
        )

    def _apply(self, leased: LeasedTurn, inbox: Inbox, live: Live, is_cached: bool) -> Decision:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            result = live.run.apply(inbox.inbound, self._clock.now_ms())
        except BaseException:
            live.run.park()
            raise
        item = turn_item(
            leased,
            result,
            execution_id=live.execution_id,
            consumed=inbox.consumed(result.unapplied),
        )
        return Decision(
            item=item,
            live=live,
            result=result,
            run_seconds=loop.time() - started,
            is_cached=is_cached,
        )

    async def _commit(self, leased: LeasedTurn, decision: Decision) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.time()
        live = decision.live
        try:
            answer = await self._flusher.commit(decision.item)
        except BaseException:
            if live is not None:
                live.run.park()
            raise
        if answer.ok and isinstance(decision.item, CommitTurn):
            self._committed(decision.item)
            self._accept(answer.activities)
        if answer.ok and live is not None and not live.run.ended:
            self._cache.keep(live)
        elif live is not None:
            live.run.park()
        if not answer.ok:
            self._observer.turn_refused(leased.instance_id, answer.error or answer.code.name)
        if answer.code is CommitCode.REFUSED:
            reason = f"the store refused the turn: {answer.error}"
            await self._flusher.commit(self._leave_to_others(leased, reason).item)
        if answer.ok and decision.result is not None and live is not None:
            self._observe(leased, decision, decision.result, live, loop.time() - ready)

    def _observe(
        self,
        leased: LeasedTurn,
        decision: Decision,
        result: TurnResult,
        live: Live,
        commit_seconds: float,
    ) -> None:
        for ignored in result.ignored:
            self._observer.message_dropped(leased.instance_id, ignored.reason.value)
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
            )
        )

    # What can't be run.

    def _unregistered(self, leased: LeasedTurn, name: str | None, version: str | None) -> Decision:
        asked = f"{name!r}" if version is None else f"{name!r} version {version}"
        return self._leave_to_others(leased, f"orchestration {asked} is not registered here")

    def _leave_to_others(self, leased: LeasedTurn, reason: str) -> Decision:
        """Let another worker, or newer code, try it; after too many deliveries it is poison."""
        self._observer.turn_refused(leased.instance_id, reason)
        base_ms, longest_ms = self._options.unregistered_backoff_ms
        delay_ms = redelivery_delay_ms(leased.attempt_count, base_ms=base_ms, longest_ms=longest_ms)
        return Decision(
            item=AbandonTurn(instance_id=leased.instance_id, token=leased.token, delay_ms=delay_ms)
        )

    def _orphan(self, leased: LeasedTurn) -> Decision:
        """Messages to an instance that never started: they wait for it, but not for ever."""
        delay_ms = self._orphans.delay_ms(leased.instance_id)
        if delay_ms is None:
            self._observer.message_dropped(leased.instance_id, "no such instance")
            return Decision(item=consume_item(leased))
        return Decision(item=_hand_back(leased, delay_ms=delay_ms))

    def _poison(self, leased: LeasedTurn, inbox: Inbox | None) -> Decision:
        """Fail the instance, so that nobody waits for it for ever."""
        if leased.history_after:
            self._cache.forget(leased.instance_id)
            return Decision(item=_hand_back(leased))  # the whole history is needed for the end
        self._observer.instance_poisoned(leased.instance_id, leased.attempt_count)
        end = poisoned(
            leased,
            inbox,
            max_attempts=self._options.attempts,
            now_ms=self._clock.now_ms(),
            limits=self._options.limits,
        )
        if end is None:
            return Decision(item=consume_item(leased))
        execution_id, result = end
        consumed = tuple(message.message_id for message in leased.messages)
        return Decision(
            item=turn_item(leased, result, execution_id=execution_id, consumed=consumed)
        )


async def _prepare(definition: Definition, text: str) -> object:
    return None if definition.prepare is None else await definition.prepare(text)


def _drop(task: asyncio.Task[None]) -> None:
    task.cancel("the lease of the turn was lost")


def _hand_back(leased: LeasedTurn, *, delay_ms: int = 0) -> AbandonTurn:
    return AbandonTurn(
        instance_id=leased.instance_id,
        token=leased.token,
        delay_ms=delay_ms,
        count_attempt=False,
    )
