"""Counts what went wrong, from append-only tables alone: nothing here knows the engine.

Steps append to `effects (workflow, step)`, and a web server appends every request that it answers to
`requests (workflow, step, key)`. Each expected effect must be there once. A request may come more than
once, but then with one and the same key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

TABLES = """
create table effects (workflow text, step text, at timestamptz default clock_timestamp());
create table requests (workflow text, step text, key text, at timestamptz default clock_timestamp());
create function refuse() returns trigger language plpgsql as $$
begin raise exception 'this table is only appended to'; end $$;
create trigger append_only before update or delete or truncate on effects execute function refuse();
create trigger append_only before update or delete or truncate on requests execute function refuse();
"""

Effect = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What should have happened once and did not, happened more often, or has not come to its end."""

    lost: Sequence[Effect]
    duplicated: Sequence[Effect]
    invented: Sequence[Effect]
    stranded: Sequence[str]

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.duplicated or self.invented or self.stranded)

    def line(self, *, seed: int, faults: int) -> str:
        return (
            f"seed {seed}, {faults} faults: {len(self.lost)} lost, {len(self.duplicated)} duplicated, "
            f"{len(self.invented)} invented, {len(self.stranded)} stranded"
        )


def audit(
    connection: psycopg.Connection[Any],
    expected: Iterable[Effect],
    requested: Iterable[Effect] = (),
    *,
    end: str = "completed",
) -> Audit:
    """Compare the tables with what every workflow had to do.

    Args:
        expected: the effects of SQL steps.
        requested: those of HTTP steps.
        end: the status that every workflow must have.
    """
    effects = Counter(_rows(connection, "select workflow, step from effects"))
    keys = Counter(_rows(connection, "select distinct workflow, step, key from requests"))
    requests = Counter((workflow, step) for workflow, step, _ in keys)
    wanted, asked = Counter(expected), Counter(requested)
    unended = _rows(connection, f"select id from df.instances where status <> '{end}'")
    return Audit(
        lost=sorted(((wanted - effects) + (asked - requests)).elements()),
        duplicated=sorted(
            [effect for effect in wanted if effects[effect] > 1]
            + [request for request in asked if requests[request] > 1]
        ),
        invented=sorted((set(effects) - set(wanted)) | (set(requests) - set(asked))),
        stranded=sorted(row[0] for row in unended),
    )


def leftovers(connection: psycopg.Connection[Any], *, lease_s: float) -> dict[str, Any]:
    """What should be gone when every workflow has ended; empty if it is."""
    questions = {
        "messages to workflows": "select count(*) from duroxide.orchestrator_queue",
        "activities": "select count(*) from duroxide.worker_queue",
        "waits for signals": "select count(*) from df._signal_waiters",
        "leases beyond their time": "select count(*) from duroxide.instance_locks where locked_until"
        f" > extract(epoch from clock_timestamp()) * 1000 + {lease_s * 1000}",
        "advisory locks": "select count(*) from pg_locks where locktype = 'advisory' and database ="
        " (select oid from pg_database where datname = current_database())",
        "open transactions": "select count(*) from pg_stat_activity where pid <> pg_backend_pid()"
        " and datname = current_database() and state like 'idle in transaction%'",
    }
    counts = {what: _rows(connection, question)[0][0] for what, question in questions.items()}
    return {what: count for what, count in counts.items() if count}


def _rows(connection: psycopg.Connection[Any], question: str) -> list[Any]:
    return connection.execute(question.encode()).fetchall()
