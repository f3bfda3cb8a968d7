from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_durable.schedule import ScheduleError, next_time


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("* * * * *", "2024-01-01 00:00:00", "2024-01-01 00:01:00"),
        ("* * * * *", "2024-01-01 00:00:30", "2024-01-01 00:01:00"),
        ("0 9 * * 1-5", "2024-01-05 09:00:00", "2024-01-08 09:00:00"),  # Friday to Monday
        ("0 0 * * 0", "2024-01-01 00:00:00", "2024-01-07 00:00:00"),
        ("0 0 * * 7", "2024-01-01 00:00:00", "2024-01-07 00:00:00"),
        ("0 0 13 * 5", "2024-09-01 00:00:00", "2024-09-06 00:00:00"),  # either day field
        ("*/15 * * * *", "2024-01-01 00:16:00", "2024-01-01 00:30:00"),
        ("0 0 29 2 *", "2024-03-01 00:00:00", "2028-02-29 00:00:00"),
        ("0 12 * jan-mar monday", "2024-04-01 00:00:00", "2025-01-06 12:00:00"),
        ("5/20 * * * *", "2024-01-01 00:05:00", "2024-01-01 00:25:00"),
        ("0 0 ? * 1", "2024-01-01 00:00:00", "2024-01-08 00:00:00"),  # as the builder lets it pass
        ("0 0 13 * ?", "2024-01-01 00:00:00", "2024-01-13 00:00:00"),
        ("@hourly", "2024-01-01 00:30:00", "2024-01-01 01:00:00"),
        ("@YEARLY", "2024-01-01 00:00:00", "2025-01-01 00:00:00"),
    ],
)
def test_the_next_match_of_the_classic_dialect(expression: str, after: str, expected: str) -> None:
    assert next_time(expression, at(after)) == at(expected)


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 9 * * 1-5", "2024-01-05 09:00:00", "2024-01-07 09:00:00"),  # 1 is Sunday
        ("0 0 13 * 6", "2024-09-01 00:00:00", "2024-09-13 00:00:00"),  # both day fields
        ("0 0 ? * MON", "2024-01-02 00:00:00", "2024-01-08 00:00:00"),
        ("0 0 1 1 ? 2030", "2024-01-02 00:00:00", "2030-01-01 00:00:00"),
        ("* * * * * 2090/5", "2024-01-02 00:00:00", "2090-01-01 00:00:00"),
    ],
)
def test_the_next_match_of_the_quartz_dialect(expression: str, after: str, expected: str) -> None:
    assert next_time(expression, at(after), dialect="quartz") == at(expected)


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        # Berlin: the clock goes from 02:00 to 03:00 on 31 March 2024 (01:00 UTC).
        ("30 2 * * *", "2024-03-30 12:00:00", "2024-03-31 01:00:00"),
        ("30 2 * * *", "2024-03-31 01:00:00", "2024-04-01 00:30:00"),
        # And from 03:00 back to 02:00 on 27 October 2024 (01:00 UTC).
        ("30 2 * * *", "2024-10-26 12:00:00", "2024-10-27 00:30:00"),
        ("30 2 * * *", "2024-10-27 00:30:00", "2024-10-28 01:30:00"),
        ("30 2 * * *", "2024-10-27 01:10:00", "2024-10-28 01:30:00"),
        ("0 9 * * *", "2024-07-01 00:00:00", "2024-07-01 07:00:00"),
    ],
)
def test_a_time_zone_with_its_gap_and_its_overlap(
    expression: str, after: str, expected: str
) -> None:
    assert next_time(expression, at(after), timezone="Europe/Berlin") == at(expected)


@pytest.mark.parametrize(
    ("expression", "options", "complaint"),
    [
        ("", {}, "Invalid cron expression '': expected 5 fields, found 0"),
        ("* * * *", {}, "expected 5 fields, found 4"),
        ("0 * * * * *", {}, "expected 5 fields, found 6"),
        ("60 * * * *", {}, "Invalid cron expression '60 * * * *': Bad minute"),
        ("*/0 * * * *", {}, "Bad minute"),
        ("5-1 * * * *", {}, "Bad minute"),
        ("* * * * 8", {}, "Bad day-of-week"),
        ("@reboot", {}, "unknown nickname"),
        ("* ? * * *", {}, "Bad hour"),
        ("? * * * *", {"dialect": "quartz"}, "Bad minute"),
        ("* * ! * *", {}, "unexpected character"),
        ("0 0 30 2 *", {}, "No upcoming schedule found for '0 0 30 2 *'"),
        ("0 0 31 4,6 *", {}, "No upcoming schedule found"),
        ("0 0 32 2 *", {}, "Bad day-of-month"),
        ("* * * * 0", {"dialect": "quartz"}, "'0' is not between 1 and 7"),
        ("* * * * * 1999", {"dialect": "quartz"}, "No upcoming schedule found"),
        ("* * * * *", {"dialect": "solar"}, "Unknown cron dialect 'solar'"),
        ("* * * * *", {"timezone": "Mars/Base"}, "Unknown time zone 'Mars/Base'"),
        ("* * * * *", {"timezone": "../etc/passwd"}, "Unknown time zone"),
    ],
)
def test_a_complaint_quotes_the_expression(
    expression: str, options: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ScheduleError) as caught:
        next_time(expression, at("2024-01-01 00:00:00"), **options)
    assert complaint in str(caught.value)


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
EXPRESSIONS = st.sampled_from(
    ["* * * * *", "30 2 * * *", "*/7 1-3 * * *", "0 0 1 * 1", "15 */2 * * *", "@weekly"]
)


@given(
    expression=EXPRESSIONS,
    timezone=ZONES,
    after=st.integers(0, 3650 * 24 * 60).map(lambda m: at("2020-01-01") + timedelta(minutes=m)),
)
def test_the_next_match_is_later_and_the_first(
    expression: str, timezone: str, after: datetime
) -> None:
    """df-execution 12.8: strictly after now."""
    found = next_time(expression, after, timezone=timezone)
    assert found > after
    middle = after + (found - after) / 2
    assert next_time(expression, middle, timezone=timezone) == found
    assert next_time(expression, found - timedelta(seconds=1), timezone=timezone) == found
