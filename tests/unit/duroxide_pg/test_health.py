"""What becomes a sentence in a health report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from duroxide_pg.health import Health, Holder, Table

GOOD = Health(
    schema="duroxide",
    holders=(),
    tables=(),
    missing_indexes=(),
    settings={"autovacuum": "on", "fsync": "on"},
    oldest_message_s=None,
    oldest_activity_s=None,
    oldest_ended_lease_s=None,
    ended_leases=0,
    failing=0,
)
OLD = Holder(kind="transaction", name="4711", who="ann, psql", seconds=7_300, transactions=12)
SLOT = Holder(
    kind="replication slot", name="gone", who="inactive", seconds=None, transactions=2_000_000
)
BLOATED = Table(
    name="orchestrator_queue", bytes=1, index_bytes=1, rows=10, dead_rows=60_000, vacuumed_s=None
)


def test_a_store_without_problems_has_no_findings() -> None:
    young = replace(OLD, seconds=10)
    large = replace(BLOATED, rows=10_000_000)
    quiet = replace(
        GOOD, holders=(young,), tables=(large,), oldest_message_s=1, oldest_ended_lease_s=10
    )
    assert quiet.is_good
    assert quiet.findings == ()


@pytest.mark.parametrize(
    ("report", "about", "problem", "remedy"),
    [
        (replace(GOOD, holders=(OLD,)), "long-transaction", "transaction 4711 (ann, psql) has been"
         " open for 2 hours, while 12 others began", "pg_terminate_backend(4711)"),
        (replace(GOOD, holders=(SLOT,)), "long-transaction", "replication slot gone (inactive) has"
         " been open while 2,000,000 others began", "drop the slot"),
        (replace(GOOD, tables=(BLOATED,)), "bloat", "60,000 removed rows beside 10 live ones"
         " (last vacuum: never)", 'VACUUM "duroxide"."orchestrator_queue"'),
        (replace(GOOD, oldest_message_s=300), "unprocessed", "the oldest message to an instance that"
         " nobody has taken has waited for 5 minutes", "workers run"),
        (replace(GOOD, oldest_activity_s=90), "unprocessed", "oldest activity", "tagged"),
        (replace(GOOD, oldest_ended_lease_s=600, ended_leases=3), "old-lease", "3 leases ended",
         "workers run"),
        (replace(GOOD, failing=2), "failing", "2 messages or activities", "logs"),
        (replace(GOOD, missing_indexes=("instances_created",)), "missing-index",
         "duroxide.instances_created", "install --sql"),
        (replace(GOOD, settings={"autovacuum": "off"}), "setting", "autovacuum is off", "on"),
    ],
)  # fmt: skip
def test_each_problem_is_a_sentence_with_its_remedy(
    report: Health, about: str, problem: str, remedy: str
) -> None:
    (finding,) = report.findings
    assert not report.is_good
    assert finding.about == about
    assert problem in finding.problem
    assert remedy in finding.remedy
    assert str(finding) == f"{finding.problem}; {finding.remedy}"
