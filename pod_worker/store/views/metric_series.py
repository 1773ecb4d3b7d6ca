"""The metric series: points that arrived together are one unchanging document.

A reader merges them: the point with the largest version stands for its step (or, without steps, its moment). So
writing costs one insert per run and batch, in any order and any number of times. `compact` rewrites the documents
of a run as a few large ones. Why not a time-series collection, or one document per point:
docs/decisions/003-metrics-collection.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import msgspec
from pymongo import ASCENDING, IndexModel
from pymongo.errors import BulkWriteError

from pod_worker.core.event import Version, version_of
from pod_worker.core.row_id import row_id
from pod_worker.core.run import Json
from pod_worker.store.collections import METRICS
from pod_worker.store.document_fields import finite, mapping
from pod_worker.store.errors import is_duplicate_only
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.views.changes import MetricPoint, SeriesKey

COMPACT_POINTS = 5_000  # at most in one document, about half a megabyte

INDEXES: dict[str, list[IndexModel]] = {METRICS: [IndexModel([("runId", ASCENDING)], name="run")]}

# A column's lists, an element for each point: attempt, seq and event id (with the time they are its version), step
# ("k"), value, time.
_LISTS = ("a", "q", "i", "k", "x", "t")


class Sample(msgspec.Struct, frozen=True):
    step: int | None
    value: float
    time: datetime
    epoch: float | None = None
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Series:
    stage: str
    name: str
    unit: str | None
    samples: list[Sample]  # in order of step, then time


Versioned: TypeAlias = tuple[Version, MetricPoint]
_Column: TypeAlias = tuple[str, str, Sequence[Versioned]]  # stage, name, points
_Merged: TypeAlias = dict[int | datetime, tuple[Version, Sample]]


class MetricSeries:
    def __init__(self, database: Mongo) -> None:
        self._metrics = tolerant_rows(database, METRICS)

    def add(self, series: Mapping[SeriesKey, Sequence[Versioned]]) -> None:
        """One round trip."""
        by_run: dict[str, list[_Column]] = {}
        for (run_id, stage, name), points in series.items():
            by_run.setdefault(run_id, []).append((stage, name, points))
        self._insert([row for run_id, columns in by_run.items() for row in _documents(run_id, columns)])

    def _insert(self, documents: list[Document]) -> None:
        if not documents:
            return
        try:
            self._metrics.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            # The same points have the same id.
            if not is_duplicate_only(error):
                raise

    def read(self, run_id: str, names: Sequence[str] = (), stage: str | None = None) -> list[Series]:
        """The series of a run, all or the named ones, in order of stage and name."""
        merged, units = self._merged(run_id)
        return [
            Series(key[0], key[1], units.get(key), [sample for _, sample in _ordered(found)])
            for key, found in sorted(merged.items())
            if (not names or key[1] in names) and (stage is None or key[0] == stage)
        ]

    def compact(self, run_id: str) -> None:
        """Rewrite the run's documents as few as possible.

        A crash half-way leaves points twice, never none.
        """
        old = [row["_id"] for row in self._metrics.find({"runId": run_id}, {"_id": 1})]
        merged, units = self._merged(run_id)
        columns: list[_Column] = []
        for (stage, name), found in sorted(merged.items()):
            unit = units.get((stage, name))
            points = [
                (version, MetricPoint(stage, name, each.value, each.time, each.step, each.epoch, unit))
                for version, each in _ordered(found)
            ]
            columns.append((stage, name, points))
        new = list(_documents(run_id, columns))
        self._insert(new)
        kept = {row["_id"] for row in new}
        replaced = [name for name in old if not isinstance(name, str) or name not in kept]
        self._metrics.delete_many({"_id": {"$in": replaced}})

    def _merged(self, run_id: str) -> tuple[dict[tuple[str, str], _Merged], dict[tuple[str, str], str]]:
        merged: dict[tuple[str, str], _Merged] = {}
        units: dict[tuple[str, str], str] = {}
        for document in self._metrics.find({"runId": run_id}):
            for column in _columns(document):
                key = (str(column.get("s", "")), str(column.get("n", "")))
                if isinstance(column.get("u"), str):
                    units[key] = column["u"]
                _merge(merged.setdefault(key, {}), column)
        return merged, units


def _documents(run_id: str, columns: Iterable[_Column]) -> Iterator[Document]:
    """As few documents as can hold the points.

    A document's id follows from its content, so that repeated points are one document.
    """
    held: list[_Column] = []
    free = COMPACT_POINTS
    for stage, name, points in columns:
        while points:
            part, points = points[:free], points[free:]
            held.append((stage, name, part))
            free -= len(part)
            if not free:
                yield _document(run_id, held)
                held, free = [], COMPACT_POINTS
    if held:
        yield _document(run_id, held)


def _document(run_id: str, columns: Sequence[_Column]) -> Document:
    encoded = [_column(*column) for column in columns]
    identity = repr([(column["s"], column["n"], column["a"], column["i"]) for column in encoded])
    digest = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    return {"_id": row_id(run_id, digest), "runId": run_id, "columns": encoded}


def _column(stage: str, name: str, points: Sequence[Versioned]) -> Document:
    column: Document = {
        "s": stage,
        "n": name,
        "a": [version[0] for version, _ in points],
        "q": [version[1] for version, _ in points],
        "i": [version[3] for version, _ in points],
        "k": [point.step for _, point in points],
        "x": [point.value for _, point in points],
        "t": [point.time for _, point in points],
    }
    epochs = {str(index): point.epoch for index, (_, point) in enumerate(points) if point.epoch is not None}
    if epochs:
        column["e"] = epochs
    units = [point.unit for _, point in points if point.unit is not None]
    if units:
        column["u"] = units[-1]
    return column


def _columns(document: Document) -> list[Document]:
    columns: Json = document.get("columns")
    return [column for column in columns if isinstance(column, dict)] if isinstance(columns, list) else []


def _merge(merged: _Merged, column: Document) -> None:
    lists = [column.get(name) for name in _LISTS]
    if not all(isinstance(each, list) for each in lists):
        return
    epochs = mapping(column, "e")
    for index, (attempt, seq, event_id, step, value, time) in enumerate(zip(*lists, strict=False)):
        if not isinstance(attempt, int) or not isinstance(seq, int) or not isinstance(time, datetime):
            continue
        # NaN and the infinities can be neither drawn nor sent as JSON.
        if not isinstance(value, int | float) or not math.isfinite(value):
            continue
        version = version_of(attempt, seq, time, str(event_id))
        known_step = step if isinstance(step, int) else None
        key: int | datetime = time if known_step is None else known_step
        known = merged.get(key)
        if known is None or known[0] < version:
            epoch = epochs.get(str(index)) if epochs else None
            merged[key] = (version, Sample(known_step, value, time, finite(epoch), attempt))


def _ordered(merged: _Merged) -> list[tuple[Version, Sample]]:
    return sorted(
        merged.values(), key=lambda each: (each[1].step if each[1].step is not None else -1, each[1].time)
    )
