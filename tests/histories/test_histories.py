"""What any release recorded replays with the code of today, and means the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from duroxide import history
from duroxide.codec import decode_events, encode_event, event_tag
from duroxide.registry import Registry
from duroxide.testing.replay import assert_replays
from tests.histories.orchestrations import DEFINITIONS, play
from tests.histories.record import HERE

FILES = sorted(HERE.glob("*/*.jsonl"))
REGISTRY = Registry().add(*DEFINITIONS)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_recorded_history_replays_and_is_written_as_it_was(path: Path) -> None:
    events = decode_events(lines(path))
    started: Any = events[0].kind
    code = REGISTRY.orchestration(started.name, started.version)
    assert code is not None
    assert_replays(events, code)
    assert [encode_event(e) for e in events] == lines(path)


def test_the_histories_hold_every_kind_of_event() -> None:
    found = {type(e.kind) for path in FILES for e in decode_events(lines(path))}
    every: tuple[type[Any], ...] = history.EventKind.__args__
    assert {cls.__name__ for cls in set(every) - found} == set()
    assert all(event_tag(e.kind) for e in decode_events(lines(FILES[0])))


def test_todays_engine_records_the_same_as_the_newest_release() -> None:
    """A difference is a new release's business: new files, and a line in the change log."""
    newest = max({p.parent.name for p in FILES}, key=lambda v: tuple(map(int, v.split("."))))
    for name, handle in play().items():
        for number, events in enumerate(handle.executions, 1):
            recorded = decode_events(lines(HERE / newest / f"{name}.{number}.jsonl"))
            assert [_shape(e) for e in events] == [_shape(e) for e in recorded]


def _shape(event: history.Event) -> tuple[int, str]:
    return event.event_id, event_tag(event.kind)
