"""What an orchestration asks for, as the events that its history will hold.

The only way in which code can have an effect. A command gets its event id at once, is checked against
the limits, and waits in a buffer until the run has come to rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from duroxide import history
from duroxide.engine.breadcrumbs import CHILD_MARKER, DROPPED, breadcrumb
from duroxide.engine.executor import ContinueAsNewRequested, Executor, Parked
from duroxide.engine.futures import DurableFuture, State
from duroxide.engine.locate import calling_line
from duroxide.engine.mailboxes import Mailboxes
from duroxide.engine.sizes import event_bytes, utf8_bytes
from duroxide.errors import LimitExceeded
from duroxide.history import CommandKind, Event, OrchestrationStarted
from duroxide.ids import EventId
from duroxide.limits import Limits
from duroxide.state import KeyValue
from duroxide.storable import flaw_of

T = TypeVar("T")

Decode = Callable[[str], Any]

LAST_MS = 253_402_300_799_999
"""The last moment of the year 9999: the last that dates of Python and all stores have a name for."""


class ScheduledFuture(DurableFuture[T]):
    """The answer to one schedule event; cancelling it takes the schedule back."""

    __slots__ = ("_journal", "decode", "event_id", "schedule")

    def __init__(
        self,
        journal: Journal,
        event_id: EventId,
        schedule: history.Schedule,
        decode: Decode | None,
    ) -> None:
        super().__init__(journal.executor)
        self._journal = journal
        self.event_id = event_id
        self.schedule = schedule
        self.decode = decode

    def settle_with_text(self, text: str) -> None:
        """Settle with what the text means; a text that has no meaning is a failure."""
        if self.decode is None:
            self.settle(State.DONE, text)
            return
        try:
            value = self.decode(text)
        except Exception as error:
            self.settle(State.FAILED, error)
        else:
            self.settle(State.DONE, value)

    def _give_up(self) -> None:
        self._journal.give_up(self, DROPPED)

    def _give_back(self) -> None:
        self._journal.give_back(self)


class Continuation:
    """How the execution goes on under a new history."""

    __slots__ = ("input", "version")

    def __init__(self, input_text: str, version: str | None) -> None:
        self.input = input_text
        self.version = version


class Journal:
    """The state that commands change, and the buffer of those not yet in history."""

    def __init__(
        self,
        first: Event,
        executor: Executor,
        *,
        key_values: Mapping[str, KeyValue],
        recorded: Sequence[Event],
        capture: bool,
    ) -> None:
        assert isinstance(first.kind, OrchestrationStarted)
        self.started = first.kind
        self.instance_id = first.instance_id
        self.execution_id = first.execution_id
        self.executor = executor
        self.limits = Limits.from_mapping(first.kind.limits)
        self.now_ms = first.timestamp_ms
        self.last_id: EventId = first.event_id  # of the last event in history
        self.history_bytes = event_bytes(first.kind)
        self.commands: list[CommandKind | history.Terminal] = []
        self.open: dict[EventId, ScheduledFuture[Any]] = {}  # in the order of their ids
        self.queues = Mailboxes()
        self.events = Mailboxes()
        self.key_values = dict(key_values)
        self.custom_status = first.kind.initial_custom_status
        self.continuation: Continuation | None = None
        self.is_replaying = bool(recorded)
        self.projections: list[str] = []
        self.dropped_children: dict[EventId, str] = {}  # breadcrumb's source -> instance suffix
        self.lines: dict[EventId, str] | None = {} if capture else None
        self.line_hint: Callable[[], str | None] | None = None  # of a suspended generator
        # A history of another implementation has none; its identity serves as well.
        self.seed = first.kind.seed or f"{first.instance_id}/{first.execution_id}"
        self._recorded = recorded
        self._patches: dict[str, bool] = {}
        self._sealed = False

    # Emission.

    @property
    def history_length(self) -> int:
        """Events so far, those of this run included."""
        return self.last_id + len(self.commands)

    def seal(self) -> None:
        """From here on, code that still executes can't change anything."""
        self._sealed = True

    def check_open(self) -> None:
        """Raise out of code that executes although its run is over."""
        if self._sealed:
            raise Parked

    def _check_asker(self) -> None:
        """Refuse code whose run is over, and others that got hold of the context: an activity, a thread."""
        self.check_open()
        if self.executor.current is None:
            raise RuntimeError(
                f"the context of orchestration {self.started.name!r} was used outside of its code, "
                "where no replay would repeat it: only the orchestration itself can ask for something"
            )

    def emit(self, kind: CommandKind) -> EventId:
        """Buffer a command and give it its id.

        Raises:
            LimitExceeded: the history would become too long; nothing is recorded.
            RuntimeError: it is not code of this execution that asks.
        """
        if self._sealed or self.executor.current is None:
            self._check_asker()
        limits = self.limits
        event_id = self.last_id + len(self.commands) + 1
        size = event_bytes(kind)
        if event_id > limits.history_events:
            raise LimitExceeded("History", event_id, limits.history_events, "events")
        if self.history_bytes + size > limits.history_bytes:
            raise LimitExceeded("History size", self.history_bytes + size, limits.history_bytes)
        return self._append(kind, size)

    def _append(self, kind: CommandKind | history.Terminal, size: int) -> EventId:
        self.commands.append(kind)
        self.history_bytes += size
        event_id = self.last_id + len(self.commands)
        if self.lines is not None:
            self.lines[event_id] = calling_line(self.line_hint)
        return event_id

    def close_with(self, kind: CommandKind | history.Terminal) -> None:
        """Buffer what ends the execution: no limit keeps an execution from ending."""
        self._append(kind, event_bytes(kind))

    def _schedule(self, kind: history.Schedule, decode: Decode | None) -> ScheduledFuture[Any]:
        event_id = self.emit(kind)
        future = self.open[event_id] = ScheduledFuture(self, event_id, kind, decode)
        return future

    def give_up(self, future: ScheduledFuture[Any], reason: str) -> None:
        """Record that the answer is not wanted any more."""
        self.check_open()
        if self.open.pop(future.event_id, None) is not None:
            # Giving up frees resources, so no limit forbids it.
            self.close_with(self.breadcrumb(future, reason))

    def give_back(self, future: ScheduledFuture[Any]) -> None:
        """Return the message that a read took and nobody has seen: to the next reader, or its place."""
        schedule = future.schedule
        boxes = self.queues if isinstance(schedule, history.QueueSubscribed) else self.events
        message = boxes.recall(future) if _takes_earlier(future) else None
        if message is None:
            return
        self.check_open()
        future.revoke()
        self.close_with(breadcrumb(schedule, future.event_id, DROPPED))
        reader = boxes.give_back(message, _takes_earlier)
        if isinstance(reader, ScheduledFuture):
            del self.open[reader.event_id]
            reader.settle_with_text(message[2])

    def breadcrumb(self, future: ScheduledFuture[Any], reason: str) -> history.Breadcrumb:
        """The event that says so; a reader also leaves its line, a child is remembered by name."""
        match future.schedule:
            case history.SubOrchestrationScheduled(instance=child):
                self.dropped_children[future.event_id] = child
            case history.QueueSubscribed(name=name):
                self.queues[name].leave(future)
            case history.ExternalSubscribed(name=name):
                self.events[name].leave(future)
            case _:
                pass
        return breadcrumb(future.schedule, future.event_id, reason)

    # Checks.

    def _check_payload(self, what: str, text: str) -> None:
        size = utf8_bytes(text)
        if size > self.limits.payload_bytes:
            raise LimitExceeded(what, size, self.limits.payload_bytes)

    def _check_name(self, what: str, text: str) -> None:
        _check_text(what, text)
        if utf8_bytes(text) > self.limits.name_bytes:
            raise LimitExceeded(what, utf8_bytes(text), self.limits.name_bytes)

    def _check_column(self, what: str, text: str) -> None:
        """A name that a store keeps as it is, in a column: not every text can be one."""
        self._check_name(what, text)
        _check_storable(what, text)

    def _check_optional(self, what: str, text: str | None) -> None:
        if text is not None:
            self._check_column(what, text)

    # Commands.

    def activity(
        self,
        name: str,
        input_text: str,
        *,
        decode: Decode | None = None,
        tag: str | None = None,
        session_id: str | None = None,
    ) -> ScheduledFuture[Any]:
        self._check_name("Activity name", name)
        self._check_optional("Session id", session_id)
        self._check_payload(f"Input of activity '{name}'", input_text)
        self._check_tag(name, tag)
        kind = history.ActivityScheduled(
            name=name, input=input_text, session_id=session_id, tag=tag
        )
        return self._schedule(kind, decode)

    def _check_tag(self, name: str, tag: str | None) -> None:
        if tag == "":
            raise ValueError(
                f"Activity '{name}' has an empty tag: leave it out, or name a pool of workers"
            )
        if tag is None:
            return
        _check_text(f"Tag of activity '{name}'", tag)
        _check_storable(f"Tag of activity '{name}'", tag)
        if utf8_bytes(tag) > self.limits.tag_bytes:
            raise LimitExceeded(
                f"Activity '{name}' tag size", utf8_bytes(tag), self.limits.tag_bytes
            )

    def retag(self, future: ScheduledFuture[Any], tag: str | None) -> None:
        """Change the tag of an activity that was scheduled in this very run.

        Raises:
            ValueError: it is not an activity, or was sent off already.
        """
        index = future.event_id - self.last_id - 1
        kind = future.schedule
        if not isinstance(kind, history.ActivityScheduled):
            raise ValueError("only an activity can have a tag")
        if index < 0 or index >= len(self.commands):
            raise ValueError("the activity was sent off; tag it before anything is awaited")
        self._check_tag(kind.name, tag)
        future.schedule = replace(kind, tag=tag)
        self.commands[index] = future.schedule

    def timer(self, delay_ms: float) -> ScheduledFuture[None]:
        delay_ms = delay_ms if isinstance(delay_ms, int) else _whole(delay_ms)
        if delay_ms < 0:
            raise ValueError(f"a timer of {delay_ms} ms: the delay can't be negative")
        if self.now_ms + delay_ms > LAST_MS:
            raise ValueError(f"a timer of {delay_ms} ms would fire after the year 9999")
        return self._schedule(
            history.TimerCreated(fire_at_ms=self.now_ms + delay_ms, delay_ms=delay_ms), None
        )

    def deadline(self, delay_ms: int) -> ScheduledFuture[None]:
        """The engine's own timer, at the end of which cleaning up ends; no limit forbids it."""
        kind = history.TimerCreated(fire_at_ms=self.now_ms + delay_ms, delay_ms=delay_ms)
        event_id = self._append(kind, event_bytes(kind))
        future = self.open[event_id] = ScheduledFuture(self, event_id, kind, None)
        return future

    def external_event(
        self, name: str, decode: Decode | None, *, buffered: bool = False
    ) -> ScheduledFuture[Any]:
        self._check_name("Event name", name)
        future = self._schedule(history.ExternalSubscribed(name=name, buffered=buffered), decode)
        data = self.events.take(name, future) if buffered else None
        self._deliver_or_wait(future, data, self.events, name)
        return future

    def queue_read(self, name: str, decode: Decode | None) -> ScheduledFuture[Any]:
        self._check_name("Queue name", name)
        future = self._schedule(history.QueueSubscribed(name=name), decode)
        self._deliver_or_wait(future, self.queues.take(name, future), self.queues, name)
        return future

    def _deliver_or_wait(
        self, future: ScheduledFuture[Any], data: str | None, boxes: Mailboxes, name: str
    ) -> None:
        if data is None:
            boxes[name].wait(future)
        else:
            del self.open[future.event_id]
            future.settle_with_text(data)

    def _check_start(self, name: str, instance: str | None, version: str | None) -> None:
        self._check_column("Orchestration name", name)
        self._check_optional("Orchestration version", version)
        self._check_optional("Instance id", instance)
        if instance == "":
            raise ValueError("Instance id is empty")

    def child(
        self,
        name: str,
        input_text: str,
        *,
        instance: str | None = None,
        version: str | None = None,
        decode: Decode | None = None,
    ) -> ScheduledFuture[Any]:
        """Start a child; without `instance` it is named after this execution and event.

        Raises:
            ValueError: the id begins with the marker of ids that the engine gives.
        """
        self._check_start(name, instance, version)
        self._check_payload(f"Input of sub-orchestration '{name}'", input_text)
        if instance is None:
            number = self.history_length + 1
            prefix = "" if self.execution_id == 1 else f"{self.execution_id}_"
            instance = f"{CHILD_MARKER}{prefix}{number}"
        elif instance.startswith(CHILD_MARKER):
            raise ValueError(
                f"sub-orchestration instance id '{instance}' starts with the reserved marker "
                f"'{CHILD_MARKER}', which the runtime uses to mark auto-generated child ids; use an "
                "id that does not begin with it"
            )
        kind = history.SubOrchestrationScheduled(
            name=name, instance=instance, input=input_text, version=version
        )
        return self._schedule(kind, decode)

    def detached(self, name: str, instance: str, input_text: str, version: str | None) -> None:
        """Start an orchestration that this one has nothing more to do with."""
        _check_text("Instance id", instance)
        self._check_start(name, instance, version)
        self._check_payload(f"Input of orchestration '{name}'", input_text)
        if instance.startswith(CHILD_MARKER) or f"::{CHILD_MARKER}" in instance:
            raise ValueError(
                f"detached orchestration instance id '{instance}' uses the reserved "
                f"sub-orchestration marker '{CHILD_MARKER}'; root instance ids must not start with "
                f"it or contain '::{CHILD_MARKER}'"
            )
        self.emit(
            history.OrchestrationChained(
                name=name, instance=instance, input=input_text, version=version
            )
        )

    def set_custom_status(self, status: str | None) -> None:
        if status is not None and utf8_bytes(status) > self.limits.custom_status_bytes:
            raise LimitExceeded(
                "Custom status size", utf8_bytes(status), self.limits.custom_status_bytes
            )
        _check_storable("Custom status", status)
        self.emit(history.CustomStatusUpdated(status=status))
        self.custom_status = status

    def set_key_value(self, key: str, value: str) -> None:
        limits = self.limits
        self._check_column("KV key", key)
        _check_storable(f"KV value for key '{key}'", value)
        if utf8_bytes(value) > limits.kv_value_bytes:
            raise LimitExceeded(
                f"KV value for key '{key}'", utf8_bytes(value), limits.kv_value_bytes
            )
        if key not in self.key_values and len(self.key_values) >= limits.kv_keys:
            raise LimitExceeded("KV key count", len(self.key_values) + 1, limits.kv_keys, "")
        self.emit(history.KeyValueSet(key=key, value=value, last_updated_at_ms=self.now_ms))
        self.key_values[key] = KeyValue(value=value, updated_at_ms=self.now_ms)

    def clear_key_value(self, key: str) -> None:
        self._check_column("KV key", key)
        self.emit(history.KeyValueCleared(key=key))
        self.key_values.pop(key, None)

    def clear_key_values(self) -> None:
        self.emit(history.KeyValuesCleared())
        self.key_values.clear()

    def patched(self, patch_id: str) -> bool:
        """Whether the code takes the new way; decided once in an execution."""
        known = self._patches.get(patch_id)
        if known is None:
            known = self._patches[patch_id] = self._decide_patch(patch_id)
        return known

    def _decide_patch(self, patch_id: str) -> bool:
        self._check_asker()
        self._check_name("Patch id", patch_id)
        marker = history.PatchMarked(patch_id=patch_id)
        if self.is_replaying:
            index = self.history_length  # of the event that comes next
            if index >= len(self._recorded) or self._recorded[index].kind != marker:
                return False
        self.emit(marker)
        return True

    def continue_as_new(self, input_text: str, version: str | None) -> NoReturn:
        """End this execution when the run has come to rest; the first call counts."""
        self._check_asker()
        self._check_payload("Input of the next execution", input_text)
        self._check_optional("Orchestration version", version)
        unread = len(self.queues.unread())
        if unread > self.limits.carry_forward_events:
            raise LimitExceeded(
                "Unread queue messages", unread, self.limits.carry_forward_events, "messages"
            )
        if self.continuation is None:
            self.continuation = Continuation(input_text, version)
        raise ContinueAsNewRequested

    def project(self, text: str) -> None:
        """Hand a text to the store's commit hook, with what this turn commits."""
        self.check_open()
        if not self.is_replaying:
            self.projections.append(text)

    def forget_recorded(self) -> None:
        """Replay is over: what comes next is new."""
        self.is_replaying = False
        self._recorded = ()


def _takes_earlier(future: DurableFuture[Any]) -> bool:
    """It is a read or a wait that also takes what came before it was there."""
    schedule = getattr(future, "schedule", None)
    return isinstance(schedule, history.QueueSubscribed) or (
        isinstance(schedule, history.ExternalSubscribed) and schedule.buffered
    )


def _check_text(what: str, text: object) -> None:
    """Refuse what no annotation stopped: it would be written into a history that can't be read."""
    if not isinstance(text, str):
        raise TypeError(f"{what} is {text!r}: it has to be a str")


def _check_storable(what: str, text: str | None) -> None:
    flaw = None if text is None else flaw_of(text)
    if flaw is not None:
        raise ValueError(f"{what} contains {flaw}: no store can keep it")


def _whole(delay_ms: float) -> int:
    """A delay that is no integer, to the millisecond."""
    try:
        return round(delay_ms)
    except (OverflowError, ValueError):  # infinite, or not a number
        raise ValueError(f"a timer of {delay_ms} ms: that is no length of time") from None
    except TypeError:
        raise TypeError(f"a timer of {delay_ms!r}: the delay is a number of milliseconds") from None
