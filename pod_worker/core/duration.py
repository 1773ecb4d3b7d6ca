"""Durations as people write them, in job files and on the command line."""

from __future__ import annotations

import re

LONGEST_SECONDS = 3660 * 86_400.0  # ten years
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_TEXT = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)


class DurationError(ValueError):
    """The text is no duration; the message says what to write."""


def duration_seconds(value: str | float, *, needs_unit: bool = False) -> float:
    """Seconds of a number, "90m", "1h30m" or "2d".

    `needs_unit` refuses a bare number, where people may mean days by it. Raises DurationError.
    """
    text = str(value).strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif _NUMBER.fullmatch(text) and not needs_unit:
        seconds = float(text)
    elif _TEXT.fullmatch(text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    else:
        forms = "a text" if needs_unit else "seconds, or a text"
        raise DurationError(f'{text!r:.60} is no duration: give {forms} such as "90m", "1h30m" or "2d"')
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise DurationError(f"{value!r:.60} is no duration of at most ten years")
    return seconds
