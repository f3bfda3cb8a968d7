"""What passes a seal on the way into a store and back: texts, and what carries them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from duroxide.errors import CodecError
from duroxide.providers.base import (
    Activity,
    CommitItem,
    CommitTurn,
    Enqueue,
    FinishActivity,
    InstanceStatus,
    LeasedActivity,
    LeasedTurn,
    Message,
)
from duroxide.state import KeyValue, KeyValueChange, SetCustomStatus, SetKeyValue

_CLEAR = (
    "event_id", "source_event_id", "instance_id", "execution_id", "timestamp_ms", "duroxide_version",
    "type", "name", "version", "instance", "key", "fire_at_ms", "delay_ms", "tag", "session_id",
)  # fmt: skip
_SEALED = "sealed"
_MARK = '{"sealed":"'


class Seal(Protocol):
    """What is done to texts on their way into the store, and undone on their way out.

    It runs on the event loop, for every event and message: it must be quick and do no I/O. The same
    seal, or one that opens what the other sealed, belongs in every worker and client of a store.
    """

    def seal(self, data: bytes) -> bytes:
        """Encrypt, compress or both; may give something else each time."""
        ...

    def open(self, data: bytes) -> bytes:
        """The bytes that were sealed.

        Raises:
            Exception: they can't be had (another key, damage). What needs them waits and is tried
                again, as anything that can't be read.
        """
        ...


class SealedTexts:
    """Closes what goes into the store and opens what comes out of it."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    # One text.

    def close(self, text: str) -> str:
        sealed = base64.b64encode(self._seal.seal(text.encode())).decode("ascii")
        return f'{_MARK}{sealed}"}}'

    def open(self, text: str) -> str:
        """The text itself; one that was never sealed is returned as it is.

        Raises:
            CodecError: the seal can't open it.
        """
        if _SEALED not in text or not text.startswith("{"):
            return text
        try:
            sealed = json.loads(text).get(_SEALED)
        except ValueError:
            return text
        if not isinstance(sealed, str):
            return text
        try:
            return self._seal.open(base64.b64decode(sealed, validate=True)).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise CodecError(f"a sealed text is damaged: {error}") from error
        except Exception as error:
            raise CodecError(
                f"a sealed text can't be opened ({type(error).__name__}): does this process have the "
                "seal that it was written with?"
            ) from error

    def close_optional(self, text: str | None) -> str | None:
        return None if text is None else self.close(text)

    def open_optional(self, text: str | None) -> str | None:
        return None if text is None else self.open(text)

    def open_or_leave(self, text: str) -> str:
        """Who reads it is told that it can't be read, and nobody else is disturbed."""
        try:
            return self.open(text)
        except CodecError:
            return text

    def close_event(self, text: str) -> str:
        """The whole event sealed, with what tools look at beside it."""
        event = json.loads(text)
        clear = {name: event[name] for name in _CLEAR if name in event}
        sealed = base64.b64encode(self._seal.seal(text.encode())).decode("ascii")
        return json.dumps({**clear, _SEALED: sealed}, ensure_ascii=False, separators=(",", ":"))

    # What goes in.

    def close_message(self, message: Message) -> Message:
        return replace(message, body=self.close(message.body))

    def close_activity(self, activity: Activity) -> Activity:
        return replace(activity, body=self.close(activity.body))

    def close_item(self, item: CommitItem) -> CommitItem:
        match item:
            case CommitTurn():
                return self._close_turn(item)
            case FinishActivity(completion=Message() as completion):
                return replace(item, completion=self.close_message(completion))
            case Enqueue(message=message):
                return replace(item, message=self.close_message(message))
            case _:
                return item

    def _close_turn(self, turn: CommitTurn) -> CommitTurn:
        status = turn.custom_status
        if status is not None:
            status = SetCustomStatus(status=self.close_optional(status.status))
        return replace(
            turn,
            events=tuple(map(self.close_event, turn.events)),
            output=self.close_optional(turn.output),
            activities=tuple(map(self.close_activity, turn.activities)),
            messages=tuple(map(self.close_message, turn.messages)),
            custom_status=status,
            key_values=tuple(map(self._close_change, turn.key_values)),
        )

    def _close_change(self, change: KeyValueChange) -> KeyValueChange:
        if isinstance(change, SetKeyValue):
            return replace(change, value=self.close(change.value))
        return change

    # What comes out.

    def open_turn(self, turn: LeasedTurn) -> LeasedTurn:
        messages = tuple(replace(m, body=self.open_or_leave(m.body)) for m in turn.messages)
        try:
            history = tuple(map(self.open, turn.history))
            key_values = self.open_values(turn.key_values)
        except CodecError as error:
            return replace(turn, messages=messages, history=(), history_error=str(error))
        return replace(turn, messages=messages, history=history, key_values=key_values)

    def open_activity(self, activity: LeasedActivity) -> LeasedActivity:
        heartbeat = activity.heartbeat
        return replace(
            activity,
            body=self.open_or_leave(activity.body),
            heartbeat=None if heartbeat is None else self.open_or_leave(heartbeat),
        )

    def open_values(self, values: Mapping[str, KeyValue]) -> dict[str, KeyValue]:
        return {k: replace(v, value=self.open(v.value)) for k, v in values.items()}

    def open_state(self, state: InstanceStatus) -> InstanceStatus:
        return replace(
            state,
            output=self.open_optional(state.output),
            custom_status=self.open_optional(state.custom_status),
        )
