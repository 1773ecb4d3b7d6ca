"""The table: one row per question, with the figure, the target, and what the row means in words.

A row is met, missed, or only informs. The exit code follows from the rows alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

OFFENDERS = 8  # shown per row


@dataclass(frozen=True, slots=True)
class Row:
    """`is_met` None: no target, for information. `offenders` name what broke the target."""

    name: str
    value: str
    target: str
    is_met: bool | None
    meaning: str
    offenders: list[str] = field(default_factory=list)


def zero_target_row(name: str, offenders: Sequence[str], meaning: str, *, of: int | None = None) -> Row:
    """A row whose target is 0."""
    value = f"{len(offenders)}" if of is None else f"{len(offenders)} of {of}"
    return Row(name, value, "0", not offenders, meaning, list(offenders))


def info_row(name: str, value: str, meaning: str) -> Row:
    return Row(name, value, "", None, meaning)


def missed(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.is_met is False]


def table(rows: Sequence[Row]) -> str:
    names = max(len(row.name) for row in rows)
    values = max(len(row.value) for row in rows)
    targets = max(len(row.target) for row in rows)
    marks = {True: "ok  ", False: "MISS", None: "    "}
    lines = []
    for row in rows:
        figures = f"{row.name:<{names}}  {row.value:>{values}}  {row.target:<{targets}}"
        lines.append(f"{marks[row.is_met]} {figures}  {row.meaning}")
        lines += [f"       - {text}" for text in row.offenders[:OFFENDERS]]
        if len(row.offenders) > OFFENDERS:
            lines.append(f"       - … and {len(row.offenders) - OFFENDERS} more")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], **about: object) -> str:
    return json.dumps(
        {**about, "met": not missed(rows), "rows": [asdict(row) for row in rows]}, indent=1, default=str
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(len(ordered) * share * 1000) // 1000) - 1))]
