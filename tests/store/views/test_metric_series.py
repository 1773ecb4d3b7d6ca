"""Series: by step, newest version wins, no point twice, read back in order."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from pymongo.errors import BulkWriteError

from pod_worker.core.event import Version
from pod_worker.store.views import metric_series
from pod_worker.store.views.changes import MetricPoint, SeriesKey
from pod_worker.store.views.metric_series import MetricSeries, Series, Versioned

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class DirectSeries(MetricSeries):
    def write(self, points: list[tuple[str, Version, MetricPoint]]) -> None:
        by_series: defaultdict[SeriesKey, list[Versioned]] = defaultdict(list)
        for run_id, version, each in points:
            by_series[run_id, each.stage, each.name].append((version, each))
        self.add(by_series)


@pytest.fixture
def series(db: Any) -> DirectSeries:
    return DirectSeries(db)


def point(step: int | None, value: float, seconds: float = 0, **more: Any) -> MetricPoint:
    return MetricPoint(
        **(
            {"stage": "s", "name": "loss", "value": value, "time": NOW + timedelta(seconds=seconds), "step": step}
            | more
        )
    )


def of(name: str) -> Version:
    return (0, 0, 0, name)


def values(series: DirectSeries) -> list[tuple[int | None, float]]:
    return [(each.step, each.value) for found in series.read("r1") for each in found.samples]


def test_points_come_back_in_order_of_step(series: DirectSeries, db: Any) -> None:
    points = [("r1", of(f"v{step}"), point(step, float(step))) for step in range(0, 640, 2)]
    random.Random(1).shuffle(points)
    for start in range(0, len(points), 37):
        series.write(points[start : start + 37])
    assert values(series) == [(step, float(step)) for step in range(0, 640, 2)]


def test_what_arrives_together_is_one_document_and_a_repeat_none(series: DirectSeries, db: Any) -> None:
    points = [("r1", of(f"v{n}"), point(n, 1.0, name=name)) for n in range(9) for name in ("loss", "rate")]
    for _ in range(2):
        series.write([*points, ("r2", of("v"), point(1, 1.0))])
    assert db["metrics"].count_documents({}) == 2


def test_compacting_keeps_every_point(series: DirectSeries, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_series, "COMPACT_POINTS", 10)
    for n in range(25):
        series.write(
            [
                ("r1", of(f"v{n:02d}"), point(n, float(n), epoch=n / 10, unit="nats")),
                ("r1", of(f"v{n:02d}"), point(0, float(n))),
            ]
        )
        series.write(
            [("r1", of(f"v{n:02d}"), point(None, 1.0, seconds=n, name="gauge")), ("r2", of("v"), point(n, 1.0))]
        )
    before: list[Series] = series.read("r1")
    others = db["metrics"].count_documents({"runId": "r2"})
    for _ in range(2):
        series.compact("r1")
        assert series.read("r1") == before
        assert db["metrics"].count_documents({"runId": "r1"}) == 5
    assert db["metrics"].count_documents({"runId": "r2"}) == others


def test_a_step_has_one_point_the_newest(series: DirectSeries) -> None:
    for version, value in (("v2", 2.0), ("v3", 3.0), ("v1", 99.0)):
        series.write([("r1", of(version), point(7, value))])
    series.write([("r1", of("v4"), point(8, 4.0)), ("r1", of("v0"), point(8, 99.0))])
    assert values(series) == [(7, 3.0), (8, 4.0)]


def test_points_without_a_step_are_told_apart_by_time(series: DirectSeries) -> None:
    series.write([("r1", of("v"), point(None, float(n), seconds=n * 600)) for n in range(10)])
    series.write([("r1", of("v"), point(None, 3.0, seconds=1800))])
    assert values(series) == [(None, float(n)) for n in range(10)]


def test_series_are_told_apart_by_stage_and_name(series: DirectSeries) -> None:
    series.write(
        [("r1", of("v"), point(1, 1.0, stage=stage, name=name)) for stage in "ab" for name in ("x", "y.z")]
    )
    series.write([("r2", of("v"), point(1, 1.0))])
    assert {(each.stage, each.name) for each in series.read("r1")} == {(s, n) for s in "ab" for n in ("x", "y.z")}
    assert [each.name for each in series.read("r1", ["y.z"], "b")] == ["y.z"]


def test_negative_and_huge_steps(series: DirectSeries) -> None:
    series.write([("r1", of("v"), point(step, 1.0)) for step in (-5, 0, 2**40)])
    assert [step for step, _ in values(series)] == [-5, 0, 2**40]


def test_a_long_backlog_is_cut_into_documents(
    series: DirectSeries, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_series, "COMPACT_POINTS", 10)
    series.write([("r1", of(f"v{n}"), point(n, float(n))) for n in range(25)])
    assert db["metrics"].count_documents({}) == 3
    assert values(series) == [(n, float(n)) for n in range(25)]


def test_what_a_majority_may_lack_is_not_written(series: DirectSeries, monkeypatch: pytest.MonkeyPatch) -> None:
    late = {"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": "waiting for replication timed out"}]}

    def uncertain(*_: Any, **__: Any) -> None:
        raise BulkWriteError(late)

    monkeypatch.setattr(type(series._metrics), "insert_many", uncertain)
    with pytest.raises(BulkWriteError):
        series.write([("r1", of("v"), point(1, 1.0))])


def test_a_bad_document_is_passed_over(series: DirectSeries, db: Any) -> None:
    series.write([("r1", of("v"), point(1, 1.0, epoch=0.5, unit="nats"))])
    good = {"s": "s", "n": "loss", "a": [1], "q": [1], "i": ["z"], "k": [2], "x": [2.0], "t": [NOW]}
    bad: list[Any] = [
        5,
        [5],
        [good | {"a": 5}],
        [good | {"t": ["now"]}],
        [good | {"x": ["a"]}],
        [good | {"q": ["b"]}],
        None,
    ]
    db["metrics"].insert_many([{"runId": "r1", "columns": each} for each in bad])
    found = series.read("r1")[0]
    db["metrics"].insert_one({"runId": "r2", "columns": [good]})
    assert len(series.read("r2")[0].samples) == 1, "the good one is read"
    assert [(each.step, each.epoch) for each in found.samples] == [(1, 0.5)]
    assert found.unit == "nats"


def test_a_run_is_read_within_a_limit_of_points(series: DirectSeries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_series, "POINTS_LIMIT", 200)
    steps = list(range(2_000))
    random.Random(2).shuffle(steps)
    for start in range(0, 2_000, 400):
        series.write([("r1", of(f"v1-{step}"), point(step, float(step))) for step in steps[start : start + 400]])
        series.write([("r1", of(f"v0-{step}"), point(step, -1.0)) for step in steps[start : start + 400]])
    series.write([("r1", of("v"), point(step, 1.0, name="rare")) for step in range(50)])
    long, rare = series.read("r1")
    assert len(long.samples) + len(rare.samples) <= 200
    assert [each.step for each in rare.samples] == list(range(50)), "a short series stays whole"
    kept = [each.step for each in long.samples if each.step is not None]
    assert (kept[0], kept[-1]) == (0, 1_999)
    assert max(after - before for before, after in pairwise(kept)) < 200, "evenly spread"
    assert all(each.value == each.step for each in long.samples), "the newest version of each"


def test_the_sample_does_not_depend_on_the_order(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_series, "POINTS_LIMIT", 100)
    found = []
    for run_id in ("r1", "r2", "r3"):
        series = DirectSeries(db)
        points = [(run_id, of(f"v{n}"), point(n % 600, float(n))) for n in range(1_200)]
        random.Random(run_id).shuffle(points)
        for start in range(0, 1_200, 30):
            series.write(points[start : start + 30])
        found.append([(each.step, each.value) for each in series.read(run_id)[0].samples])
    assert found[0] == found[1] == found[2]


def test_only_the_wanted_series_count(series: DirectSeries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_series, "POINTS_LIMIT", 100)
    monkeypatch.setattr(metric_series, "SERIES_LIMIT", 3)
    for name in "abcde":
        series.write([("r1", of("v"), point(step, 1.0, name=name)) for step in range(60)])
    assert [len(each.samples) for each in series.read("r1", ["e"])] == [60]
    assert len(series.read("r1")) == 3


def test_runs_with_many_documents_are_compacted(
    series: DirectSeries, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_series, "DOCUMENTS_LIMIT", 5)
    monkeypatch.setattr(metric_series, "POINTS_LIMIT", 100)
    for n in range(6):
        series.write([("r1", of(f"v{step}"), point(step, 1.0)) for step in range(n * 100, n * 100 + 100)])
    for n in range(5):
        series.write([("r2", of(f"v{n}"), point(n, 1.0))])
    before = series.read("r1")
    assert series.limit_documents() == 1
    counts = {run_id: db["metrics"].count_documents({"runId": run_id}) for run_id in ("r1", "r2")}
    assert counts == {"r1": 1, "r2": 5}
    assert series.read("r1") == before
    assert sum(len(column["k"]) for column in db["metrics"].find_one({"runId": "r1"})["columns"]) <= 100
