"""Fields, points and transitions on real documents: larger versions win over whatever is stored."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.event import Version
from pod_worker.core.run import TERMINAL, RunStatus, predecessors
from pod_worker.store.views.changes import (
    Change,
    FieldUpdate,
    MetricPoint,
    View,
    ViewChanges,
    quote_segment,
    unquote_segment,
)
from pod_worker.store.views.versioned import camel_case_path
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
    assert db.list_collection_names() == ["runs"]


# ── status ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("to", [RunStatus.RUNNING, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED])
def test_one_step_is_what_core_allows(to: RunStatus) -> None:
    found = set(_allowed_sources((to,))) - {"STARTING"}
    assert found == {status.value for status in predecessors(to)}


def test_a_verdict_implies_the_way_to_it() -> None:
    path = (RunStatus.RUNNING, RunStatus.AUTO_VALIDATING, RunStatus.AWAITING_HUMAN)
    assert set(_allowed_sources(path)) == {"SCHEDULED", "STARTING", "RUNNING", "AUTO_VALIDATING", "COMPLETED"}


def test_what_comes_after() -> None:
    assert set(_at_or_after(RunStatus.FAILED)) == {"FAILED"}
    assert "AWAITING_HUMAN" in _at_or_after(RunStatus.COMPLETED)
    assert "QUEUED" not in _at_or_after(RunStatus.RUNNING)
    assert {status.value for status in TERMINAL} <= set(_at_or_after(RunStatus.RUNNING))
