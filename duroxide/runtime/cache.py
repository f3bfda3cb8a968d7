"""Live executions, kept between turns so that a hot turn costs only its new messages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from duroxide.engine.run import Run
from duroxide.history import Event
from duroxide.ids import ExecutionId, InstanceId
from duroxide.providers.base import Cursor, LeasedTurn
from duroxide.registry import OrchestrationDef
from duroxide.state import KeyValue


@dataclass(slots=True, eq=False, kw_only=True)
class Live:
    """An execution in memory, exactly as far as the store has recorded it."""

    instance_id: InstanceId
    execution_id: ExecutionId
    definition: OrchestrationDef[..., Any]
    run: Run
    key_values: Mapping[str, KeyValue]  # as the execution began
    prepared: object
    began_ms: int  # the first event's time
    parent: tuple[InstanceId, ExecutionId] | None  # who waits for it
    events: list[Event] = field(default_factory=list)  # kept only to be verified
    incarnation: str = ""  # the same id may have been deleted and started again meanwhile

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.execution_id, self.run.next_event_id - 1, self.incarnation)


class LiveCache(Mapping[InstanceId, Cursor]):
    """Least recently used first out; as a mapping, how far each execution is.

    An execution leaves the cache while a turn runs on it, and comes back only when that turn is known
    to be durable: memory is never ahead of the store between turns.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._live: OrderedDict[InstanceId, Live] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[InstanceId]:
        return iter(self._live)

    def __getitem__(self, instance_id: InstanceId) -> Cursor:
        return self._live[instance_id].cursor

    def take(self, leased: LeasedTurn) -> Live | None:
        """The execution as the store has it, if it is here; another one, or one behind, is dropped."""
        live = self._live.pop(leased.instance_id, None)
        if live is None:
            return None
        stored = Cursor(leased.execution_id, leased.next_event_id - 1, leased.incarnation)
        if live.cursor != stored:
            live.run.park()
            return None
        return live

    def keep(self, live: Live) -> int:
        """Keep it, and return how many were dropped to make room."""
        self.forget(live.instance_id)
        self._live[live.instance_id] = live
        if len(self._live) <= self._size:
            return 0
        _, oldest = self._live.popitem(last=False)
        oldest.run.park()
        return 1

    def forget(self, instance_id: InstanceId) -> None:
        live = self._live.pop(instance_id, None)
        if live is not None:
            live.run.park()

    def clear(self) -> None:
        for live in self._live.values():
            live.run.park()
        self._live.clear()
