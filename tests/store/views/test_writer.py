"""Fields, points and transitions on real documents: larger versions win over whatever is stored."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.event import Version
from pod_worker.core.run import TERMINAL, RunStatus, reported_predecessors
from pod_worker.store.views.changes import (
    Change,
    FieldUpdate,
    MetricPoint,
    StatusTransition,
    View,
    ViewChanges,
    quote_segment,
    unquote_segment,
)
from pod_worker.store.views.versioned import NAME_LIMITS, camel_case_path
from pod_worker.store.views.writer import Views, _allowed_sources, _at_or_after

NOW = datetime(2026, 1, 1, tzinfo=UTC)


Stamped: TypeAlias = tuple[str, int, Version, Change]


class DirectViews(Views):
    def write(self, stamped: list[Stamped]) -> None:
        changes = ViewChanges()
        for each in stamped:
            changes.add(*each)
        self.apply(changes)


@pytest.fixture
def views(db: Any) -> DirectViews:
    db["runs"].insert_one({"_id": "r1"})
    return DirectViews(db)


def stamped(version: str, change: Change, run_id: str = "r1", attempt: int = 0) -> Stamped:
    return run_id, attempt, (0, 0, 0, version), change


def run_facts(version: str, group: str = "g", **fields: Any) -> Stamped:
    return stamped(version, FieldUpdate(View.RUN, "", group, fields))


def test_only_a_larger_version_overwrites(views: DirectViews, db: Any) -> None:
    for order in itertools.permutations(("1", "2", "3")):
        db["runs"].replace_one({"_id": "r1"}, {})
        for version in order:
            views.write([run_facts(version, field=version)])
        assert db["runs"].find_one()["field"] == "3"


def test_a_group_is_written_as_a_whole(views: DirectViews, db: Any) -> None:
    views.write([run_facts("2", a=2, b=None), run_facts("1", a=1, b=1)])
    views.write([run_facts("1", a=1, b=1)])
    run = db["runs"].find_one()
    assert (run["a"], run.get("b")) == (2, None)


def test_groups_do_not_disturb_each_other(views: DirectViews, db: Any) -> None:
    views.write([run_facts("5", "one", **{"deep.x": 1}), run_facts("3", "two", **{"deep.y": 2})])
    views.write([run_facts("4", "two", **{"deep.y": 3}), run_facts("4", "one", **{"deep.x": 9})])
    assert db["runs"].find_one()["deep"] == {"x": 1, "y": 3}


def test_a_run_that_does_not_exist_is_not_made(views: DirectViews, db: Any) -> None:
    views.write([stamped("1", FieldUpdate(View.RUN, "", "g", {"a": 1}), "unknown")])
    assert db["runs"].count_documents({}) == 1


def test_values_are_never_read_as_expressions(views: DirectViews, db: Any) -> None:
    tricky = {"$add": [1, 2], "a.b": "$status", "x": ["$$ROOT"]}
    views.write(
        [
            run_facts("1", value=tricky, text="$_id"),
            stamped("1", FieldUpdate(View.STAGE, "$x", "g", {"value": tricky})),
        ]
    )
    run, stage = db["runs"].find_one(), db["stages"].find_one()
    assert (run["value"], run["text"], stage["value"], stage["name"]) == (tricky, "$_id", tricky, "$x")


@pytest.mark.parametrize("name", ["loss", "train/loss", "eval.loss", "$x", "a.b.c", "%2E", "0", " ", "ü", "=x"])
def test_any_name_from_the_wire_is_one_field(views: DirectViews, db: Any, name: str) -> None:
    views.write([stamped("1", MetricPoint("s", name, 1.5, NOW, 1))])
    fields = db["runs"].find_one()["metrics"]
    assert [unquote_segment(field) for field in fields] == [name]


@given(st.text(min_size=1))
def test_quoting_is_reversible(name: str) -> None:
    field = camel_case_path(quote_segment(name))
    assert unquote_segment(field) == name
    assert "." not in field
    assert not field.startswith("$")


def test_a_stage_that_only_reports_progress_runs(views: DirectViews, db: Any) -> None:
    views.write([stamped("1", FieldUpdate(View.STAGE, "s", "progress", {"progress": 0.5}))])
    assert db["stages"].find_one()["status"] == "RUNNING"
    views.write([stamped("0", FieldUpdate(View.STAGE, "s", "status", {"status": "COMPLETED"}))])
    assert db["stages"].find_one()["status"] == "COMPLETED", "a word about its state outranks the guess"


def test_facts_reach_documents_of_an_older_shape(views: DirectViews, db: Any) -> None:
    db["runs"].replace_one({"_id": "r1"}, {"currentStage": None, "metrics": None, "v": None})
    views.write(
        [run_facts("1", "s", **{"current_stage.name": "x"}), stamped("1", MetricPoint("s", "loss", 1.0, NOW, 1))]
    )
    run = db["runs"].find_one()
    assert (run["currentStage"], run["metrics"]) == ({"name": "x"}, {"loss": 1.0})


def test_no_change_is_no_write(views: DirectViews, db: Any) -> None:
    views.write([])
    assert [name for name in db.list_collection_names() if db[name].find_one()] == ["runs"]


# ── status ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("to", [RunStatus.RUNNING, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED])
def test_one_step_is_what_core_allows(to: RunStatus) -> None:
    found = set(_allowed_sources((to,))) - {"STARTING"}
    assert found == {status.value for status in reported_predecessors(to)}


def test_a_verdict_implies_the_way_to_it() -> None:
    path = (RunStatus.RUNNING, RunStatus.AUTO_VALIDATING, RunStatus.AWAITING_HUMAN)
    assert set(_allowed_sources(path)) == {"SCHEDULED", "STARTING", "RUNNING", "AUTO_VALIDATING", "COMPLETED"}


def test_what_comes_after() -> None:
    assert set(_at_or_after(RunStatus.FAILED)) == {"FAILED"}
    assert "AWAITING_HUMAN" in _at_or_after(RunStatus.COMPLETED)
    assert "QUEUED" not in _at_or_after(RunStatus.RUNNING)
    assert {status.value for status in TERMINAL} <= set(_at_or_after(RunStatus.RUNNING))


# ── names and texts from the wire cannot fill a run's document ──────────────────────────────────────────────


def names_of(db: Any, field: str) -> set[str]:
    return set(db["runs"].find_one().get(field, {}))


def test_a_run_shows_so_many_metrics_and_keeps_the_others_in_their_series(views: DirectViews, db: Any) -> None:
    """A stage that puts the step into the metric's name made the document too large to settle."""
    for start in range(0, 1000, 50):
        points = [MetricPoint("s", f"loss-{start + n:04}", 0.5, NOW, step=1) for n in range(50)]
        views.write([stamped(f"{start:05}{n:05}", point) for n, point in enumerate(points)])
    assert len(names_of(db, "metrics")) == NAME_LIMITS["metrics"]
    assert len(names_of(db, "v")) == 1
    assert len(db["runs"].find_one()["v"]["metrics"]) == NAME_LIMITS["metrics"]
    assert len(views.series.read("r1")) == 1000


def test_one_batch_cannot_add_more_names_than_the_limit(views: DirectViews, db: Any) -> None:
    points = [MetricPoint("s", f"loss-{n:05}", 0.5, NOW, step=1) for n in range(5000)]
    views.write([stamped(f"{n:05}", point) for n, point in enumerate(points)])
    assert len(names_of(db, "metrics")) == NAME_LIMITS["metrics"]


def test_a_metric_that_is_shown_goes_on_being_updated(views: DirectViews, db: Any) -> None:
    views.write([stamped("1", MetricPoint("s", "zz", 1.0, NOW, step=1))])
    views.write(
        [stamped(f"2{n}", MetricPoint("s", f"n{n}", 0.5, NOW, step=1)) for n in range(NAME_LIMITS["metrics"])]
    )
    views.write([stamped("3", MetricPoint("s", "zz", 2.0, NOW, step=2))])
    assert db["runs"].find_one()["metrics"]["zz"] == 2.0


def test_stage_names_are_limited_alike(views: DirectViews, db: Any) -> None:
    for n in range(300):
        timing = f"stage_timing.{quote_segment(f's{n}')}"
        views.write(
            [stamped(f"{n:05}", FieldUpdate(View.RUN, "", f"{timing}.started", {f"{timing}.started_at": NOW}))]
        )
    assert len(names_of(db, "stageTiming")) == NAME_LIMITS["stageTiming"]


def test_a_long_text_in_the_runs_document_is_cut(views: DirectViews, db: Any) -> None:
    long = "x" * 1_000_000
    failed = StatusTransition((RunStatus.FAILED,), {"error": {"error_message": long, "error_traceback": long}})
    db["runs"].update_one({}, {"$set": {"status": "RUNNING"}})
    views.write([run_facts("1", **{"interruption.reason": long}), stamped("2", failed)])
    run = db["runs"].find_one()
    assert run["status"] == "FAILED"
    for text in (run["errorMessage"], run["errorTraceback"], run["interruption"]["reason"]):
        assert len(text) < 17_000
        assert "characters cut" in text


def test_what_is_long_in_a_stages_row_is_cut(views: DirectViews, db: Any) -> None:
    fields = {"desc": "x" * 1_000_000, "summary": {"a": "x" * 1_000_000}, "duration_s": 1.5}
    views.write([stamped("1", FieldUpdate(View.STAGE, "s", "status", fields))])
    row = db["stages"].find_one()
    assert len(row["desc"]) < 5_000
    assert "1000013 bytes" in row["summary"]["cut"]
    views.write([stamped("2", FieldUpdate(View.STAGE, "s", "status", {"summary": {"a": 1, "b": [2]}}))])
    assert db["stages"].find_one()["summary"] == {"a": 1, "b": [2]}


# ── ids of rows ─────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_of_different_runs_stay_apart_whatever_their_names(views: DirectViews, db: Any) -> None:
    for run_id, stage in (("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c")):
        views.write([stamped("1", FieldUpdate(View.STAGE, stage, "status", {"status": run_id}), run_id)])
    rows = {(row["runId"], row["name"], row["status"]) for row in db["stages"].find()}
    assert rows == {("a", "b:c", "a"), ("a:b", "c", "a:b"), ("a%3Ab", "c", "a%3Ab")}


@pytest.mark.parametrize("attempt", [float("nan"), float("inf"), "three", None, {}, 2**62, True], ids=repr)
def test_an_attempt_of_any_type_is_read_as_none_yet(views: DirectViews, db: Any, attempt: Any) -> None:
    db["runs"].insert_one({"_id": "bad", "attempt": attempt})
    db["runs"].update_one({"_id": "r1"}, {"$set": {"attempt": 3}})
    assert views.current_attempts(["bad", "r1"]) == {"bad": 0, "r1": 3}
