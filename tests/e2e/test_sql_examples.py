"""Each SQL example ends as it says, although its worker is killed in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.crash.auditor import TABLES
from tests.crash.receiver import http_settings, receiver
from tests.fixtures.postgres import Database
from tests.fixtures.workers import worker_process
from tests.fixtures.workflows import Workflows, eventually

EXAMPLES = Path(__file__).parents[2] / "examples" / "sql"

ENDS = {
    "approval_with_timeout": (
        "select decision from decisions order by request",
        [("approved by Ada",), ("expired",)],
    ),
    "etl_in_batches": (
        "select count(*)::int, sum(amount)::float, (select bool_and(is_loaded) from raw_orders)"
        " from orders",
        [(50, 1912.5, True)],
    ),
    "fan_out_and_join": (
        "select part, total::int from totals order by total",
        [("one", 5050), ("two", 15050), ("three", 25050), ("all", 45150)],
    ),
    "queue_processor": (
        "select answer from jobs order by id",
        [(1,), (4,), (9,), (16,), (25,)],
    ),
    "race_with_deadline": ("select what from outcome", [("gave up",)]),
    "scheduled_report": (
        "select total::int, extract(second from written_at) < 30 from reports",
        [(42, True)],
    ),
    "webhook_callback": ("select order_id, tracking from shipments", [(7, "T-7")]),
}
SLOW = {"scheduled_report"}


def test_every_example_has_an_end_to_be_checked() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.sql")} == set(ENDS)


def environment(settings: dict[str, Any]) -> dict[str, str]:
    """Settings as a worker process takes them."""
    return {
        name: value if isinstance(value, str) else " ".join(value)
        for name, value in settings.items()
    }


@contextmanager
def partner(dsn: str) -> Iterator[int]:
    """Somebody who takes orders, and calls back before he has answered."""

    def call_back(workflow: str, key: str) -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "select df.signal(%s, 'shipped', '{\"tracking\": \"T-7\"}', %s)", [workflow, key]
            )

    with psycopg.connect(dsn) as connection:
        connection.execute(TABLES.encode())
    with receiver(dsn, before_the_answer=call_back) as port:
        yield port


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if name in SLOW else []) for name in ENDS],
)
def test_an_example_ends_as_it_says_although_its_worker_is_killed(
    installed: Database, workflows: Workflows, tmp_path: Path, name: str
) -> None:
    question, answer = ENDS[name]
    leases = {"activity_lease": "1.5", "turn_lease": "1.5", "shutdown_grace": "0.5"}
    with (
        partner(installed.dsn) as port,
        worker_process(
            installed.dsn, tmp_path / "worker.log", **leases, **environment(http_settings(port))
        ) as worker,
    ):
        script = (EXAMPLES / f"{name}.sql").read_text()
        workflows.run(script.replace("https://partner.example.com", f"http://localhost:{port}"))
        eventually(
            lambda: workflows.all("select 1 from df.nodes where status <> 'pending'"),
            what="it has begun",
        )
        worker.kill()
        worker.start()
        instances = [str(row[0]) for row in workflows.all("select id from df.instances")]
        for instance in instances:
            status = workflows.wait(instance, timeout_s=80)
            assert status == "completed", workflows.error(instance)
    assert workflows.all(question) == answer
