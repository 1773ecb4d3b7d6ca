"""The metric series: what arrived together is one document, inserted once and never changed.

A reader merges them: the point with the largest version stands for its step (or, without steps, its moment). So
writing costs one insert for each run and batch, in any order and any number of times. `compact` rewrites the
documents of a run as a few large ones. Why not a time-series collection, or one document for each point:
docs/decisions/003-metrics-collection.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from pymongo import ASCENDING, IndexModel
from pymongo.errors import BulkWriteError

from pod_worker.core.event import Version, version_of
from pod_worker.core.run import Json
from pod_worker.store.changes import Point
from pod_worker.store.mongo import Document, Mongo, is_repeat

METRICS = "metrics"
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


@dataclass(frozen=True, slots=True)
class Series:
    stage: str
    name: str
    unit: str | None
    samples: list[Sample]  # in order of step, then time


_Versioned = tuple[Version, Sample]
_Merged = dict[int | datetime, _Versioned]


class MetricSeries:
    def __init__(self, database: Mongo) -> None:
        self._metrics = database[METRICS]

    def add(self, points: Iterable[tuple[str, Version, Point]]) -> None:
        """(run id, version, point) each. One round trip."""
        by_run: dict[str, list[tuple[Version, Point]]] = {}
        for run_id, version, point in points:
            by_run.setdefault(run_id, []).append((version, point))
        self._insert([_chunk(run_id, part) for run_id, each in by_run.items() for part in _parts(each)])

    def _insert(self, documents: list[Document]) -> None:
        if not documents:
            return
        try:
            self._metrics.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            # The same points again, under the same id.
            if not is_repeat(error):
                raise

    def read(self, run_id: str, names: Sequence[str] = (), stage: str | None = None) -> list[Series]:
        """The series of a run, all or those named, in order of stage and name."""
        merged, units = self._merged(run_id)
        return [
            Series(key[0], key[1], units.get(key), [sample for _, sample in _ordered(found)])
            for key, found in sorted(merged.items())
            if (not names or key[1] in names) and (stage is None or key[0] == stage)
        ]

    def compact(self, run_id: str) -> None:
        """Rewrite the run's documents as few as possible. A crash half-way leaves points twice, never none."""
        old = [each["_id"] for each in self._metrics.find({"runId": run_id}, {"_id": 1})]
        merged, units = self._merged(run_id)
        new: list[Document] = []
        for (stage, name), found in sorted(merged.items()):
            points = [
                (version, Point(stage, name, s.value, s.time, s.step, s.epoch, units.get((stage, name))))
                for version, s in _ordered(found)
            ]
            new += [_chunk(run_id, part) for part in _parts(points)]
        self._insert(new)
        kept = {each["_id"] for each in new}
        self._metrics.delete_many({"_id": {"$in": [name for name in old if name not in kept]}})

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


def _parts(points: Sequence[tuple[Version, Point]]) -> Iterator[Sequence[tuple[Version, Point]]]:
    """As many at a time as a document may hold."""
    for start in range(0, len(points), COMPACT_POINTS):
        yield points[start : start + COMPACT_POINTS]


def _chunk(run_id: str, points: Sequence[tuple[Version, Point]]) -> Document:
    """One document; its id follows from what is in it, so that the same points are the same document."""
    columns: dict[tuple[str, str], Document] = {}
    for version, point in points:
        column = columns.get((point.stage, point.name))
        if column is None:
            column = {"s": point.stage, "n": point.name} | {name: [] for name in _LISTS}
            columns[point.stage, point.name] = column
        column["a"].append(version[0])
        column["q"].append(version[1])
        column["i"].append(version[3])
        column["k"].append(point.step)
        column["x"].append(point.value)
        column["t"].append(point.time)
        if point.epoch is not None:
            column.setdefault("e", {})[str(len(column["t"]) - 1)] = point.epoch
        if point.unit is not None:
            column["u"] = point.unit
    named = "\0".join([f"{version[3]}\0{point.name}\0{version[0]}" for version, point in points])
    digest = hashlib.blake2b(named.encode(), digest_size=16).hexdigest()
    return {"_id": f"{run_id}:{digest}", "runId": run_id, "columns": list(columns.values())}


def _columns(document: Document) -> list[Document]:
    columns: Json = document.get("columns")
    return [each for each in columns if isinstance(each, dict)] if isinstance(columns, list) else []


def _merge(merged: _Merged, column: Document) -> None:
    lists = [column.get(name) for name in _LISTS]
    if not all(isinstance(each, list) for each in lists):
        return
    epochs: Json = column.get("e") or {}
    for place, (attempt, seq, event_id, step, value, time) in enumerate(zip(*lists, strict=False)):
        if not isinstance(time, datetime) or not isinstance(value, int | float):
            continue
        if not isinstance(attempt, int) or not isinstance(seq, int):
            continue
        version = version_of(attempt, seq, time, str(event_id))
        key: int | datetime = step if isinstance(step, int) else time
        known = merged.get(key)
        if known is None or known[0] < version:
            is_counted = isinstance(step, int)
            merged[key] = (version, Sample(step if is_counted else None, value, time, epochs.get(str(place))))


def _ordered(merged: _Merged) -> list[_Versioned]:
    return sorted(
        merged.values(), key=lambda each: (each[1].step if each[1].step is not None else -1, each[1].time)
    )
