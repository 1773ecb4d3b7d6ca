"""Total readers of document fields: another type reads as the default.

None of them raises.

Other programs write documents too. A number may be NaN, 2**70 or text; a date may lie beyond the year 9999.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

from bson.datetime_ms import DatetimeMS

from pod_worker.core.run import Json
from pod_worker.store.mongo import Document

T = TypeVar("T")

COUNTER_LIMIT = 10**8 - 1  # attempts and budgets: the eight digits that an event's version has


def typed(document: Mapping[str, Json], field: str, kind: type[T]) -> T | None:
    """The field if it is of that type, else None."""
    value = document.get(field)
    return value if isinstance(value, kind) else None


def text(document: Mapping[str, Json], field: str) -> str | None:
    return typed(document, field, str)


def moment(document: Mapping[str, Json], field: str) -> datetime | None:
    return typed(document, field, datetime)


def mapping(document: Mapping[str, Json], field: str) -> Document:
    return typed(document, field, dict) or {}


def texts(document: Mapping[str, Json], field: str) -> tuple[str, ...]:
    """The strings of a list; nothing of a field of another type."""
    return tuple(each for each in typed(document, field, list) or [] if isinstance(each, str))


def counter(value: Json) -> int | None:
    """A count as MongoDB's clients write it (also as a double), else None."""
    number = integer(value)
    return number if number is not None and 0 <= number <= COUNTER_LIMIT else None


def integer(value: Json) -> int | None:
    """An integer, also one that a client wrote as a double; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():  # also NaN and the infinities
        return None
    return int(value)


def finite(value: Json) -> float | None:
    """A number that JSON can hold, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def plain_json(value: Json) -> Json:
    """The value with every part that JSON cannot hold replaced.

    Dates and ids become text, NaN becomes null.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain_json(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, DatetimeMS):
        return int(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)
