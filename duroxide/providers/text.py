"""What text a store can keep: Unicode without lone surrogates and without NUL.

Every store refuses the same, so that what works on one works on all.
"""

from __future__ import annotations

from collections.abc import Iterator

from duroxide.providers.base import CommitItem, CommitTurn, Enqueue, FinishActivity, Message
from duroxide.state import ClearKeyValue, SetKeyValue
from duroxide.storable import flaw_of


def unstorable(item: CommitItem) -> str | None:
    """Why a store must refuse the item, or None."""
    if isinstance(item, CommitTurn) and _is_plain("".join(item.events)):
        texts = _other_texts(item)  # events are most of it, and hardly ever the reason
    else:
        texts = _texts(item)
    for what, text in texts:
        flaw = flaw_of(text)
        if flaw is not None:
            return f"{what} contains {flaw}"
    return None


def _is_plain(text: str) -> bool:
    return text.isascii() and "\0" not in text


def _texts(item: CommitItem) -> Iterator[tuple[str, str]]:
    match item:
        case CommitTurn():
            for event in item.events:
                yield "an event", event
            yield from _other_texts(item)
        case FinishActivity(completion=Message() as message) | Enqueue(message=message):
            yield from _message_texts(message)
        case _:
            return


def _message_texts(message: Message) -> Iterator[tuple[str, str]]:
    yield "an instance id", message.instance_id
    yield "a message", message.body


def _other_texts(turn: CommitTurn) -> Iterator[tuple[str, str]]:
    if turn.new_execution is not None:
        yield "an orchestration name", turn.new_execution.name
        yield "an orchestration version", turn.new_execution.version
    if turn.bury is not None:
        yield "a reason", turn.bury
    if turn.output is not None:
        yield "an output", turn.output
    for activity in turn.activities:
        yield "an activity", activity.body
        if activity.tag is not None:
            yield "a tag", activity.tag
        if activity.session_id is not None:
            yield "a session id", activity.session_id
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
