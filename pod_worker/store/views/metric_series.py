"""The metric series: points that arrived together are one unchanging document.

A reader merges them: the point with the largest version stands for its step (or, without steps, its moment). So
writing costs one insert per run and batch, in any order and any number of times. `compact` rewrites the documents
of a run as a few large ones. Reading and compacting hold at most POINTS_LIMIT points of a run: the longest series
become even samples of their steps, with their first and last point.

Why not a time-series collection, or one document per point: docs/decisions/003-metrics-collection.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import msgspec
from pymongo import ASCENDING, IndexModel
from pymongo.errors import BulkWriteError

from pod_worker.core.event import Version, version_of
from pod_worker.core.identifiers.row_id import row_id
from pod_worker.core.run import Json
from pod_worker.store.collections import METRICS
from pod_worker.store.document_fields import finite, mapping
from pod_worker.store.errors import is_duplicate_only
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.views.changes import MetricPoint, SeriesKey

COMPACT_POINTS = 5_000  # at most in one document, about half a megabyte
POINTS_LIMIT = 100_000  # of one run, in memory and after `compact`
SERIES_LIMIT = 1_000  # of one run; names beyond it are left out
DOCUMENTS_LIMIT = 500  # of one run, before `limit_documents` compacts them

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
_Wanted: TypeAlias = Callable[[str, str], bool]  # of stage and name


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
        merged = self._merged(
            run_id, lambda its_stage, name: (not names or name in names) and stage in (None, its_stage)
        )
        return [
            Series(key[0], key[1], found.unit, [sample for _, sample in found.ordered()])
            for key, found in sorted(merged.items())
        ]

    def limit_documents(self) -> int:
        """Compact every run with more than DOCUMENTS_LIMIT documents.

        Returns how many runs it compacted.
        """
        compacted = 0
        for group in self._metrics.aggregate([{"$group": {"_id": "$runId"}}]):
            run_id = group["_id"]
            if isinstance(run_id, str) and self._has_many_documents(run_id):
                self.compact(run_id)
                compacted += 1
        return compacted

    def _has_many_documents(self, run_id: str) -> bool:
        return self._metrics.count_documents({"runId": run_id}, limit=DOCUMENTS_LIMIT + 1) > DOCUMENTS_LIMIT

    def compact(self, run_id: str) -> None:
        """Rewrite the run's documents as few as possible.

        A crash half-way leaves points twice, never none.
        """
        old = [row["_id"] for row in self._metrics.find({"runId": run_id}, {"_id": 1})]
        columns: list[_Column] = []
        for (stage, name), found in sorted(self._merged(run_id, lambda *_: True).items()):
            points = [
                (version, MetricPoint(stage, name, each.value, each.time, each.step, each.epoch, found.unit))
                for version, each in found.ordered()
            ]
            columns.append((stage, name, points))
        new = list(_documents(run_id, columns))
        self._insert(new)
        kept = {row["_id"] for row in new}
        replaced = [name for name in old if not isinstance(name, str) or name not in kept]
        self._metrics.delete_many({"_id": {"$in": replaced}})

    def _merged(self, run_id: str, wanted: _Wanted) -> dict[tuple[str, str], _MergedSeries]:
        """The series by stage and name, within POINTS_LIMIT and SERIES_LIMIT."""
        merged: dict[tuple[str, str], _MergedSeries] = {}
        points = 0
        for document in self._metrics.find({"runId": run_id}):
            for column in _columns(document):
                key = (str(column.get("s", "")), str(column.get("n", "")))
                if wanted(*key) and (key in merged or len(merged) < SERIES_LIMIT):
                    points += merged.setdefault(key, _MergedSeries()).merge(column)
            while points > POINTS_LIMIT:
                points -= max(merged.values(), key=len).thin()
        return merged


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


class _MergedSeries:
    """The newest point of each step, or of an even sample of the steps.

    Whether a step belongs to the sample depends on the step alone, so that the order of the documents and the
    versions of a point do not matter. The first and the last point always belong to it.
    """

    def __init__(self) -> None:
        self.unit: str | None = None
        self._points: dict[int | datetime, tuple[Version, Sample]] = {}
        self._halvings = 0
        self._first: Sample | None = None  # since the first halving
        self._last: Sample | None = None

    def __len__(self) -> int:
        return len(self._points)

    def ordered(self) -> list[tuple[Version, Sample]]:
        return sorted(self._points.values(), key=lambda each: _order(each[1]))

    def merge(self, column: Document) -> int:
        """Returns by how many points the series grew."""
        before = len(self._points)
        if isinstance(column.get("u"), str):
            self.unit = column["u"]
        for version, sample in _samples(column):
            key = _key(sample)
            known = self._points.get(key)
            if known is None and not self._takes(key, sample):
                continue
            if known is None or known[0] < version:
                self._points[key] = (version, sample)
        return len(self._points) - before

    def thin(self) -> int:
        """Keep about half of the points; returns how many are gone."""
        before = len(self._points)
        if not self._halvings:
            ordered = self.ordered()
            self._first, self._last = ordered[0][1], ordered[-1][1]
        self._halvings += 1
        self._points = {key: found for key, found in self._points.items() if self._is_sampled(key)}
        return before - len(self._points)

    def _takes(self, key: int | datetime, sample: Sample) -> bool:
        """Whether a new step belongs to the sample.

        A step beyond an end takes the place of that end.
        """
        if self._first is None or self._last is None:
            return True
        if _order(sample) < _order(self._first):
            replaced, self._first = self._first, sample
        elif _order(sample) > _order(self._last):
            replaced, self._last = self._last, sample
        else:
            return self._is_sampled(key)
        if not self._is_sampled(_key(replaced)):
            self._points.pop(_key(replaced), None)
        return True

    def _is_sampled(self, key: int | datetime) -> bool:
        if self._first is not None and self._last is not None and key in (_key(self._first), _key(self._last)):
            return True
        number = key if isinstance(key, int) else int(key.timestamp() * 1_000_000)
        return (number * _SPREAD % 2**64) << self._halvings < 2**64


_SPREAD = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: successive multiples are evenly spread (Knuth, TAOCP 3, 6.4)


def _samples(column: Document) -> Iterator[tuple[Version, Sample]]:
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
        epoch = epochs.get(str(index)) if epochs else None
        known_step = step if isinstance(step, int) else None
        version = version_of(attempt, seq, time, str(event_id))
        yield version, Sample(known_step, value, time, finite(epoch), attempt)


def _key(sample: Sample) -> int | datetime:
    return sample.time if sample.step is None else sample.step


def _order(sample: Sample) -> tuple[int, datetime]:
    return (sample.step if sample.step is not None else -1, sample.time)
