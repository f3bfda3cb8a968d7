"""What a wait for a signal takes, by its mode, and when a schedule in a time zone is due."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from tests.fixtures.workflows import Workflows, eventually

SHOW = "$$select $a.data as a, $b.data as b$$"


def send(workflows: Workflows, instance: str, *values: int) -> None:
    for value in values:
        workflows.one("select df.signal(%s, 'go', %s)", instance, str(value))


def waiters(workflows: Workflows, instance: str) -> object:
    return workflows.one("select count(*) from df._signal_waiters where instance_id = %s", instance)


def test_latest_skips_to_the_newest_signal(standing: Workflows) -> None:
    first = "df.wait_for_signal('go', null, 'latest') |=> 'a'"
    with standing.connection.transaction():
        instance = standing.start(f"{first} ~> df.wait_for_signal('go') |=> 'b' ~> {SHOW}")
        send(standing, instance, 1, 2, 3)
    eventually(lambda: waiters(standing, instance) == 1)
    send(standing, instance, 4)
    assert standing.wait(instance) == "completed"
    result = standing.one("select df.result(%s)::jsonb", instance)
    assert result["rows"] == [{"a": 3, "b": 4}]


def test_future_takes_no_signal_that_was_there_before(standing: Workflows) -> None:
    first = "df.wait_for_signal('go', timeout_seconds => 60, mode => 'future') |=> 'a'"
    with standing.connection.transaction():
        instance = standing.start(f"{first} ~> df.wait_for_signal('go') |=> 'b' ~> {SHOW}")
        send(standing, instance, 1, 2)
    eventually(lambda: waiters(standing, instance) == 1)
    send(standing, instance, 3, 4)
    assert standing.wait(instance) == "completed"
    result = standing.one("select df.result(%s)::jsonb", instance)
    assert result["rows"] == [{"a": 3, "b": 4}]


def test_a_schedule_is_due_by_the_clock_of_its_time_zone(standing: Workflows) -> None:
    instance = standing.start("df.wait_for_schedule('30 4 * * *', 'Asia/Kathmandu')")
    assert is_due(standing, instance) == "04:30:00"


def test_a_schedule_may_name_what_is_known_only_when_it_runs(standing: Workflows) -> None:
    """df-execution 3.4: cron text is substituted, and judged after that."""
    schedule = (
        "'select ''{}'' as m' |=> 'at' ~> df.wait_for_schedule('$at.m 4 * * *', 'Asia/Kathmandu')"
    )
    assert "Invalid cron expression '60 4 * * *'" in standing.fail(schedule.format("60"))
    assert is_due(standing, standing.start(schedule.format("30"))) == "04:30:00"


def is_due(workflows: Workflows, instance: str) -> str:
    """When its timer ends, by the clock of Nepal, 5:45 hours east; the instance is cancelled."""
    due: datetime = eventually(
        lambda: workflows.one(
            "select visible_at from duroxide.orchestrator_queue where instance_id = %s"
            " and visible_at > now() and visible_at <= now() + interval '1 day'",
            instance,
        )
    )
    workflows.one("select df.cancel(%s)", instance)
    return due.astimezone(ZoneInfo("Asia/Kathmandu")).strftime("%H:%M:%S")
