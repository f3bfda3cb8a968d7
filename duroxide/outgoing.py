"""What clients send: starts, signals and cancellations as the messages that a store takes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from duroxide import work
from duroxide.engine.breadcrumbs import CHILD_MARKER
from duroxide.errors import ClientError
from duroxide.ids import InstanceId
from duroxide.payload import Codec
from duroxide.providers.base import Enqueue, Message
from duroxide.providers.text import unstorable
from duroxide.registry import OrchestrationDef
from duroxide.routing import message_of
from duroxide.storable import flaw_of

IfExists: TypeAlias = Literal["ignore", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """An event for an orchestration: raised (whoever waits now) or queued (kept until taken)."""

    name: str
    data: Any = None
    queued: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """Start an instance, as `AsyncClient.start` does; with the signal or not at all."""

    orchestration: OrchestrationDef[..., Any] | str
    args: tuple[Any, ...] = ()
    instance_id: InstanceId | None = None  # a new UUID
    version: str | None = None
    if_exists: IfExists = "ignore"
    signal: Signal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalRequest:
    """Raise an event, or put a message into a queue."""

    instance_id: InstanceId
    signal: Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequest:
    instance_id: InstanceId
    reason: str = ""


Request: TypeAlias = StartRequest | SignalRequest | CancelRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of one of many requests."""

    instance_id: InstanceId | None  # None: it could not even be named
    error: Exception | None = None  # nothing of this request was written

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True, slots=True)
class Letter:
    """The messages of one request, which are written together or not at all."""

    instance_id: InstanceId
    messages: tuple[Message, ...]


class Composer:
    """Turns requests into messages.

    Args:
        codec: how values become payloads where no orchestration definition says otherwise.

    Every method raises `ClientError` for an id that clients may not use and for text that no store can
    keep, and what the codec raises for values that can't be written.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def compose(self, request: Request) -> Letter:
        match request:
            case StartRequest():
                name, text, version = self.call(
                    request.orchestration, request.args, request.version
                )
                return self.start(name, text, request.instance_id, version, request.signal)
            case SignalRequest():
                return self.signal(request.instance_id, request.signal)
            case CancelRequest():
                return self.cancel(request.instance_id, request.reason)

    def call(
        self,
        orchestration: OrchestrationDef[..., Any] | str,
        args: tuple[Any, ...],
        version: str | None,
    ) -> tuple[str, str, str | None]:
        """The name, the text of the input, and the version; a definition pins its own."""
        if isinstance(orchestration, str):
            value = args[0] if len(args) == 1 else list(args) or None
            return orchestration, self._codec.encode(value), version
        text = orchestration.encode_input(args, {})
        return orchestration.name, text, version or orchestration.version

    def start(
        self,
        name: str,
        text: str,
        instance_id: InstanceId | None,
        version: str | None,
        signal: Signal | None,
    ) -> Letter:
        instance = str(uuid.uuid4()) if instance_id is None else instance_id
        check_text("instance id", instance)
        for what, word in (("orchestration name", name), ("version", version)):
            if what == "version" and word is None:
                continue
            flaw = flaw_of(check_text(what, word))
            if flaw is not None:
                raise ClientError(f"Invalid input: the {what} contains {flaw}")
        if instance.startswith(CHILD_MARKER) or f"::{CHILD_MARKER}" in instance:
            raise ClientError(
                f"Invalid input: instance id '{instance}' uses the reserved sub-orchestration "
                f"marker '{CHILD_MARKER}'"
            )
        items: list[work.OrchestratorItem] = [
            work.StartOrchestration(
                instance=instance, orchestration=name, input=text, version=version
            )
        ]
        if signal is not None:
            items.append(self._signal(instance, signal))
        return _letter(instance, items)

    def signal(self, instance_id: InstanceId, signal: Signal) -> Letter:
        return _letter(instance_id, [self._signal(instance_id, signal)])

    def cancel(self, instance_id: InstanceId, reason: str) -> Letter:
        check_text("reason", reason)
        return _letter(instance_id, [work.CancelInstance(instance=instance_id, reason=reason)])

    def _signal(self, instance_id: InstanceId, signal: Signal) -> work.OrchestratorItem:
        check_text("name of the queue" if signal.queued else "name of the event", signal.name)
        data = self._codec.encode(signal.data)
        if signal.queued:
            return work.QueueMessage(instance=instance_id, name=signal.name, data=data)
        return work.ExternalRaised(instance=instance_id, name=signal.name, data=data)


def check_text(what: str, value: object) -> str:
    """Refuse what no annotation stopped: in a message it would disturb the turn that reads it."""
    if not isinstance(value, str):
        raise ClientError(f"Invalid input: the {what} must be text, not {value!r}")
    return value


def _letter(instance_id: InstanceId, items: Sequence[work.OrchestratorItem]) -> Letter:
    if not check_text("instance id", instance_id):
        raise ClientError("Invalid input: the instance id is empty")
    messages = tuple(map(message_of, items))
    for message in messages:
        problem = unstorable(Enqueue(message=message))
        if problem is not None:
            raise ClientError(f"Invalid input: {problem}")
    return Letter(instance_id, messages)
