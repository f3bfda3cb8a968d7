"""What text a store can keep: Unicode without lone surrogates and without NUL.

Every store refuses the same, so that what works on one works on all.
"""

from __future__ import annotations

from collections.abc import Iterator

from duroxide.providers.base import CommitItem, CommitTurn, Enqueue, FinishActivity, Message
from duroxide.state import ClearKeyValue, SetKeyValue


def unstorable(item: CommitItem) -> str | None:
    """Why a store must refuse the item, or None."""
    for what, text in _texts(item):
        if "\0" in text:
            return f"{what} contains a NUL character"
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                return f"{what} contains a lone surrogate"
    return None


def _texts(item: CommitItem) -> Iterator[tuple[str, str]]:
    match item:
        case CommitTurn():
            yield from _turn_texts(item)
        case FinishActivity(completion=Message() as message) | Enqueue(message=message):
            yield from _message_texts(message)
        case _:
            return


def _message_texts(message: Message) -> Iterator[tuple[str, str]]:
    yield "an instance id", message.instance_id
    yield "a message", message.body


def _turn_texts(turn: CommitTurn) -> Iterator[tuple[str, str]]:
    for event in turn.events:
        yield "an event", event
    if turn.new_execution is not None:
        yield "an orchestration name", turn.new_execution.name
        yield "an orchestration version", turn.new_execution.version
    if turn.output is not None:
        yield "an output", turn.output
    for activity in turn.activities:
        yield "an activity", activity.body
        yield "a tag", activity.tag or ""
        yield "a session id", activity.session_id or ""
    for message in turn.messages:
        yield from _message_texts(message)
    if turn.custom_status is not None and turn.custom_status.status is not None:
        yield "a custom status", turn.custom_status.status
    for change in turn.key_values:
        match change:
            case SetKeyValue(key=key, value=value):
                yield "a key", key
                yield "a value", value
            case ClearKeyValue(key=key):
                yield "a key", key
            case _:
                pass
