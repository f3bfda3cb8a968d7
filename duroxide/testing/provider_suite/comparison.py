"""What two stores have to agree on in what they answer: all but tokens and ids, which are each its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any, cast

from duroxide.ids import ActivityToken, TurnToken
from duroxide.providers.base import (
    DeadLetter,
    DeadLetterStore,
    LeasedActivity,
    LeasedTurn,
    Provider,
)


async def requeued(provider: Provider, instance_id: str) -> tuple[list[DeadLetter], int]:
    """The letters that are put back, but for their ids, which are each store's own."""
    store = cast("DeadLetterStore", provider)
    letters = await store.list_dead_letters(instance_id=instance_id)
    count = await store.requeue(instance_id)
    return [dataclasses.replace(letter, letter_id=0) for letter in letters], count


def turn_seen(leased: LeasedTurn, uncounted: Collection[str]) -> Any:
    """All but tokens and ids, which are each store's own."""
    values = {key: value.value for key, value in leased.key_values.items()}
    bodies = tuple((m.kind, m.body) for m in leased.messages)
    attempts = 0 if leased.instance_id in uncounted else leased.attempt_count
    plain = dataclasses.replace(
        leased,
        token=TurnToken(""),
        messages=(),
        key_values={},
        attempt_count=attempts,
        incarnation="",
        waited_ms=0,
    )
    return plain, bodies, values


def in_order(leased: Iterable[LeasedActivity]) -> list[LeasedActivity]:
    return sorted(leased, key=lambda a: (a.instance_id, a.execution_id, a.activity_id, a.body))


def seen(leased: Any) -> list[LeasedActivity]:
    # How long one was due counts from when it was given back last, or first: the stores may differ.
    return [dataclasses.replace(item, token=ActivityToken(""), waited_ms=0) for item in leased]
