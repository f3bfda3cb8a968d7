"""What is drawn for the comparison of stores: few values of each kind, so that calls meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from duroxide.providers.base import InstanceQuery, MessageKind, SessionOwner, TagMode, TagSelection
from duroxide.state import (
    ClearKeyValue,
    ClearKeyValues,
    ExecutionStatus,
    SetCustomStatus,
    SetKeyValue,
)
from duroxide.version import SemVer, VersionRange

LEASE_MS = 1_000
INSTANCES = st.sampled_from(["a", "b", "c"])
KINDS = st.sampled_from([MessageKind.EVENT, MessageKind.QUEUE, MessageKind.CANCEL])
STATUSES = st.sampled_from(
    [ExecutionStatus.RUNNING] * 4
    + [ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CONTINUED_AS_NEW]
)
KEYS = st.sampled_from(["k", "l"])
CHANGES = st.lists(
    st.one_of(
        st.builds(
            SetKeyValue, key=KEYS, value=st.text("xyz", max_size=2), updated_at_ms=st.just(1)
        ),
        st.builds(ClearKeyValue, key=KEYS),
        st.just(ClearKeyValues()),
    ),
    max_size=3,
)
TAGS = st.sampled_from([None, None, "gpu"])
SESSIONS = st.sampled_from([None, None, "s", "t"])
SELECTIONS = st.sampled_from(
    [
        TagSelection(),
        TagSelection(TagMode.ANY),
        TagSelection(TagMode.TAGS, frozenset({"gpu"})),
        TagSelection(TagMode.DEFAULT_AND, frozenset({"gpu"})),
    ]
)
OWNERS = st.sampled_from(
    [
        None,
        SessionOwner(owner="ann", lease_ms=1_500, max_new=1),
        SessionOwner(owner="bob", lease_ms=1_500, max_new=9),
    ]
)
DELAYS = st.sampled_from([0, 0, 500])
PARENTS = st.sampled_from([None, None, "a"])
VERSIONS = st.sampled_from([SemVer(1, 0, 0), SemVer(1, 1_000, 0), SemVer(2, 0, 0)])
RANGES = st.sampled_from(
    [
        None,
        None,
        (),
        (VersionRange(SemVer(1, 0, 0), SemVer(1, 1_000, 0)),),
        (
            VersionRange(SemVer(2, 0, 0), SemVer(2, 0, 0)),
            VersionRange(SemVer(1, 0, 0), SemVer(1, 0, 0)),
        ),
    ]
)
QUERIES = st.builds(
    InstanceQuery,
    statuses=st.sampled_from([None, None, (ExecutionStatus.RUNNING,), (ExecutionStatus.FAILED,)]),
    names=st.sampled_from([None, ("Greet",), ("Unheard",)]),
    parent_instance_id=PARENTS,
    roots_only=st.booleans(),
    suspended_only=st.sampled_from([False, False, True]),
)
KEEPS = st.sampled_from([None, 0, 1, 2, 3])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a turn does."""

    events: int
    status: ExecutionStatus
    changes: list[Any]
    custom: SetCustomStatus | None
    scheduled: list[tuple[int, str | None, str | None]]
    cancelled: list[int]
    timer: bool
    keeps: bool
    next_execution: bool
    shift: int  # of the first event; 0 fits
    eager: int
    parent: str | None
    version: SemVer
    bury: str | None


OUTCOMES = st.builds(
    Outcome,
    events=st.integers(0, 3),
    status=STATUSES,
    changes=CHANGES,
    custom=st.sampled_from([None, None, SetCustomStatus(status="s"), SetCustomStatus(status=None)]),
    scheduled=st.lists(
        st.tuples(st.integers(1, 6), TAGS, SESSIONS), max_size=3, unique_by=lambda a: a[0]
    ),
    cancelled=st.lists(st.integers(1, 6), max_size=2, unique=True),
    timer=st.booleans(),
    keeps=st.booleans(),
    next_execution=st.sampled_from([False, True, True]),  # if the current one continues as new
    shift=st.sampled_from([0] * 9 + [1]),
    eager=st.integers(0, 2),
    parent=PARENTS,
    version=VERSIONS,
    bury=st.sampled_from([None, None, None, "why"]),
)
