"""The metric series: up to 128 points of one metric in one document, kept by step.

A point is replaced only by one with a larger version, which `$max` decides by itself because the version is the
point's first field (BSON compares documents field by field). Why buckets and not a time-series collection:
docs/decisions/003-metrics-collection.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError

from pod_worker.core.run import Json
from pod_worker.store.changes import Point
from pod_worker.store.mongo import Document, Mongo

METRICS = "metrics"
BUCKET_STEPS = 128
BUCKET_SECONDS = 1800  # of points that have no step
READ_BUCKETS = 20_000

INDEXES: dict[str, list[IndexModel]] = {
    METRICS: [
        IndexModel(
            [("runId", ASCENDING), ("name", ASCENDING), ("stage", ASCENDING), ("bucket", ASCENDING)], name="series"
        )
    ]
}

_DUPLICATE_KEY = 11000


@dataclass(frozen=True, slots=True)
class Sample:
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


class MetricSeries:
    def __init__(self, database: Mongo) -> None:
        self._metrics = database[METRICS]

    def add(self, points: Iterable[tuple[str, str, Point]]) -> None:
        """(run id, version, point) each. One round trip."""
        buckets: dict[str, tuple[Document, Document]] = {}
        for run_id, version, point in points:
            bucket, key = _place(point)
            name = f"{run_id}:{point.stage}:{point.name}:{bucket}"
            found = buckets.get(name)
            if found is None:
                head = {"runId": run_id, "stage": point.stage, "name": point.name, "bucket": bucket}
                found = buckets[name] = (head, {})
            _keep_newest(found[1], f"points.{key}", _document(version, point))
            if point.unit is not None:
                found[1]["unit"] = point.unit
        writes = [
            UpdateOne({"_id": name}, {"$setOnInsert": head, "$max": points}, upsert=True)
            for name, (head, points) in buckets.items()
        ]
        if writes:
            self._write(writes)

    def _write(self, writes: list[UpdateOne]) -> None:
        try:
            self._metrics.bulk_write(writes, ordered=False)
        except BulkWriteError as error:
            errors = error.details["writeErrors"]
            if any(each["code"] != _DUPLICATE_KEY for each in errors):
                raise
            self._metrics.bulk_write([writes[each["index"]] for each in errors], ordered=False)

    def read(self, run_id: str, names: Sequence[str] = (), stage: str | None = None) -> list[Series]:
        """The series of a run, all or those named."""
        wanted: Document = {"runId": run_id}
        if names:
            wanted["name"] = {"$in": list(names)}
        if stage is not None:
            wanted["stage"] = stage
        order = [("name", ASCENDING), ("stage", ASCENDING), ("bucket", ASCENDING)]
        gathered: dict[tuple[str, str], tuple[str | None, list[Sample]]] = {}
        for document in self._metrics.find(wanted).sort(order).limit(READ_BUCKETS):
            name = (str(document.get("stage", "")), str(document.get("name", "")))
            unit, samples = gathered.get(name, (None, []))
            samples.extend(_samples(document))
            gathered[name] = (document.get("unit") or unit, samples)
        return [
            Series(stage, name, unit, sorted(samples, key=_order))
            for (stage, name), (unit, samples) in gathered.items()
        ]


def _place(point: Point) -> tuple[int, str]:
    """(bucket, key within it). Points without a step are told apart by their moment."""
    if point.step is not None:
        return point.step // BUCKET_STEPS, str(point.step)
    moment = point.time.timestamp()
    return int(moment // BUCKET_SECONDS), f"t{int(moment * 1000)}"


def _document(version: str, point: Point) -> Document:
    document: Document = {"v": version, "x": point.value, "t": point.time}
    if point.epoch is not None:
        document["e"] = point.epoch
    return document


def _keep_newest(points: Document, path: str, document: Document) -> None:
    known = points.get(path)
    if known is None or known["v"] < document["v"]:
        points[path] = document


def _samples(document: Document) -> list[Sample]:
    points: Json = document.get("points")
    found = [_sample(str(key), each) for key, each in points.items()] if isinstance(points, dict) else []
    return [sample for sample in found if sample is not None]


def _sample(key: str, each: Json) -> Sample | None:
    if not isinstance(each, dict) or not isinstance(each.get("t"), datetime):
        return None
    value, epoch = each.get("x"), each.get("e")
    if not isinstance(value, int | float):
        return None
    try:
        step = None if key.startswith("t") else int(key)
    except ValueError:
        return None
    return Sample(step, float(value), each["t"], epoch if isinstance(epoch, int | float) else None)


def _order(sample: Sample) -> tuple[int, datetime]:
    return (sample.step if sample.step is not None else -1, sample.time)
