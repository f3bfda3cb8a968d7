"""The tables in SQLAlchemy Core: for management queries, and for tests to compare with the database."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from duroxide_pg.migrate import DEFAULT_SCHEMA


def metadata(schema: str = DEFAULT_SCHEMA) -> sa.MetaData:
    """All tables of one engine schema."""
    tables = sa.MetaData(schema=schema)
    _instances(tables)
    _history(tables)
    _queues(tables)
    _leases(tables)
    _key_values(tables)
    _housekeeping(tables)
    return tables


def _text(
    name: str, *, null: bool = False, key: bool = False, default: str | None = None
) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null, primary_key=key, server_default=default)


def _big(
    name: str, *, null: bool = False, key: bool = False, default: str | None = None
) -> sa.Column[int]:
    return sa.Column(
        name,
        sa.BigInteger,
        nullable=null,
        primary_key=key,
        server_default=default,
        autoincrement=False,
    )


def _int(name: str, *, default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=default)


def _time(name: str, *, null: bool = False, default: bool = False) -> sa.Column[object]:
    value = sa.text("clock_timestamp()") if default else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null, server_default=value)


def _identity() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


def _instances(tables: sa.MetaData) -> None:
    instances = sa.Table(
        "instances",
        tables,
        _text("instance_id", key=True),
        _text("orchestration_name"),
        _text("orchestration_version", null=True),
        _big("current_execution_id", default="1"),
        _text("parent_instance_id", null=True),
        _text("status", default="Running"),
        _text("output", null=True),
        _big("next_event_id", default="1"),
        _big("pinned_version", null=True),
        _text("last_commit", null=True),
        _int("flags", default="0"),
        _text("custom_status", null=True),
        _int("custom_status_version", default="0"),
        _int("history_events", default="0"),
        _big("history_bytes", default="0"),
        _time("started_at"),
        _time("completed_at", null=True),
        _time("created_at"),
        _time("updated_at"),
        _time("suspended_at", null=True),
        _text("incarnation", default=""),
    )
    sa.Index(
        "instances_parent",
        instances.c.parent_instance_id,
        postgresql_where=instances.c.parent_instance_id.is_not(None),
    )
    sa.Index("instances_created", instances.c.created_at, instances.c.instance_id)
    sa.Index(
        "instances_suspended",
        instances.c.instance_id,
        postgresql_where=instances.c.suspended_at.is_not(None),
    )
    sa.Table(
        "executions_done",
        tables,
        _text("instance_id", key=True),
        _big("execution_id", key=True),
        _text("status"),
        _text("output", null=True),
        _big("pinned_version", null=True),
        _time("started_at"),
        _time("completed_at"),
    )


def _history(tables: sa.MetaData) -> None:
    sa.Table(
        "history_log",
        tables,
        _text("instance_id", key=True),
        _big("execution_id", key=True),
        _big("first_event_id", key=True),
        _big("last_event_id"),
        _text("events"),
        _time("created_at"),
    )


def _queues(tables: sa.MetaData) -> None:
    messages = sa.Table(
        "orchestrator_queue",
        tables,
        _text("instance_id", key=True),
        _identity(),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        _text("work_item"),
        _time("visible_at"),
        _int("attempt_count", default="0"),
        _big("timer_execution_id", null=True),
        _big("timer_id", null=True),
        _time("created_at", default=True),
        _time("held_visible_at", null=True),
    )
    sa.Index(
        "orchestrator_queue_ready",
        messages.c.visible_at,
        messages.c.id,
        postgresql_include=["instance_id"],
    )
    activities = sa.Table(
        "worker_queue",
        tables,
        _text("instance_id", key=True),
        _identity(),
        _big("execution_id"),
        _big("activity_id"),
        _text("tag_key", default=""),
        _text("session_id", null=True),
        _text("work_item"),
        _time("visible_at"),
        _text("lock_token", null=True),
        _big("locked_until", default="0"),
        _text("owner", null=True),
        _int("attempt_count", default="0"),
        _time("created_at", default=True),
        _text("heartbeat", null=True),
    )
    sa.Index(
        "worker_queue_ready",
        activities.c.tag_key,
        activities.c.visible_at,
        activities.c.id,
        postgresql_where=activities.c.session_id.is_(None),
    )
    sa.Index(
        "worker_queue_session",
        activities.c.session_id,
        activities.c.visible_at,
        activities.c.id,
        postgresql_where=activities.c.session_id.is_not(None),
    )
    letters = sa.Table(
        "dead_letters",
        tables,
        _text("instance_id", key=True),
        _identity(),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        _text("work_item"),
        _big("timer_execution_id", null=True),
        _big("timer_id", null=True),
        _int("attempt_count"),
        _text("reason"),
        _time("buried_at"),
    )
    sa.Index("dead_letters_by_age", letters.c.id)
    sa.Table("late_cancellations", tables, _text("instance_id", key=True), _big("id", key=True))


def _leases(tables: sa.MetaData) -> None:
    sa.Table(
        "instance_locks",
        tables,
        _text("instance_id", key=True),
        _text("lock_token"),
        _text("owner"),
        _big("locked_until"),
        _big("locked_at"),
        sa.Column("msg_ids", ARRAY(sa.BigInteger), nullable=False, server_default="{}"),
    )
    sessions = sa.Table(
        "sessions",
        tables,
        _text("session_id", key=True),
        _text("owner"),
        _big("locked_until"),
        _big("last_activity_at"),
    )
    sa.Index("sessions_owner", sessions.c.owner)


def _key_values(tables: sa.MetaData) -> None:
    sa.Table(
        "kv_store",
        tables,
        _text("instance_id", key=True),
        _text("key", key=True),
        _text("value"),
        _big("execution_id"),
        _big("last_updated_at_ms"),
    )
    sa.Table(
        "kv_delta",
        tables,
        _text("instance_id", key=True),
        _text("key", key=True),
        _text("value", null=True),
        _big("last_updated_at_ms"),
    )


def _housekeeping(tables: sa.MetaData) -> None:
    codes = ("turn_codes", "finish_codes", "abandon_codes")
    sa.Table(
        "writers",
        tables,
        _text("writer", key=True),
        _big("seq"),
        *(sa.Column(name, ARRAY(sa.SmallInteger), nullable=True) for name in codes),
        _time("updated_at"),
    )
    sa.Table(
        "wake_waiters",
        tables,
        _text("topic", key=True),
        _text("waiter", key=True),
        _big("until_ms"),
        prefixes=["UNLOGGED"],
    )
    sa.Table(
        "_worker_ready",
        tables,
        sa.Column("sentinel", sa.Boolean, primary_key=True, server_default=sa.true()),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column(
            "initialized_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.CheckConstraint("sentinel", name="only_one_sentinel"),
    )
