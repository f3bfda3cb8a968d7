"""What a wait for a signal takes, by its mode, and when a schedule in a time zone is due."""

from __future__ import annotations

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
    due = eventually(
        lambda: standing.one(
            "select visible_at from duroxide.orchestrator_queue where instance_id = %s"
            " and visible_at > now() and visible_at <= now() + interval '1 day'",
            instance,
        )
    )
    standing.one("select df.cancel(%s)", instance)
    there = due.astimezone(ZoneInfo("Asia/Kathmandu"))  # 5:45 hours east
    assert (there.hour, there.minute, there.second) == (4, 30, 0)
