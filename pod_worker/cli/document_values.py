"""Typed reads from documents that may hold anything.

The value when it has the type, else None or empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from pod_worker.core.run import Json


def as_mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def as_datetime(value: Json) -> datetime | None:
    """Aware, UTC where the value has no zone. Dates that Python cannot hold are None."""
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def as_number(value: Json) -> float | None:
    """A finite number; a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def as_text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None
