"""What goes into one call, and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duroxide.ids import ActivityToken, TurnToken
from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    Activity,
    CommitItem,
    CommitTurn,
    EagerDispatch,
    Enqueue,
    FinishActivity,
    Message,
    MessageKind,
    TagMode,
    TagSelection,
)
from duroxide.providers.eager import EagerChoice
from duroxide.state import ClearKeyValue, ClearKeyValues, SetKeyValue
from duroxide.version import SemVer
from duroxide_pg.batches import MAX_ITEMS, Batch, pack_version, split


def turn(instance_id: str, **more: object) -> CommitTurn:
    fields: dict[str, object] = {
        "instance_id": instance_id,
        "token": TurnToken(f"n/{instance_id}"),
        "execution_id": 1,
        "first_event_id": 1,
    }
    return CommitTurn(**{**fields, **more})  # type: ignore[arg-type]  # a test's shorthand


def enqueue(instance_id: str) -> Enqueue:
    return Enqueue(message=Message(instance_id=instance_id, kind=MessageKind.EVENT, body="x"))


names = st.sampled_from("abcd")
items: st.SearchStrategy[CommitItem] = st.one_of(
    names.map(turn),
    names.map(lambda name: AbandonTurn(instance_id=name, token=TurnToken(f"n/{name}"))),
    names.map(lambda name: FinishActivity(token=ActivityToken(f"n/1/{name}"), completion=None)),
    names.map(lambda name: AbandonActivity(token=ActivityToken(f"n/1/{name}"))),
    names.map(enqueue),
)


@given(st.lists(items, max_size=30))
def test_batches_hold_the_items_in_order_and_each_lease_once(batch: list[CommitItem]) -> None:
    parts = list(split(batch, None))
    assert [item for part in parts for item in part.items] == batch
    for part in parts:
        leases = [
            item.instance_id if isinstance(item, CommitTurn | AbandonTurn) else item.token
            for item in part.items
            if not isinstance(item, Enqueue)
        ]
        assert len(leases) == len(set(leases))


def test_a_batch_has_at_most_so_many_items() -> None:
    parts = list(split([enqueue("a") for _ in range(2 * MAX_ITEMS + 1)], None))
    assert [len(part.items) for part in parts] == [MAX_ITEMS, MAX_ITEMS, 1]


@given(st.lists(names, unique=True))
def test_rows_are_sorted_so_that_batches_lock_in_one_order(instances: list[str]) -> None:
    batch = Batch(
        [turn(name, finished=(ActivityToken(f"n/1/{name}"),)) for name in instances], None
    )
    assert batch.columns["t_instance"] == sorted(instances)
    assert batch.columns["f_instance"] == sorted(instances)


def test_eager_dispatch_takes_what_the_worker_accepts_up_to_its_limit() -> None:
    activities = tuple(
        Activity(
            instance_id="a", execution_id=1, activity_id=n, body="x", tag=tag, session_id=session
        )
        for n, (tag, session) in enumerate(
            [("gpu", None), (None, None), (None, "s"), (None, None), (None, None)], start=2
        )
    )
    eager = EagerDispatch(worker="w", limit=2, lease_ms=1, tags=TagSelection(TagMode.DEFAULT_ONLY))
    batch = Batch([turn("a", activities=activities)], EagerChoice(eager))
    assert batch.columns["a_eager"] == [0, 1, 0, 1, 0]


def test_what_is_scheduled_and_dropped_in_one_turn_is_not_sent() -> None:
    activity = Activity(instance_id="a", execution_id=1, activity_id=2, body="x")
    batch = Batch([turn("a", activities=(activity,), cancelled_activities=(2, 9))], None)
    assert batch.columns["a_activity"] == []
    assert batch.columns["n_activity"] == [9]


def test_key_values_are_folded_to_their_last_state() -> None:
    changes = (
        SetKeyValue(key="gone", value="1", updated_at_ms=1),
        ClearKeyValues(),
        SetKeyValue(key="kept", value="2", updated_at_ms=2),
        SetKeyValue(key="kept", value="3", updated_at_ms=3),
        ClearKeyValue(key="other"),
    )
    columns = Batch([turn("a", key_values=changes)], None).columns
    assert columns["k_cleared"] == ["a"]
    assert columns["k_key"] == ["kept", "other"]
    assert columns["k_value"] == ["3", None]


versions = st.builds(SemVer, st.integers(0, 99), st.integers(0, 9_999), st.integers(0, 9_999))


@given(versions, versions)
def test_packed_versions_sort_like_versions(one: SemVer, other: SemVer) -> None:
    assert (one < other) == (pack_version(one) < pack_version(other))
