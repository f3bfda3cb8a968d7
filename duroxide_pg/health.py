"""What is wrong with a store, or will be soon, in sentences that say what to do.

Source: docs/howto/health.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """From where on something is worth a sentence."""

    transaction_s: float = 300.0
    transactions: int = 1_000_000  # that began since; for what has no age in seconds
    unprocessed_s: float = 60.0
    lease_s: float = 300.0  # since a lease ended that nobody took over
    dead_rows: int = 50_000  # and more than there are live ones


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A transaction or a replication slot that keeps the server from cleaning up."""

    kind: str  # transaction, prepared transaction, replication slot
    name: str  # the process id, or its name
    who: str
    seconds: float | None
    transactions: int | None  # that began since


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    name: str
    bytes: int
    index_bytes: int
    rows: int  # an estimate of the server's, as is the next
    dead_rows: int
    vacuumed_s: float | None  # ago


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to look at.

    Args:
        about: what kind: long-transaction, bloat, unprocessed, old-lease, failing, missing-index, setting.
        problem: what is so.
        remedy: what to do about it.
    """

    about: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A report; `findings` is empty if all is well. Ages are None where there is nothing."""

    schema: str
    holders: Sequence[Holder]
    tables: Sequence[Table]
    missing_indexes: Sequence[str]
    settings: dict[str, str]
    oldest_message_s: float | None  # that could be taken, and that nobody has
    oldest_activity_s: float | None
    oldest_ended_lease_s: float | None
    ended_leases: int
    failing: int  # messages and activities that have failed at least three times
    failing_instances: Sequence[str] = ()  # some of those that they belong to
    limits: Limits = DEFAULT_LIMITS

    @property
    def is_good(self) -> bool:
        return not self.findings

    @property
    def findings(self) -> Sequence[Finding]:
        return (
            *self._of_holders(),
            *self._of_queues(),
            *self._of_tables(),
            *self._of_settings(),
        )

    def _of_holders(self) -> Iterator[Finding]:
        for holder in self.holders:
            is_long = holder.seconds is not None and holder.seconds >= self.limits.transaction_s
            is_old = (holder.transactions or 0) >= self.limits.transactions
            if not (is_long or is_old):
                continue
            age = [] if holder.seconds is None else [f"for {_span(holder.seconds)}"]
            if holder.transactions:
                age.append(f"while {holder.transactions:,} others began")
            remedies = {
                "transaction": f"end it: select pg_terminate_backend({holder.name})",
                "prepared transaction": f"COMMIT PREPARED or ROLLBACK PREPARED '{holder.name}'",
                "replication slot": "let its consumer catch up, or drop the slot",
            }
            yield Finding(
                about="long-transaction",
                problem=f"{holder.kind} {holder.name} ({holder.who}) has been open {', '.join(age)}:"
                " until it ends, no removed row can be cleaned up, and queues become slow",
                remedy=remedies[holder.kind],
            )

    def _of_queues(self) -> Iterator[Finding]:
        for what, seconds in (
            ("message to an instance", self.oldest_message_s),
            ("activity", self.oldest_activity_s),
        ):
            if seconds is not None and seconds >= self.limits.unprocessed_s:
                yield Finding(
                    about="unprocessed",
                    problem=f"the oldest {what} that nobody has taken has waited for {_span(seconds)}",
                    remedy="see that workers run, that they have what it is registered under or tagged"
                    " with, and that there are enough of them",
                )
        if (self.oldest_ended_lease_s or 0) >= self.limits.lease_s:
            yield Finding(
                about="old-lease",
                problem=f"{self.ended_leases} leases ended without their worker, the first of them"
                f" {_span(self.oldest_ended_lease_s or 0)} ago, and nobody took over",
                remedy="see that workers run; the next one that polls takes over what has work",
            )
        if self.failing:
            names = ", ".join(self.failing_instances)
            yield Finding(
                about="failing",
                problem=f"{self.failing} messages or activities have failed three times or more,"
                + (f", among them of {names}" if names else ""),
                remedy="look into the logs of the workers; after max_attempts they are given up",
            )

    def _of_tables(self) -> Iterator[Finding]:
        for table in self.tables:
            if table.dead_rows >= max(self.limits.dead_rows, table.rows):
                last = "never" if table.vacuumed_s is None else f"{_span(table.vacuumed_s)} ago"
                yield Finding(
                    about="bloat",
                    problem=f"table {self.schema}.{table.name} holds {table.dead_rows:,} removed rows"
                    f" beside {table.rows:,} live ones (last vacuum: {last})",
                    remedy=f'run VACUUM "{self.schema}"."{table.name}"; if that does not help, a long'
                    " transaction is in the way",
                )
        for index in self.missing_indexes:
            yield Finding(
                about="missing-index",
                problem=f"the index {self.schema}.{index} is missing or invalid",
                remedy="drop what is left of it and create it as `pg-durable install --sql` prints it",
            )

    def _of_settings(self) -> Iterator[Finding]:
        consequences = {
            "autovacuum": "removed rows are never cleaned up",
            "track_counts": "the server does not know when to clean up",
            "fsync": "a crash of the machine can destroy the database",
            "full_page_writes": "a crash of the machine can destroy the database",
            "synchronous_commit": "a crash of the server loses the last commits",
        }
        for name, consequence in consequences.items():
            if self.settings.get(name) == "off":
                yield Finding(
                    about="setting",
                    problem=f"the server's setting {name} is off: {consequence}",
                    remedy=f"set {name} = on",
                )


def report(
    schema: str,
    *,
    holders: Sequence[tuple[Any, ...]],
    sizes: Sequence[tuple[Any, ...]],
    indexes: Sequence[tuple[Any, ...]],
    queues: tuple[Any, ...],
    settings: Sequence[tuple[Any, ...]],
    limits: Limits,
) -> Health:
    """What the rows of sql/health.sql say."""
    from duroxide_pg import tables as definitions  # SQLAlchemy, which workers do without

    message_ms, activity_ms, lease_ms, ended_leases, failing, names = queues
    wanted = {
        str(index.name)
        for table in definitions.metadata(schema).tables.values()
        for index in table.indexes
    }
    return Health(
        schema=schema,
        holders=tuple(
            Holder(kind=kind, name=name, who=who, seconds=seconds, transactions=transactions)
            for kind, name, who, seconds, transactions in holders
        ),
        tables=tuple(
            Table(
                name=name,
                bytes=size,
                index_bytes=index_size,
                rows=rows,
                dead_rows=dead,
                vacuumed_s=vacuumed_s,
            )
            for name, size, index_size, rows, dead, vacuumed_s in sizes
        ),
        missing_indexes=tuple(sorted(wanted - {name for (name,) in indexes})),
        settings=dict(settings),
        oldest_message_s=_seconds(message_ms),
        oldest_activity_s=_seconds(activity_ms),
        oldest_ended_lease_s=_seconds(lease_ms),
        ended_leases=ended_leases,
        failing=failing,
        failing_instances=tuple(names or ()),
        limits=limits,
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
