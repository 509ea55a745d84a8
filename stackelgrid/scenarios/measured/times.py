"""Read times as meters and portals write them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from stackelgrid.scenarios.measured.declarations import check_year

_RANGE = re.compile(r"(.*\d{1,2}:\d{2}(?::\d{2})?)\s*(?: - |–|/)\s*\d.*")
_TWENTY_FOUR = re.compile(r"(?<!\d)24(:00(?::00)?)(?!\d)")
_EPOCH = re.compile(r"\d{9,10}(\.\d+)?|\d{12,13}")
_MILLISECONDS = 10**11
_ZONE_MARK = re.compile(r"\s*\((?:CET|CEST)\)")
"""After local times of ENTSO-E on days on which clocks change; the order of rows says the same."""
DATES = ("iso", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y")
_CLOCKS = ("%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p")
FORMATS = (
    *("epoch", "iso", "%Y%m%d:%H%M", "%Y%m%d%H%M"),
    *(f"{day} {clock}" for day in (*DATES[1:], "%Y-%m-%d", "%Y%m%d") for clock in _CLOCKS),
)
"""The ways in which times are written, by strptime and the words of `read_time`."""
_PERHAPS_TIME = re.compile(r"\d.*[-/.: ].*[-/.:].*\d|\d{8}")
_TIME_OF_DAY = re.compile(r"(\d{1,2})[:.h](\d{2})(?::00)?(?:\s*[-–]\s*(\d{1,2})[:.h](\d{2})(?::00)?)?")
_NUMBER_OF_DAY = re.compile(r"[A-Za-z_ ]*0*(\d{1,3})")
_CLOCK = re.compile(r"\d{1,2}:\d{2}")
_MIDNIGHT = ("00:00", "0:00", "24:00")
_DAY = timedelta(days=1)


@lru_cache(100_000)
def read_time(text: str, form: str | None) -> datetime:
    """Read a time: in UTC when it is written with an offset or as seconds, else local without one.

    `form` is a format of strptime, `epoch` for seconds or milliseconds since 1970, or `iso` or None for ISO 8601. Of a
    range its beginning is read. 24:00 is the end of its day. Raises `ValueError` for what is no such time.
    """
    if form == "epoch":
        if not _EPOCH.fullmatch(text):
            raise ValueError("no seconds since 1970")
        seconds = float(text)
        return check_year(datetime.fromtimestamp(seconds / 1000 if seconds > _MILLISECONDS else seconds, UTC))
    text = _ZONE_MARK.sub("", text)
    whole = _RANGE.fullmatch(text)
    begin = whole[1].strip() if whole else text
    at_midnight = _TWENTY_FOUR.sub(r"00\1", begin)
    form = None if form == "iso" else form
    at = check_year(datetime.strptime(at_midnight, form) if form else datetime.fromisoformat(at_midnight))
    at = at if at.tzinfo is None else at.astimezone(UTC)
    return at + _DAY if at_midnight != begin else at


def is_twice(local: datetime, zone: ZoneInfo) -> bool:
    """Say whether a local time is there twice, as in the hour by which clocks are set back (PEP 495)."""
    first, second = (local.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta() for fold in (0, 1))
    return first > second


def list_formats(stamps: Sequence[str], formats: Iterable[str]) -> list[str]:
    """List the formats in which some times may be written, the first of those that mean the same.

    Where days and months may be taken for each other, those with the evenest steps.
    """
    forms: dict[tuple[datetime, ...], str] = {}
    for form in formats if stamps and _PERHAPS_TIME.search(stamps[0]) else ():
        with suppress(ValueError):
            times = [read_time(stamp, form) for stamp in stamps]
            if formats is DATES or any(":" in stamp or form == "epoch" for stamp in stamps):
                forms.setdefault(tuple(times), form)
    evenness = {form: _count_even_steps(times) for times, form in forms.items()}
    return [form for form, count in evenness.items() if count == max(evenness.values())]


def _count_even_steps(times: Sequence[datetime]) -> int:
    """Count the commonest time from one row to the next; rows of which only some have an offset have none."""
    if len({at.tzinfo for at in times}) > 1:
        return 0
    return max(Counter(after - before for before, after in pairwise(times)).values(), default=0)


def guess_format(text: str) -> str:
    """Say, after the key `format`, what would read a time that is not ISO 8601."""
    if _EPOCH.fullmatch(text):
        return ": epoch if these are seconds since 1970"
    return ", as in '%d.%m.%Y %H:%M'"


def has_day_per_row(header: Sequence[str]) -> bool:
    """Tell by its columns' names whether a table has a day per row."""
    return sum(_TIME_OF_DAY.fullmatch(name) is not None for name in header) >= 24


def find_ends(times: Sequence[str]) -> str | None:
    """Give the first and the last of some times where these look like the ends of intervals: 00:15 to 24:00."""
    clocks = [_CLOCK.search(time) for time in (times[0], times[-1])] if times else []
    texts = [clock[0] for clock in clocks if clock]
    if len(texts) == 2 and texts[0] not in _MIDNIGHT and texts[1] in _MIDNIGHT:
        return " to ".join(texts)
    return None


def read_times_of_day(header: Sequence[str], ends: bool) -> dict[int, timedelta]:
    """Find the columns of a table with a day per row: their places, and how long after midnight each one's time is.

    They are named by a time (00:15), by its interval (00:00-00:15), or counted from 1. The time of a column that
    `ends` its interval is after midnight: 00:00 is the end of the day. Raises `ValueError` where there are none.
    """
    times = {place: match for place, name in enumerate(header) if (match := _TIME_OF_DAY.fullmatch(name))}
    if len(times) >= 2:
        return {place: _read_column_time(match, ends) for place, match in times.items()}
    counted = {place: int(match[1]) for place, name in enumerate(header) if (match := _NUMBER_OF_DAY.fullmatch(name))}
    most = max(counted.values(), default=0)
    if most not in (24, 48, 96, 288) or sorted(counted.values()) != list(range(1, most + 1)):
        raise ValueError("no columns named by times of the day, as in 00:15 or 00:00-00:15, or counted from 1")
    return {place: (number if ends else number - 1) * _DAY / most for place, number in counted.items()}


def _read_column_time(name: re.Match[str], ends: bool) -> timedelta:
    """Read the time of a column: of an interval its beginning or its end."""
    hour, minute = name.groups()[2:] if ends and name[3] else name.groups()[:2]
    at = timedelta(hours=int(hour), minutes=int(minute))
    return _DAY if ends and not at else at
