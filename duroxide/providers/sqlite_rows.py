"""The statements of the SQLite store, and what goes into their parameters and comes out of their rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from duroxide.ids import ActivityToken
from duroxide.providers.base import Activity, InstanceStatus, LeasedActivity, TagMode, TagSelection
from duroxide.providers.eager import EagerChoice
from duroxide.providers.rules import Position
from duroxide.state import ExecutionStatus, KeyValue
from duroxide.version import SemVer

SEPARATOR = "\x1e"  # between the events of a turn; no JSON text contains it


def load_queries() -> Mapping[str, str]:
    """The named statements of sqlite_queries.sql."""
    text = resources.files("duroxide.providers").joinpath("sqlite_queries.sql").read_text()
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


SQL = load_queries()


def engine_version_of(row: Sequence[int | None]) -> SemVer | None:
    major, minor, patch = row
    if major is None or minor is None or patch is None:
        return None
    return SemVer(major, minor, patch)


def position_of(current: Sequence[Any] | None) -> Position | None:
    """Of a row of the statement `current`."""
    if current is None:
        return None
    return Position(current[2], current[6], ExecutionStatus(current[5]))


def leased_at_once(activity: Activity, token: ActivityToken, expires_at_ms: int) -> LeasedActivity:
    return LeasedActivity(
        instance_id=activity.instance_id,
        execution_id=activity.execution_id,
        activity_id=activity.activity_id,
        token=token,
        expires_at_ms=expires_at_ms,
        attempt_count=1,
        body=activity.body,
        tag=activity.tag,
    )


def activity_row(
    activity: Activity, now_ms: int, token: ActivityToken | None, eager: EagerChoice | None
) -> tuple[Any, ...]:
    is_given = token is not None and eager is not None
    return (
        activity.instance_id,
        activity.execution_id,
        activity.activity_id,
        activity.body,
        activity.tag,
        activity.session_id,
        now_ms,
        int(is_given),
        token,
        now_ms + eager.offer.lease_ms if is_given and eager is not None else 0,
        eager.offer.worker if is_given and eager is not None else None,
    )


def tag_condition(tags: TagSelection) -> tuple[str, dict[str, str]]:
    names = {f"tag{number}": tag for number, tag in enumerate(sorted(tags.tags))}
    among = f"a.tag in ({', '.join(':' + name for name in names)})"
    match tags.mode:
        case TagMode.DEFAULT_ONLY:
            return "a.tag is null", {}
        case TagMode.TAGS:
            return among, names
        case TagMode.DEFAULT_AND:
            return f"(a.tag is null or {among})", names
        case TagMode.EXCEPT:
            below = " or ".join(
                f"substr(a.tag, 1, length(:{name}) + 1) = :{name} || '/'" for name in names
            )
            return f"(a.tag is null or not ({among} or {below}))", names
        case TagMode.ANY | TagMode.NONE:
            return "true", {}


def key_values_of(rows: Iterable[tuple[str, str, int]]) -> dict[str, KeyValue]:
    return {key: KeyValue(value=value, updated_at_ms=at_ms) for key, value, at_ms in rows}


def status_of(row: Sequence[Any]) -> InstanceStatus:
    """A row of the statement `status`."""
    return InstanceStatus(
        instance_id=row[0],
        execution_id=row[1],
        name=row[2],
        version=row[3],
        status=ExecutionStatus(row[4]),
        output=row[5],
        custom_status=row[6],
        custom_status_version=row[7],
        created_at_ms=row[8],
        updated_at_ms=row[9],
        completed_at_ms=row[10],
        parent_instance_id=row[11],
        suspended_at_ms=row[12],
    )
