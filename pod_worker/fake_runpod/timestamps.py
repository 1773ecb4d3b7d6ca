"""Virtual instants as integer nanoseconds, and their text forms.

v2 uses RFC 3339, v1 also the forms of Go and JavaScript, logs need nanoseconds. Nothing here reads a clock.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR

_FORM = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)? ?(Z|z|[+-]\d\d:?\d\d)?", re.ASCII)


def from_seconds(seconds: float) -> int:
    return round(seconds * SECOND)


def from_datetime(moment: datetime) -> int:
    """Nanoseconds of an aware datetime, exact to its microseconds."""
    whole = moment.astimezone(UTC)
    return int(whole.replace(microsecond=0).timestamp()) * SECOND + whole.microsecond * 1000


def as_datetime(instant: int) -> datetime:
    return datetime.fromtimestamp(instant // SECOND, UTC)


def rfc3339(instant: int) -> str:
    """Seconds when whole, else milliseconds: `2026-11-22T21:05:00.120Z`."""
    millis = instant % SECOND // 1_000_000
    tail = f".{millis:03d}" if millis else ""
    return f"{as_datetime(instant):%Y-%m-%dT%H:%M:%S}{tail}Z"


def rfc3339_nano(instant: int) -> str:
    """All nine digits: text order is time order."""
    return f"{as_datetime(instant):%Y-%m-%dT%H:%M:%S}.{instant % SECOND:09d}Z"


def go_format(instant: int) -> str:
    return f"{as_datetime(instant):%Y-%m-%d %H:%M:%S}.{instant % SECOND // 1_000_000:03d} +0000 UTC"


def javascript_format(instant: int) -> str:
    return f"{as_datetime(instant):%a %b %d %Y %H:%M:%S} GMT+0000 (Coordinated Universal Time)"


def parse(text: str) -> int:
    """RFC 3339 with up to nine fractional digits; a missing zone reads as UTC.

    Raises ValueError.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 date-time such as 2026-11-22T21:05:00Z")
    day, clock, fraction, zone = match.groups()
    offset = "+00:00" if zone in (None, "Z", "z") else zone
    whole = int(datetime.fromisoformat(f"{day}T{clock}{offset}").timestamp())
    return whole * SECOND + int((fraction or "0").ljust(9, "0"))
