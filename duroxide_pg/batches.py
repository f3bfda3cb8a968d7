"""A batch of commit items as the columns of `commit_v1`, and its answer as results."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from duroxide.ids import ActivityToken, InstanceId
from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    Activity,
    CommitCode,
    CommitItem,
    CommitResult,
    CommitTurn,
    EagerDispatch,
    Enqueue,
    FinishActivity,
    LeasedActivity,
    Message,
)
from duroxide.providers.eager import EagerChoice
from duroxide.state import ClearKeyValue, ClearKeyValues, SetKeyValue
from duroxide.version import SemVer
from duroxide_pg.arrays import Numbers, Texts
from duroxide_pg.rows import join_events
from duroxide_pg.tokens import activity_token, split_activity_token, split_turn_token

MAX_ITEMS = 256
MAX_CHARACTERS = 4_000_000
BUSY = 5
"""The code of a turn that the commit hook refused because somebody has locked its rows."""

_TEXT_COLUMNS = [
    "t_instance",
    "t_nonce",
    "t_events",
    "t_key",
    "t_name",
    "t_version",
    "t_parent",
    "t_status",
    "t_output",
    "t_custom",
    "t_projection",
    "c_instance",
    "d_instance",
    "d_reason",
    "a_instance",
    "a_body",
    "a_tag",
    "a_session",
    "n_instance",
    "f_instance",
    "f_nonce",
    "f_turn",
    "m_turn",
    "m_instance",
    "m_body",
    "r_instance",
    "k_instance",
    "k_key",
    "k_value",
    "k_cleared",
    "x_instance",
    "x_nonce",
    "y_instance",
    "y_nonce",
]
_NUMBER_COLUMNS = [
    "t_execution",
    "t_first",
    "t_last",
    "t_pin",
    "t_keep",
    "t_custom_set",
    "c_id",
    "a_execution",
    "a_activity",
    "a_eager",
    "n_execution",
    "n_activity",
    "f_id",
    "m_finish",
    "m_kind",
    "m_visible",
    "m_timer_execution",
    "m_timer",
    "r_execution",
    "r_timer",
    "k_time",
    "x_delay",
    "x_count",
    "y_id",
    "y_delay",
    "y_count",
]

_Item = TypeVar("_Item")


def pack_version(version: SemVer) -> int:
    """A release as one number that sorts like it; minor and patch have 20 bits each, the major one 22."""
    return (
        min(version.major, 0x3FFFFF) << 40
        | min(version.minor, 0xFFFFF) << 20
        | min(version.patch, 0xFFFFF)
    )


@dataclass(slots=True)
class Batch:
    """Items that can go in one call: at most one lease each of an instance or activity."""

    items: list[CommitItem]
    eager: EagerChoice | None
    columns: dict[str, Texts | Numbers] = field(default_factory=dict)
    turns: list[CommitTurn] = field(default_factory=list)
    finishes: list[tuple[ActivityToken, CommitTurn | None]] = field(default_factory=list)
    abandoned_turns: list[AbandonTurn] = field(default_factory=list)
    abandoned_activities: list[AbandonActivity] = field(default_factory=list)
    eager_activities: list[tuple[CommitTurn, Activity]] = field(default_factory=list)
    unhooked: str | None = None  # why it goes without the commit hook, if it does

    def __post_init__(self) -> None:
        texts: dict[str, Texts | Numbers] = {name: Texts() for name in _TEXT_COLUMNS}
        self.columns = {**texts, **{name: Numbers() for name in _NUMBER_COLUMNS}}
        # Sorted, so that two batches take the rows of a table in the same order.
        self.turns = sorted(_of(CommitTurn, self.items), key=lambda turn: turn.instance_id)
        self.abandoned_turns = sorted(
            _of(AbandonTurn, self.items), key=lambda item: item.instance_id
        )
        self.abandoned_activities = sorted(
            _of(AbandonActivity, self.items), key=lambda item: _row_of(item.token)
        )
        endings: list[tuple[ActivityToken, CommitTurn | None]] = [
            (item.token, None) for item in _of(FinishActivity, self.items)
        ]
        endings += [(token, turn) for turn in self.turns for token in turn.finished]
        self.finishes = sorted(endings, key=lambda ending: _row_of(ending[0]))
        self._fill()

    @property
    def worker(self) -> str:
        return self.eager.offer.worker if self.eager is not None else ""

    @property
    def eager_lease_ms(self) -> int:
        return self.eager.offer.lease_ms if self.eager is not None else 0

    # From items to columns.

    def _fill(self) -> None:
        for turn in self.turns:
            self._add_turn(turn)
        for token, by_turn in self.finishes:
            nonce, number, instance_id = split_activity_token(token)
            self._row("f", instance=instance_id, id=number, nonce=nonce)
            self._row("f", turn=by_turn.instance_id if by_turn is not None else None)
        ordinals = {token: place for place, (token, _) in enumerate(self.finishes, start=1)}
        for item in self.items:
            match item:
                case CommitTurn():
                    for message in item.messages:
                        self._add_message(message, turn=item.instance_id)
                case FinishActivity(completion=Message() as completion):
                    self._add_message(completion, finish=ordinals[item.token])
                case Enqueue(message=message):
                    self._add_message(message)
                case _:
                    pass
        for abandoned in self.abandoned_turns:
            nonce, _ = split_turn_token(abandoned.token)
            self._row("x", instance=abandoned.instance_id, nonce=nonce)
            self._row("x", delay=abandoned.delay_ms, count=int(abandoned.count_attempt))
        for given_back in self.abandoned_activities:
            nonce, number, instance_id = split_activity_token(given_back.token)
            self._row("y", instance=instance_id, id=number, nonce=nonce)
            self._row("y", delay=given_back.delay_ms, count=int(given_back.count_attempt))

    def _row(self, table: str, **values: str | int | None) -> None:
        for name, value in values.items():
            self.columns[f"{table}_{name}"].append(value)  # type: ignore[arg-type]  # by its column

    def _add_turn(self, turn: CommitTurn) -> None:
        new = turn.new_execution
        instance_id, execution_id = turn.instance_id, turn.execution_id
        self._row(
            "t",
            instance=instance_id,
            nonce=split_turn_token(turn.token)[0],
            execution=execution_id,
            first=turn.first_event_id,
            last=turn.first_event_id + len(turn.events) - 1,
            events=join_events(turn.events) if turn.events else None,
            key=_fingerprint(turn),
            name=new.name if new is not None else None,
            version=new.version if new is not None else None,
            pin=pack_version(new.engine_version) if new is not None else None,
            parent=new.parent_instance_id if new is not None else None,
            status=turn.status.value,
            output=turn.output,
            keep=turn.keep_lease_ms,
            custom_set=int(turn.custom_status is not None),
            custom=turn.custom_status.status if turn.custom_status is not None else None,
            projection=f"[{','.join(turn.projections)}]" if turn.projections else None,
        )
        for message_id in turn.consumed:
            self._row("c", instance=instance_id, id=message_id)
        if turn.bury is not None:
            self._row("d", instance=instance_id, reason=turn.bury)
        self._add_activities(turn)
        for event_id in turn.cancelled_timers:
            self._row("r", instance=instance_id, execution=execution_id, timer=event_id)
        self._add_key_values(turn)

    def _add_activities(self, turn: CommitTurn) -> None:
        dropped = set(turn.cancelled_activities)
        for activity in turn.activities:
            if activity.activity_id in dropped:  # scheduled and dropped in one turn: nothing
                dropped.discard(activity.activity_id)
                continue
            is_eager = self.eager is not None and self.eager.takes(activity)
            if is_eager:
                self.eager_activities.append((turn, activity))
            self._row(
                "a",
                instance=turn.instance_id,
                execution=activity.execution_id,
                activity=activity.activity_id,
                body=activity.body,
                tag=activity.tag,
                session=activity.session_id,
                eager=int(is_eager),
            )
        for event_id in sorted(dropped):
            self._row(
                "n", instance=turn.instance_id, execution=turn.execution_id, activity=event_id
            )

    def _add_message(
        self, message: Message, *, turn: InstanceId | None = None, finish: int | None = None
    ) -> None:
        execution_id, timer_id = message.timer if message.timer is not None else (None, None)
        self._row(
            "m",
            turn=turn,
            finish=finish,
            instance=message.instance_id,
            kind=int(message.kind),
            body=message.body,
            visible=message.visible_at_ms,
            timer_execution=execution_id,
            timer=timer_id,
        )

    def _add_key_values(self, turn: CommitTurn) -> None:
        net: dict[str, SetKeyValue | None] = {}
        is_cleared = False
        for change in turn.key_values:
            match change:
                case SetKeyValue(key=key):
                    net[key] = change
                case ClearKeyValue(key=key):
                    net[key] = None
                case ClearKeyValues():
                    net, is_cleared = {}, True
        if is_cleared:
            self.columns["k_cleared"].append(turn.instance_id)  # type: ignore[arg-type]  # Texts
        for key, last in sorted(net.items()):
            self._row("k", instance=turn.instance_id, key=key)
            self._row("k", value=last.value if last is not None else None)
            self._row("k", time=last.updated_at_ms if last is not None else 0)

    # From the answer to results.

    def results(self, answer: Answer, nonce: str) -> list[CommitResult]:
        """One result per item, in order; a turn's code may be `BUSY`, which is no `CommitCode`."""
        codes: dict[int, int] = {}
        codes.update(_codes(self.turns, answer.turn_codes))
        codes.update(_codes(self.abandoned_turns, answer.abandoned_turn_codes))
        codes.update(_codes(self.abandoned_activities, answer.abandoned_activity_codes))
        lost = {
            token
            for (token, _), code in zip(self.finishes, answer.finish_codes, strict=False)
            if code
        }
        eager = self._leased(answer, codes, nonce)
        return [self._result(item, codes, lost, eager) for item in self.items]

    def _result(
        self,
        item: CommitItem,
        codes: Mapping[int, int],
        lost: set[ActivityToken],
        eager: Mapping[int, list[LeasedActivity]],
    ) -> CommitResult:
        match item:
            case Enqueue():
                return CommitResult(code=CommitCode.APPLIED)
            case FinishActivity(token=token):
                is_lost = token in lost
                return CommitResult(code=CommitCode.LEASE_LOST if is_lost else CommitCode.APPLIED)
            case CommitTurn() if codes[id(item)] == CommitCode.REFUSED:
                return CommitResult(
                    code=CommitCode.REFUSED,
                    error="the first turn of an execution must describe it",
                )
            case _ if codes[id(item)] == BUSY:
                return CommitResult(code=CommitCode.LEASE_LOST)  # until it has been sent alone
            case _:
                return CommitResult(
                    code=CommitCode(codes[id(item)]), activities=tuple(eager.get(id(item), ()))
                )

    def _leased(
        self, answer: Answer, codes: Mapping[int, int], nonce: str
    ) -> dict[int, list[LeasedActivity]]:
        """The activities that came leased, by their turn. Ids come in the order of insertion."""
        taken = [(turn, a) for turn, a in self.eager_activities if codes[id(turn)] == 0]
        leased: dict[int, list[LeasedActivity]] = {}
        if len(taken) != len(answer.eager_ids):  # a repeated batch, of which some are gone by now
            return leased
        for (turn, activity), number in zip(taken, answer.eager_ids, strict=True):
            leased.setdefault(id(turn), []).append(
                LeasedActivity(
                    instance_id=turn.instance_id,
                    execution_id=activity.execution_id,
                    activity_id=activity.activity_id,
                    token=activity_token(nonce, number, turn.instance_id),
                    expires_at_ms=answer.now_ms + self.eager_lease_ms,
                    attempt_count=1,
                    body=activity.body,
                    tag=activity.tag,
                    session_id=None,
                )
            )
        return leased


@dataclass(frozen=True, slots=True)
class Answer:
    """The row that `commit_v1` returns; an empty list of codes means that all were applied."""

    turn_codes: Sequence[int]
    finish_codes: Sequence[int]
    abandoned_turn_codes: Sequence[int]
    abandoned_activity_codes: Sequence[int]
    eager_ids: Sequence[int]
    is_repeated: bool
    has_more: bool
    now_ms: int

    @classmethod
    def of(cls, row: Sequence[Any]) -> Answer:
        turns, finishes, abandoned_turns, abandoned_activities, eager_ids = (
            column or () for column in row[:5]
        )
        return cls(turns, finishes, abandoned_turns, abandoned_activities, eager_ids, *row[5:])


def split(items: Sequence[CommitItem], eager: EagerDispatch | None) -> Iterator[Batch]:
    """Batches that hold the items in order, none with two items that depend on one lease."""
    group: list[CommitItem] = []
    leases: set[str] = set()
    characters, choice = 0, None if eager is None else EagerChoice(eager)
    for item in items:
        needed = _leases_of(item)
        characters += _size(item)
        if group and (
            not leases.isdisjoint(needed) or len(group) == MAX_ITEMS or characters > MAX_CHARACTERS
        ):
            yield Batch(group, choice)
            group, leases, characters = [], set(), _size(item)
        group.append(item)
        leases |= needed
    if group:
        yield Batch(group, choice)


def _of(kind: type[_Item], items: Sequence[CommitItem]) -> list[_Item]:
    return [item for item in items if isinstance(item, kind)]


def _row_of(token: ActivityToken) -> tuple[str, int]:
    _, number, instance_id = split_activity_token(token)
    return instance_id, number


def _codes(items: Sequence[object], codes: Sequence[int]) -> Iterator[tuple[int, int]]:
    for place, item in enumerate(items):
        yield id(item), codes[place] if codes else 0


def _leases_of(item: CommitItem) -> set[str]:
    match item:
        case CommitTurn(instance_id=instance_id, finished=finished):
            return {f"i:{instance_id}", *finished}
        case AbandonTurn(instance_id=instance_id):
            return {f"i:{instance_id}"}
        case FinishActivity(token=token) | AbandonActivity(token=token):
            return {token}
        case _:
            return set()


def _size(item: CommitItem) -> int:
    match item:
        case CommitTurn():
            return (
                sum(map(len, item.events))
                + sum(len(activity.body) for activity in item.activities)
                + sum(len(message.body) for message in item.messages)
            )
        case FinishActivity(completion=Message() as message) | Enqueue(message=message):
            return len(message.body)
        case _:
            return 0


def _fingerprint(turn: CommitTurn) -> str:
    """Names a turn, so that the same one sent again is recognised."""
    parts = (
        turn.token,
        turn.execution_id,
        turn.first_event_id,
        len(turn.events),
        turn.consumed,
        turn.finished,
    )
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=12).digest()
    return base64.b64encode(digest).decode()
