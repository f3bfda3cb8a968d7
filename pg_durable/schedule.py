"""Schedule expressions: from one instant to the next that matches. Pure: it runs again in replay.

The classic dialect is cron's: minute, hour, day of month, month, day of week, where 0 and 7 are Sunday
and two restricted day fields mean "either". `quartz` counts days from 1 = Sunday to 7 = Saturday, means
"both", and takes a year as a sixth field. In a time zone, what falls into the gap of spring happens
right after it, and what falls into the hour that autumn repeats happens once, the first time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_LONG_NAMES = re.compile(
    r"(SUN)DAY|(MON)DAY|(TUE)SDAY|(WED)NESDAY|(THU)RSDAY|(FRI)DAY|(SAT)URDAY|(JAN)UARY|(FEB)RUARY"
    r"|(MAR)CH|(APR)IL|(JUN)E|(JUL)Y|(AUG)UST|(SEP)TEMBER|(OCT)OBER|(NOV)EMBER|(DEC)EMBER"
)
_FIELD = re.compile(r"[A-Z0-9*?/,#-]+")
_LAST_YEAR = 2100
_DAY_FIELDS = (2, 4)


class ScheduleError(ValueError):
    """The expression, the time zone or the dialect is not one, or nothing ever matches."""


def next_time(
    expression: str, after: datetime, *, timezone: str = "UTC", dialect: str = "classic"
) -> datetime:
    """The first match strictly after an instant, in UTC.

    Args:
        after: aware.
        timezone: an IANA name.

    Raises:
        ScheduleError: the message quotes the expression.
    """
    zone = _zone(timezone)
    try:
        match dialect:
            case "classic":
                found = _classic(expression, after, zone)
            case "quartz":
                found = _quartz(expression, after, zone)
            case _:
                raise ScheduleError(f"Unknown cron dialect '{dialect}'; use classic or quartz")
    except CronSimError as error:
        raise ScheduleError(f"Invalid cron expression '{expression}': {error}") from error
    if found is None:
        raise ScheduleError(f"No upcoming schedule found for '{expression}'")
    return found.astimezone(UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ScheduleError(f"Unknown time zone '{name}'; use an IANA name") from error


def _classic(expression: str, after: datetime, zone: ZoneInfo) -> datetime | None:
    text = expression.strip()
    if text.startswith("@"):
        nickname = _NICKNAMES.get(text.lower())
        if nickname is None:
            raise CronSimError(f"unknown nickname; there are {', '.join(_NICKNAMES)}")
        text = nickname
    fields = _fields(text, {5})
    return _first(" ".join(fields), after, zone)


def _quartz(expression: str, after: datetime, zone: ZoneInfo) -> datetime | None:
    fields = _fields(expression, {5, 6})
    minute, hour, day, month, weekday, *year = fields
    days = _numbers(weekday, 1, 7, _DAYS)
    years = _numbers(year[0], 1970, _LAST_YEAR) if year else range(1970, _LAST_YEAR + 1)
    without_weekday = f"{minute} {hour} {day} {month} *"
    moment = after
    while moment.astimezone(zone).year <= _LAST_YEAR:
        found = _first(without_weekday, moment, zone)
        if found is None:
            return None
        local = found.astimezone(zone)
        if local.year not in years:
            coming = [candidate for candidate in years if candidate > local.year]
            if not coming:
                return None
            moment = datetime(min(coming), 1, 1, tzinfo=zone) - timedelta(seconds=1)
        elif local.isoweekday() % 7 + 1 not in days:
            midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
            moment = midnight + timedelta(days=1, seconds=-1)
        else:
            return found
    return None


def _first(fields: str, after: datetime, zone: ZoneInfo) -> datetime | None:
    # In the hour that autumn repeats, the first match by the wall clock may be over already.
    try:
        matches = CronSim(fields, after.astimezone(UTC if zone.key == "UTC" else zone))
    except CronSimError:
        if _is_right_but_for_the_month(fields, after):  # the 31st of February
            return None
        raise
    for candidate in matches:
        if candidate > after:
            return candidate
    return None


def _is_right_but_for_the_month(fields: str, after: datetime) -> bool:
    minute, hour, day, month, weekday = fields.split()
    try:
        CronSim(f"{minute} {hour} {day} * {weekday}", after)
        CronSim(f"{minute} {hour} * {month} {weekday}", after)
    except CronSimError:
        return False
    return True


def _fields(expression: str, allowed: set[int]) -> list[str]:
    """The fields in short names; `?` is `*`, and means something in the two day fields only."""
    fields = _LONG_NAMES.sub(lambda m: m[m.lastindex or 0], expression.upper()).split()
    if len(fields) not in allowed:
        counts = " or ".join(str(count) for count in sorted(allowed))
        raise CronSimError(f"expected {counts} fields, found {len(fields)}")
    for field in fields:
        if _FIELD.fullmatch(field) is None:
            raise CronSimError(f"unexpected character in '{field}'")
    return [f.replace("?", "*") if place in _DAY_FIELDS else f for place, f in enumerate(fields)]


def _numbers(field: str, lowest: int, highest: int, names: tuple[str, ...] = ()) -> set[int]:
    """The numbers that a list of ranges with steps stands for."""

    def number(text: str) -> int:
        if text in names:
            return names.index(text) + lowest
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise CronSimError(f"'{text}' is not between {lowest} and {highest}")
        return int(text)

    chosen: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        if step and (not step.isdecimal() or int(step) == 0):
            raise CronSimError(f"'{step}' is not a step")
        first, dash, last = span.partition("-")
        if span == "*":
            low, high = lowest, highest
        else:
            low = number(first)
            high = number(last) if dash else highest if step else low
        if low > high:
            raise CronSimError(f"the range '{span}' runs backwards")
        chosen.update(range(low, high + 1, int(step or 1)))
    return chosen
