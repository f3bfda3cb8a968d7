"""What becomes of a leased turn: run it, leave it to others, let it wait, or let it fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeAlias

from duroxide import work
from duroxide.codec import decode_events
from duroxide.engine.run import Run
from duroxide.engine.turn import TurnResult
from duroxide.errors import CodecError, NonDeterminismError
from duroxide.failures import Failure, nondeterminism
from duroxide.history import OrchestrationStarted
from duroxide.ids import ExecutionId, InstanceId
from duroxide.providers.base import AbandonTurn, CommitItem, LeasedTurn
from duroxide.registry import OrchestrationDef, Registry
from duroxide.runtime.backoff import redelivery_delay_ms
from duroxide.runtime.cache import Live, LiveCache
from duroxide.runtime.inbox import Beginning, Inbox, read_inbox
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.orphans import Orphans
from duroxide.runtime.poison import poisoned
from duroxide.runtime.refusals import refused_children
from duroxide.runtime.storeclock import StoreClock
from duroxide.runtime.telemetry import Observer
from duroxide.runtime.turns import consume_item, start_info, turn_item
from duroxide.runtime.verify import verify
from duroxide.runtime.watchdog import Watchdog
from duroxide.state import ExecutionStatus

logger = logging.getLogger("duroxide.runtime")

Definition: TypeAlias = OrchestrationDef[..., object]
Guard: TypeAlias = Callable[[], AbstractContextManager[object]]

BETWEEN_EXECUTIONS_MS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to commit; `live` is where the execution stands if that is applied."""

    item: CommitItem
    live: Live | None = None
    result: TurnResult | None = None
    run_seconds: float = 0.0
    is_cached: bool = False
    unreadable: str | None = None  # what is wrong with the history, unless the instance is gone


class TurnRunner:
    """Decides about turns. It never raises for what is wrong with an instance or with its code."""

    def __init__(
        self,
        registry: Registry,
        options: RuntimeOptions,
        *,
        cache: LiveCache,
        clock: StoreClock,
        observer: Observer,
        new_seed: Callable[[], str],
        guard: Guard,
        watchdog: Watchdog,
    ) -> None:
        self._registry = registry
        self._options = options
        self._cache = cache
        self._clock = clock
        self._observer = observer
        self._new_seed = new_seed
        self._guard = guard
        self._watchdog = watchdog
        self._orphans = Orphans(options.orphan_retention_ms / 1000)

    async def decide(self, leased: LeasedTurn) -> Decision:
        inbox: Inbox | None = None
        problem = leased.history_error
        try:
            inbox = read_inbox(leased.messages)
        except CodecError as error:
            problem = f"a message can't be read: {error}"
        if leased.status.is_terminal:
            return self._ended(leased, inbox)
        if leased.attempt_count > self._options.attempts:
            return self._poison(leased, inbox)
        if inbox is not None and leased.history_error is not None:
            return self._unreadable(leased, leased.history_error)
        if inbox is None or problem is not None:
            return self.leave_to_others(leased, problem or "unreadable")
        if leased.name is None and inbox.beginning is None:
            return self._orphan(leased)
        try:
            return await self._run(leased, inbox)
        except NonDeterminismError as error:
            return self._diverged(leased, inbox, error)
        except CodecError as error:
            return self.leave_to_others(leased, str(error))
        except Exception as error:
            logger.exception("a turn of %s failed outside its code", leased.instance_id)
            return self.leave_to_others(leased, f"{type(error).__name__}: {error}")

    def decide_resident(self, leased: LeasedTurn, inbox: Inbox, live: Live) -> Decision:
        """The next turn of an execution that has stayed in memory."""
        try:
            return self.apply(leased, inbox, live, is_cached=True)
        except NonDeterminismError as error:
            if self._options.nondeterminism == "fail":
                return Decision(item=hand_back(leased))  # the whole history is needed for the end
            return self._leave_to_right_code(leased, error)
        except Exception as error:
            logger.exception("a turn of %s failed outside its code", leased.instance_id)
            return self.leave_to_others(leased, f"{type(error).__name__}: {error}")

    async def _run(self, leased: LeasedTurn, inbox: Inbox) -> Decision:
        is_between = leased.status is ExecutionStatus.CONTINUED_AS_NEW
        if leased.name is None or (is_between and isinstance(inbox.beginning, work.ContinueAsNew)):
            return await self._begin(leased, inbox)
        if is_between:
            # What arrived between two executions is for the next one, whose start is on its way.
            return Decision(item=hand_back(leased, delay_ms=BETWEEN_EXECUTIONS_MS))
        if not inbox.inbound and not inbox.starts:
            return Decision(item=consume_item(leased))
        live = self._cache.take(leased)
        is_cached = live is not None
        if live is None:
            if leased.history_after:
                return Decision(item=hand_back(leased))
            live = await self._replay(leased)
            if live is None:
                return self._unregistered(leased, leased.name, leased.version)
        return self.apply(leased, inbox, live, is_cached=is_cached)

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
        now_ms = self._clock.now_ms()
        self._watchdog.began(leased.instance_id, definition.name)
        try:
            run = Run.start(
                definition,
                info,
                now_ms=now_ms,
                key_values=leased.key_values,
                prepared=prepared,
                guard=self._guard,
            )
        finally:
            self._watchdog.ended()
        live = Live(
            instance_id=leased.instance_id,
            execution_id=execution_id,
            definition=definition,
            run=run,
            key_values=leased.key_values,
            prepared=prepared,
            began_ms=now_ms,
            parent=_parent(beginning),
            incarnation=leased.incarnation,
        )
        return self.apply(leased, inbox, live, is_cached=False)

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
        self._watchdog.began(leased.instance_id, definition.name)
        try:
            run = Run.replay(
                definition,
                events,
                key_values=leased.key_values,
                prepared=prepared,
                guard=self._guard,
            )
        finally:
            self._watchdog.ended()
        return Live(
            instance_id=leased.instance_id,
            execution_id=leased.execution_id,
            definition=definition,
            run=run,
            key_values=leased.key_values,
            prepared=prepared,
            began_ms=events[0].timestamp_ms,
            parent=_parent(first),
            events=list(events) if self._options.cache == "verify" else [],
            incarnation=leased.incarnation,
        )

    def apply(self, leased: LeasedTurn, inbox: Inbox, live: Live, *, is_cached: bool) -> Decision:
        """Run the turn.

        Raises:
            NonDeterminismError: nothing of it may be committed; the execution is no longer live.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        now_ms = self._clock.now_ms()
        try:
            self._watchdog.began(live.instance_id, live.definition.name)
            try:
                result = live.run.apply(inbox.inbound, now_ms)
                if is_cached and self._options.cache == "verify":
                    verify(live, inbox.inbound, result, now_ms=now_ms, guard=self._guard)
            finally:
                self._watchdog.ended()
        except BaseException:
            live.run.park()
            raise
        if self._options.cache == "verify":
            live.events.extend(result.events)
        item = turn_item(
            leased,
            result,
            execution_id=live.execution_id,
            consumed=inbox.consumed(result.unapplied),
        )
        began_by = live.run.journal.started
        refused = refused_children(leased.instance_id, inbox.starts, began_by, is_terminal=False)
        return Decision(
            item=replace(item, messages=item.messages + refused) if refused else item,
            live=live,
            result=result,
            run_seconds=loop.time() - started,
            is_cached=is_cached,
        )

    # What can't be run.

    def _ended(self, leased: LeasedTurn, inbox: Inbox | None) -> Decision:
        """Nothing that comes after the end changes it; who takes it for its new child is told."""
        item = consume_item(leased)
        if inbox is None or not inbox.starts:
            return Decision(item=item)
        if leased.history_after:
            self._cache.forget(leased.instance_id)
            return Decision(item=hand_back(leased))  # its first event says whose child it was
        try:
            first = decode_events(leased.history[:1])[0].kind
        except (CodecError, IndexError):
            return Decision(item=item)
        if not isinstance(first, OrchestrationStarted):
            return Decision(item=item)
        refused = refused_children(leased.instance_id, inbox.starts, first, is_terminal=True)
        return Decision(item=replace(item, messages=refused))

    def _unregistered(self, leased: LeasedTurn, name: str | None, version: str | None) -> Decision:
        asked = f"{name!r}" if version is None else f"{name!r} version {version}"
        return self.leave_to_others(leased, f"orchestration {asked} is not registered here")

    def leave_to_others(self, leased: LeasedTurn, reason: str) -> Decision:
        """Let another worker, or newer code, try it; after too many deliveries it is poison."""
        self._observer.turn_refused(leased.instance_id, reason)
        return Decision(item=self._abandon(leased))

    def _leave_to_right_code(self, leased: LeasedTurn, error: NonDeterminismError) -> Decision:
        """Payloads are for those who look closer only."""
        logger.debug("%s, with payloads: %s", leased.instance_id, error.report)
        return self.leave_to_others(leased, error.summary)

    def _unreadable(self, leased: LeasedTurn, problem: str) -> Decision:
        """Leave it to others. Retention may have removed it just after it was leased: no problem then."""
        return Decision(item=self._abandon(leased), unreadable=problem)

    def _abandon(self, leased: LeasedTurn) -> AbandonTurn:
        base_ms, longest_ms = self._options.unregistered_backoff_ms
        delay_ms = redelivery_delay_ms(leased.attempt_count, base_ms=base_ms, longest_ms=longest_ms)
        return AbandonTurn(instance_id=leased.instance_id, token=leased.token, delay_ms=delay_ms)

    def _orphan(self, leased: LeasedTurn) -> Decision:
        """Messages to an instance that never started: they wait for it, but not for ever."""
        delay_ms = self._orphans.delay_ms(leased.instance_id)
        if delay_ms is None:
            self._observer.message_dropped(leased.instance_id, "no such instance")
            return Decision(item=replace(consume_item(leased), bury="no such instance"))
        return Decision(item=hand_back(leased, delay_ms=delay_ms))

    def _diverged(self, leased: LeasedTurn, inbox: Inbox, error: NonDeterminismError) -> Decision:
        """Code that does not repeat its history: wait for the right code or, if told so, fail now."""
        if self._options.nondeterminism == "retry":
            return self._leave_to_right_code(leased, error)
        if leased.history_after:
            return self._with_whole_history(leased)
        self._observer.turn_refused(leased.instance_id, error.summary)
        return self._fail(leased, inbox, "its code is nondeterministic", nondeterminism(str(error)))

    def _poison(self, leased: LeasedTurn, inbox: Inbox | None) -> Decision:
        """Fail the instance, so that nobody waits for it for ever."""
        if leased.history_after:
            return self._with_whole_history(leased)
        self._observer.instance_poisoned(leased.instance_id, leased.attempt_count)
        return self._fail(leased, inbox, f"delivered {leased.attempt_count} times without effect")

    def _with_whole_history(self, leased: LeasedTurn) -> Decision:
        """Have it delivered again: its end can't be written without it."""
        self._cache.forget(leased.instance_id)
        return Decision(item=hand_back(leased))

    def _fail(
        self, leased: LeasedTurn, inbox: Inbox | None, reason: str, failure: Failure | None = None
    ) -> Decision:
        end = poisoned(
            leased,
            inbox,
            max_attempts=self._options.attempts,
            now_ms=self._clock.now_ms(),
            limits=self._options.limits,
            failure=failure,
        )
        if end is None:
            return Decision(item=replace(consume_item(leased), bury=reason))
        execution_id, result = end
        consumed = tuple(message.message_id for message in leased.messages)
        item = turn_item(leased, result, execution_id=execution_id, consumed=consumed)
        return Decision(item=replace(item, bury=reason))


def _parent(beginning: Beginning | OrchestrationStarted) -> tuple[InstanceId, ExecutionId] | None:
    if beginning.parent_instance is None:
        return None
    return beginning.parent_instance, beginning.parent_execution_id or 1


async def _prepare(definition: Definition, text: str) -> object:
    return None if definition.prepare is None else await definition.prepare(text)


def hand_back(leased: LeasedTurn, *, delay_ms: int = 0) -> AbandonTurn:
    """Give the instance back as if it had not been delivered."""
    return AbandonTurn(
        instance_id=leased.instance_id,
        token=leased.token,
        delay_ms=delay_ms,
        count_attempt=False,
    )
