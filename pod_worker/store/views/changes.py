"""What an event changes in the views, as data.

One type for each rule that holds in any order of arrival.

`control.events.projections` makes changes, `store.views.writer` applies them. They are structs, because there are
many a second. Field paths are dotted and snake_case; `versioned` translates them to camelCase. `quote_segment`
quotes a name from the wire (of a stage or a metric).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import TypeAlias

import msgspec

from pod_worker.core.event import Version
from pod_worker.core.run import Json, RunStatus

SELECTED_IDEA = "idea_json"  # the group of a hypothesis that a person's choice outranks
_QUOTED = str.maketrans({"%": "%25", ".": "%2E", "$": "%24", "\0": "%00"})


class View(StrEnum):
    RUN = "run"
    STAGE = "stage"
    VALIDATION = "validation"
    ARTIFACT = "artifact"
    IDEATION = "ideation"  # the request that the run carries out; never created by an event
    HYPOTHESIS = "hypothesis"  # the row's key is its id; only while the run's request is its current one

    __hash__ = str.__hash__  # the enum's own hash is written in Python


class CamelCaseKeys(dict[str, Json]):
    """A value whose snake_case keys are translated like paths.

    Any other dict is written as it is.
    """


class FieldUpdate(msgspec.Struct, frozen=True):
    """Fields of one document written together, only over an older version.

    `key` names the row within the run ("" for the run itself). None means absent.
    """

    view: View
    key: str
    group: str
    fields: Mapping[str, Json]


class MetricPoint(msgspec.Struct, frozen=True, gc=False):
    """One point of a metric's series.

    A later one for the same step (or moment) replaces it.
    """

    stage: str
    name: str
    value: float
    time: datetime
    step: int | None = None
    epoch: float | None = None
    unit: str | None = None
    is_latest_shown: bool = True  # also as the run's latest value of that metric


class StatusTransition(msgspec.Struct, frozen=True):
    """A step of the run's status.

    `path` lists the states that the run must pass, the new status last.

    `groups` are field groups of that step: written if the run takes the step, or took it before in this attempt.
    """

    path: tuple[RunStatus, ...]
    groups: Mapping[str, Mapping[str, Json]] = {}


Change: TypeAlias = FieldUpdate | MetricPoint | StatusTransition
RowKey: TypeAlias = tuple["View", str, str]  # view, run id, key
SeriesKey: TypeAlias = tuple[str, str, str]  # run id, stage, name


class VersionedTransition(msgspec.Struct, frozen=True):
    """A transition with the attempt and the version of its event."""

    attempt: int
    version: Version
    move: StatusTransition


class DocumentChanges(msgspec.Struct):
    """The changes of one document: newest fields of each group, and transitions."""

    newest: dict[str, tuple[Version, Mapping[str, Json]]] = {}
    moves: list[VersionedTransition] = []

    def add(self, group: str, version: Version, fields: Mapping[str, Json]) -> None:
        known = self.newest.get(group)
        if known is None or known[0] < version:
            self.newest[group] = (version, fields)


class ViewChanges:
    """What many events change, in any order.

    Fields that a newer event overwrites are dropped at once. Points are kept by series from the start, because
    there are many of them.
    """

    __slots__ = ("rows", "series")

    def __init__(self) -> None:
        self.rows: defaultdict[RowKey, DocumentChanges] = defaultdict(DocumentChanges)
        self.series: defaultdict[SeriesKey, list[tuple[Version, MetricPoint]]] = defaultdict(list)

    def add(self, run_id: str, attempt: int, version: Version, change: Change) -> None:
        if isinstance(change, MetricPoint):
            self.series[run_id, change.stage, change.name].append((version, change))
        elif isinstance(change, FieldUpdate):
            self.rows[change.view, run_id, change.key].add(change.group, version, change.fields)
        else:
            self.rows[View.RUN, run_id, ""].moves.append(VersionedTransition(attempt, version, change))

    def merge(self, other: ViewChanges) -> None:
        self.merge_rows(other)
        for series_key, points in other.series.items():
            self.series[series_key] += points

    def merge_rows(self, other: ViewChanges) -> None:
        for row_key, theirs in other.rows.items():
            row = self.rows[row_key]
            row.moves += theirs.moves
            for group, (version, fields) in theirs.newest.items():
                row.add(group, version, fields)

    def describe(self) -> str:
        """Which runs it concerns, for a log."""
        runs = sorted({run_id for _, run_id, _ in self.rows} | {run_id for run_id, _, _ in self.series})
        return f"run {runs[0]}" if len(runs) == 1 else f"{len(runs)} runs"

    def split_in_two(self) -> list[ViewChanges]:
        """The same changes in two parts; empty when they concern one document or series."""
        rows, series = list(self.rows.items()), list(self.series.items())
        if len(rows) + len(series) < 2:
            return []
        parts = [ViewChanges(), ViewChanges()]
        for index, (row_key, row) in enumerate(rows):
            parts[index % 2].rows[row_key] = row
        for index, (series_key, points) in enumerate(series, len(rows)):
            parts[index % 2].series[series_key] = points
        return parts


@lru_cache(maxsize=10_000)
def quote_segment(word: str) -> str:
    """A name from the wire as one segment of a field path."""
    return "=" + word.translate(_QUOTED)


def unquote_segment(segment: str) -> str:
    """The name on the wire, from the field name in the database."""
    for letter, code in (("\0", "%00"), ("$", "%24"), (".", "%2E"), ("%", "%25")):
        segment = segment.replace(code, letter)
    return segment
