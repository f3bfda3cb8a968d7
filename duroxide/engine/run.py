"""One execution in memory: the same steps whether an event is read from history or has just arrived.

`apply(x)` is: record x, settle what it answers, run the code until it waits, take its commands. In
replay the commands are compared with history; live they become history. Rules: docs/reference/replay.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeAlias, cast

from duroxide import history, work
from duroxide.engine.breadcrumbs import terminal_reason
from duroxide.engine.executor import STEPS_PER_RUN, Executor, Task
from duroxide.engine.inbound import accept, answers_open_schedule, deliver
from duroxide.engine.journal import Continuation, Journal, ScheduledFuture
from duroxide.engine.locate import waiting_line
from duroxide.engine.matching import Difference, Mismatch, is_same, report
from duroxide.engine.outbox import Outbox, fill
from duroxide.engine.program import Program, failure_of
from duroxide.engine.recorded import damaged, first_of, started_event, without_forced_end
from duroxide.engine.result import (
    Ignored,
    IgnoreReason,
    NewExecutionInfo,
    StartInfo,
    TurnResult,
)
from duroxide.engine.sizes import event_bytes, utf8_bytes
from duroxide.errors import (
    Cancelled,
    LimitExceeded,
    NonDeterminismError,
    OrchestrationCancelled,
)
from duroxide.failures import cancellation
from duroxide.history import Event, InboundKind
from duroxide.state import ExecutionStatus, KeyValue
from duroxide.storable import flaw_of

Guard: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Entered around every stretch of user code; the runtime's refuses asyncio and the like."""

NO_KEY_VALUES: Mapping[str, KeyValue] = {}
TERMINAL_KINDS: tuple[type[Any], ...] = cast("Any", history.Terminal).__args__
_COMPLETIONS: tuple[type[Any], ...] = cast("Any", history.Completion).__args__
_INBOUND: frozenset[type[Any]] = frozenset(cast("Any", InboundKind).__args__)


class Run:
    """A live execution. Make one with `start` or `replay`, feed it with `apply`, drop it with `park`."""

    def __init__(
        self,
        program: Program,
        first: Event,
        *,
        key_values: Mapping[str, KeyValue] = NO_KEY_VALUES,
        prepared: object = None,
        guard: Guard = nullcontext,
        recorded: Sequence[Event] = (),
        capture: bool = False,
        steps_per_run: int = STEPS_PER_RUN,
    ) -> None:
        self.executor = Executor(steps_per_run)
        self.journal = Journal(
            first, self.executor, key_values=key_values, recorded=recorded, capture=capture
        )
        self.status = ExecutionStatus.RUNNING
        self._program = program
        self._prepared = prepared
        self._guard = guard
        self._root: Task[str] | None = None
        self._cancel_reason: str | None = None
        self._deadline: ScheduledFuture[None] | None = None
        self._terminated = False
        self._new: list[Event] = []
        self._ignored: list[Ignored] = []
        self._unawaited: list[history.Schedule] = []
        self._carried: tuple[tuple[str, str], ...] = ()
        self._is_first_turn = not recorded

    # Beginnings.

    @classmethod
    def start(
        cls,
        program: Program,
        info: StartInfo,
        *,
        now_ms: int,
        key_values: Mapping[str, KeyValue] = NO_KEY_VALUES,
        prepared: object = None,
        guard: Guard = nullcontext,
        steps_per_run: int = STEPS_PER_RUN,
    ) -> Run:
        """A new execution, run to its first waits; the next `apply` returns what that added.

        Queue messages carried over from the execution before arrive first, as ordinary messages.
        """
        first = started_event(info, now_ms)
        run = cls(
            program,
            first,
            key_values=key_values,
            prepared=prepared,
            guard=guard,
            steps_per_run=steps_per_run,
        )
        run._new.append(first)
        with run._entered():
            run._begin()
            run._record_commands()
            for name, data in info.carry_forward_events:
                carried = work.QueueMessage(instance=info.instance_id, name=name, data=data)
                run._receive(carried, now_ms)
        return run

    @classmethod
    def replay(
        cls,
        program: Program,
        events: Sequence[Event],
        *,
        key_values: Mapping[str, KeyValue] = NO_KEY_VALUES,
        prepared: object = None,
        guard: Guard = nullcontext,
        steps_per_run: int = STEPS_PER_RUN,
    ) -> Run:
        """Bring an execution back to where its history ends.

        Args:
            events: 1..n of the execution, ending where a turn ended.

        Raises:
            NonDeterminismError: the code does not do what history says, or history is damaged.
        """

        def attempt(capture: bool) -> Run:
            run = cls(
                program,
                first_of(events),
                key_values=key_values,
                prepared=prepared,
                guard=guard,
                recorded=events,
                capture=capture,
                steps_per_run=steps_per_run,
            )
            try:
                with run._entered():
                    run._replay(events)
            except BaseException:
                if not capture:
                    run.park()
                else:
                    failed.append(run)
                raise
            return run

        failed: list[Run] = []
        try:
            return attempt(capture=False)
        except Mismatch as first_time:
            try:
                attempt(capture=True).park()
            except Mismatch as again:
                error = failed[0]._explain(again.difference)
                failed[0].park()
                raise error from None
            again_else = (
                "\n  and did something else when it was run again: it depends on something outside "
                "its history"
            )
            difference = first_time.difference
            raise NonDeterminismError(
                report(difference, None) + again_else,
                difference.did_id,
                report(difference, None, with_payloads=False) + again_else,
            ) from None

    # Going on.

    @property
    def next_event_id(self) -> int:
        """The id of the event that will be recorded next."""
        return self.journal.last_id + 1

    @property
    def ended(self) -> bool:
        """The execution has its terminal event; all that still comes is ignored."""
        return self.status is not ExecutionStatus.RUNNING

    def apply(self, inbound: Sequence[work.Inbound], now_ms: int) -> TurnResult:
        """Apply messages one by one, in order, and return all that was added since the last call.

        Args:
            now_ms: Unix epoch; the clock of this turn. Time in a history never goes backwards.

        Raises:
            NonDeterminismError: the code did what it may not do. Nothing of the turn may be committed,
                and this run is void.
        """
        unapplied = 0
        with self._entered():
            for index, item in enumerate(inbound):
                if self.status is ExecutionStatus.CONTINUED_AS_NEW:
                    unapplied = len(inbound) - index
                    break
                self._receive(item, now_ms)
        return self._take_result(unapplied)

    def park(self) -> None:
        """Drop the code where it waits, without letting it do anything more; idempotent."""
        self.journal.seal()
        with self._guard():
            self.executor.close()

    # One inbound event.

    def _entered(self) -> AbstractContextManager[object]:
        stack = ExitStack()
        stack.enter_context(self.executor.entered())
        stack.enter_context(self._guard())
        return stack

    def _receive(self, item: work.Inbound, now_ms: int) -> None:
        if self.ended:
            self._ignored.append(Ignored(reason=IgnoreReason.EXECUTION_ENDED, item=item))
            return
        kind = accept(self.journal, item)
        if isinstance(kind, IgnoreReason):
            self._ignored.append(Ignored(reason=kind, item=item))
            return
        journal = self.journal
        journal.now_ms = max(journal.now_ms, now_ms)
        if isinstance(kind, history.TimerFired):
            # The store's clock may step back; for the code, a timer is never early.
            journal.now_ms = max(journal.now_ms, kind.fire_at_ms)
        journal.last_id += 1
        self._append(journal.last_id, kind)
        self._react(kind)
        self._record_commands()

    def _react(self, kind: InboundKind) -> None:
        """Settle what the event answers and run the code until it waits or the execution ends."""
        journal = self.journal
        journal.history_bytes += event_bytes(kind)
        self.executor.refill()
        if isinstance(kind, history.OrchestrationCancelRequested):
            self._cancel(kind.reason)
        else:
            deliver(journal, kind)
            if self._deadline is not None and self._deadline.done():
                self._terminated = True
        if not self._terminated:
            self.executor.run()
        self._conclude()

    def _begin(self) -> None:
        self._root = self.executor.spawn(self._program.launch(self.journal, self._prepared))
        self.executor.run()
        self._conclude()

    def _cancel(self, reason: str) -> None:
        grace_ms = self._program.cancel_grace_ms
        if grace_ms is None or self._cancel_reason is not None:
            self._terminated = True
        if self._cancel_reason is None:
            self._cancel_reason = reason
        if not self._terminated and self._root is not None:
            self._deadline = self.journal.deadline(cast("int", grace_ms))
            self._root.interrupt(OrchestrationCancelled(reason))

    # The end.

    def _conclude(self) -> None:
        """End the execution if the code has ended, continues as new, or was cancelled."""
        assert self._root is not None
        continuation = self.journal.continuation
        if self._terminated:
            self.journal.seal()
        elif self._root.done() or continuation is not None:
            self.executor.wind_down()
        else:
            return
        kind, status = self._terminal(continuation)
        self._carried = self.journal.queues.unread()
        for future in list(self.journal.open.values()):
            if status is ExecutionStatus.COMPLETED and not future.was_awaited():
                self._unawaited.append(future.schedule)
            reason = terminal_reason(future.schedule, status)
            self.journal.close_with(self.journal.breadcrumb(future, reason))
        self.journal.close_with(kind)
        self.status = status
        self.park()

    def _terminal(
        self, continuation: Continuation | None
    ) -> tuple[history.Terminal, ExecutionStatus]:
        if self._cancel_reason is not None:
            details = cancellation(self._cancel_reason)
            return history.OrchestrationFailed(details=details), ExecutionStatus.FAILED
        if continuation is not None:
            return (
                history.OrchestrationContinuedAsNew(input=continuation.input),
                ExecutionStatus.CONTINUED_AS_NEW,
            )
        assert self._root is not None
        error = self._root_error()
        if error is None:
            return (
                history.OrchestrationCompleted(output=self._root.result()),
                ExecutionStatus.COMPLETED,
            )
        details = failure_of(error, with_traceback=self._program.tells_traceback)
        return history.OrchestrationFailed(details=details), ExecutionStatus.FAILED

    def _root_error(self) -> BaseException | None:
        root = self._root
        assert root is not None
        if root.cancelled():
            return Cancelled()
        error = root.exception()
        if error is not None:
            return error
        output, limit = root.result(), self.journal.limits.payload_bytes
        if utf8_bytes(output) > limit:
            return LimitExceeded("Output", utf8_bytes(output), limit)
        flaw = flaw_of(output)
        return None if flaw is None else ValueError(f"Output contains {flaw}: no store can keep it")

    # Live: commands become events.

    def _append(self, event_id: int, kind: history.EventKind) -> None:
        journal = self.journal
        self._new.append(
            Event(
                event_id=event_id,
                instance_id=journal.instance_id,
                execution_id=journal.execution_id,
                timestamp_ms=journal.now_ms,
                kind=kind,
            )
        )

    def _record_commands(self) -> None:
        journal = self.journal
        for event_id, kind in enumerate(journal.commands, journal.last_id + 1):
            self._append(event_id, kind)
        journal.last_id += len(journal.commands)
        journal.commands.clear()

    def _take_result(self, unapplied: int) -> TurnResult:
        journal = self.journal
        outbox = Outbox(journal.started, journal.instance_id, journal.execution_id)
        outbox.was_cancelled = self._cancel_reason is not None
        fill(outbox, self._new, journal.dropped_children)
        if outbox.status is ExecutionStatus.CONTINUED_AS_NEW:
            outbox.others.append(self._next_execution())
        started = journal.started
        result = TurnResult(
            events=tuple(self._new),
            status=self.status,
            output=outbox.output,
            activities=tuple(outbox.activities.values()),
            messages=outbox.messages(),
            cancelled_activities=tuple(outbox.cancelled_activities),
            cancelled_timers=tuple(outbox.cancelled_timers),
            custom_status=outbox.custom_status,
            key_values=tuple(outbox.key_values),
            projections=tuple(journal.projections),
            ignored=tuple(self._ignored),
            unawaited=tuple(self._unawaited),
            unapplied=unapplied,
            new_execution=NewExecutionInfo(
                name=started.name,
                version=started.version,
                parent_instance_id=started.parent_instance,
            )
            if self._is_first_turn
            else None,
        )
        self._new, self._ignored, self._unawaited, self._is_first_turn = [], [], [], False
        journal.projections.clear()
        journal.dropped_children.clear()
        return result

    def _next_execution(self) -> work.ContinueAsNew:
        journal = self.journal
        continuation, started = journal.continuation, journal.started
        assert continuation is not None
        return work.ContinueAsNew(
            instance=journal.instance_id,
            orchestration=started.name,
            input=continuation.input,
            version=continuation.version,
            carry_forward_events=self._carried,
            initial_custom_status=journal.custom_status,
            parent_instance=started.parent_instance,
            parent_id=started.parent_id,
            parent_execution_id=started.parent_execution_id,
        )

    # Replay: commands are compared with events.

    def _replay(self, whole: Sequence[Event]) -> None:
        events = without_forced_end(whole)
        self._begin()
        index = self._match(events, 0)
        count, journal = len(events), self.journal
        while index < count:
            event = events[index]
            kind = event.kind
            if type(kind) not in _INBOUND:
                raise self._left_over(events, index)
            if event.event_id != index + 1:
                raise damaged(f"event {index + 1} has the number {event.event_id}", event)
            if self.ended:
                raise damaged("an event follows the end of the execution", event)
            if isinstance(kind, _COMPLETIONS) and not answers_open_schedule(journal, kind):
                raise damaged("completion without open schedule", event)
            journal.now_ms = event.timestamp_ms
            journal.last_id = index + 1
            self._react(cast("InboundKind", kind))
            index = self._match(events, index)
        if len(events) < len(whole):
            self.status = ExecutionStatus.FAILED
            journal.last_id = len(whole)
            self.park()
        journal.forget_recorded()
        journal.dropped_children.clear()
        self._unawaited.clear()

    def _match(self, events: Sequence[Event], after: int) -> int:
        """Compare the commands with what follows `events[after]`; returns where they end."""
        journal = self.journal
        commands = journal.commands
        index, count = after + 1, len(events)
        for did in commands:
            was = events[index] if index < count else None
            if was is None or not is_same(did, was.kind):
                recorded = was if was is not None and type(was.kind) not in _INBOUND else None
                raise Mismatch(
                    Difference(journal.execution_id, events[after], recorded, did, index + 1)
                )
            index += 1
        journal.last_id = index
        commands.clear()
        return index

    def _left_over(self, events: Sequence[Event], index: int) -> Mismatch:
        after = index - 1
        while after > 0 and type(events[after].kind) not in _INBOUND:
            after -= 1
        execution_id = self.journal.execution_id
        return Mismatch(Difference(execution_id, events[after], events[index], None, index + 1))

    def _explain(self, difference: Difference) -> NonDeterminismError:
        """The report, with the line of the call, or the line where the code waits instead."""
        lines = self.journal.lines or {}
        line = lines.get(difference.did_id)
        if difference.did is None and self._root is not None and not self._root.done():
            line = waiting_line(self._root.coroutine)
        recorded = difference.recorded
        return NonDeterminismError(
            report(difference, line),
            None if recorded is None else recorded.event_id,
            report(difference, line, with_payloads=False),
        )
