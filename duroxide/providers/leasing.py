"""What a worker asks for, and what it is given: turns and activities under leases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from duroxide.ids import ActivityToken, EventId, ExecutionId, InstanceId, MessageId, TurnToken
from duroxide.limits import MAX_WORKER_TAGS
from duroxide.providers.envelopes import MessageKind
from duroxide.state import ExecutionStatus, KeyValue


class TagMode(Enum):
    DEFAULT_ONLY = "default_only"  # untagged
    TAGS = "tags"  # tagged with one of the set
    DEFAULT_AND = "default_and"  # untagged, or tagged with one of the set
    ANY = "any"
    EXCEPT = "except"  # untagged, or tagged with none of the set or below one: `a/b` is below `a`
    NONE = "none"


@dataclass(frozen=True, slots=True)
class TagSelection:
    """Which activities a worker accepts."""

    mode: TagMode = TagMode.DEFAULT_ONLY
    tags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        needs_tags = self.mode in (TagMode.TAGS, TagMode.DEFAULT_AND, TagMode.EXCEPT)
        if needs_tags != bool(self.tags):
            raise ValueError(
                f"tag mode {self.mode.value!r} {'needs' if needs_tags else 'takes no'} tags"
            )
        if len(self.tags) > MAX_WORKER_TAGS and self.mode is not TagMode.EXCEPT:
            raise ValueError(f"{len(self.tags)} worker tags, at most {MAX_WORKER_TAGS} are allowed")

    def accepts(self, tag: str | None) -> bool:
        match self.mode:
            case TagMode.DEFAULT_ONLY:
                return tag is None
            case TagMode.TAGS:
                return tag in self.tags
            case TagMode.DEFAULT_AND:
                return tag is None or tag in self.tags
            case TagMode.ANY:
                return True
            case TagMode.EXCEPT:
                return tag is None or not any(
                    tag == kept_out or tag.startswith(f"{kept_out}/") for kept_out in self.tags
                )
            case TagMode.NONE:
                return False


UNTAGGED = TagSelection()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOwner:
    """Under whose name sessions are claimed, for how long, and how many new ones may be."""

    owner: str
    lease_ms: int
    max_new: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage:
    message_id: MessageId
    kind: MessageKind
    body: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """How much of an instance's history the caller already has."""

    execution_id: ExecutionId
    last_event_id: EventId
    incarnation: str = ""  # as in the turn that the caller had; empty matches any


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedTurn:
    """An instance with something to do, leased to the caller.

    A new instance has no name and version yet, execution 1 and next event 1; the store has made
    nothing for it. `history` holds the events after `history_after` of the current execution, in
    order; `history_after` is 0 (all events) unless the caller's cursor matched.

    `incarnation` names this life of the id: what is deleted and then started again under the same id has
    another one, although its events have the same numbers. A new instance's is the one that it will
    have once this lease's turn is committed.
    """

    instance_id: InstanceId
    token: TurnToken
    expires_at_ms: int
    execution_id: ExecutionId
    next_event_id: EventId
    attempt_count: int  # 1 on first delivery; the largest over the messages
    messages: tuple[ReceivedMessage, ...]  # by message id
    history: tuple[str, ...]
    history_after: EventId = 0
    status: ExecutionStatus = ExecutionStatus.RUNNING
    name: str | None = None
    version: str | None = None
    parent_instance_id: InstanceId | None = None
    key_values: Mapping[str, KeyValue] = field(default_factory=dict)  # as the execution began
    history_error: str | None = None  # the stored text is unreadable; history is then empty
    incarnation: str = ""
    waited_ms: int = 0  # how long its oldest message has been due; 0 where nobody counted


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedActivity:
    instance_id: InstanceId
    execution_id: ExecutionId
    activity_id: EventId
    token: ActivityToken
    expires_at_ms: int
    attempt_count: int  # 1 on first delivery
    body: str
    tag: str | None = None
    session_id: str | None = None
    heartbeat: str | None = None  # the last one of earlier deliveries (heartbeats)
    waited_ms: int = 0  # how long it has been due


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPoll:
    turns: tuple[LeasedTurn, ...]
    now_ms: int  # the store's clock
    next_due_ms: int | None  # when the next message becomes visible, if that is known


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityPoll:
    activities: tuple[LeasedActivity, ...]
    now_ms: int
    next_due_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    lost_turns: frozenset[TurnToken]
    lost_activities: frozenset[ActivityToken]  # cancelled, deleted, or taken over after expiry
    now_ms: int
