"""Every query has an index: whatever the control plane asks is explained, and nothing may read a collection whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pod_worker.control.events.replay import rebuild
from pod_worker.control.ingest.decode import read_batch
from pod_worker.control.runs.live import RunFollower
from pod_worker.store import artifact_registry
from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.stats import QueueStatsReader
from pod_worker.store.views.metric_series import MetricSeries
from pod_worker.store.views.read_models import ROWS_LIMIT, InvalidCursorError, ReadModels, RunFilter
from tests.control.batches import take
from tests.control.lines import event, ndjson
from tests.store.commands import QUERIES, Commands, watched
from tests.store.plans import explainable, plans

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def seen() -> Commands:
    return Commands()


@pytest.fixture
def database(mongodb_url: str, seen: Commands) -> Iterator[Any]:
    """Full enough that reading it whole would be the worse plan."""
    with watched(mongodb_url, seen) as made:
        fill(made)
        seen.clear()
        yield made


def fill(made: Any) -> None:
    made["runs"].insert_many(
        {
            "_id": f"r{n}",
            "status": ("QUEUED", "RUNNING", "COMPLETED")[n % 3],
            "pipeline": ("training", "synthetic")[n % 2],
            "queue": ("training", "synthetic")[n % 2],
            "hypothesisId": f"h{n % 10}",
            "createdAt": T0 + timedelta(seconds=n),
            "queuedAt": T0,
            "labels": {"team": "a", "x.y": "$1"} if n < 9 else {"team": "b"},
        }
        for n in range(300)
    )
    lines = [
        event(f"e{run}-{n}", run=f"r{run}", level="error" if n % 9 == 0 else "info")
        for run in range(6)
        for n in range(40)
    ]
    lines += [event(f"s{run}", "ai.run.stage_started", run=f"r{run}", stage="s") for run in range(6)]
    take(made, read_batch(ndjson(*lines).split(b"\n")))


def ask_everything(database: Any) -> None:
    models, pages = ReadModels(database), EventReader(database)
    for wanted in (
        RunFilter(),
        RunFilter(["QUEUED"]),
        RunFilter(["QUEUED", "RUNNING"]),
        RunFilter(pipeline="training"),
        RunFilter(["QUEUED"], "training"),
        RunFilter(hypothesis_id="h1"),
        RunFilter(with_hidden=True),
        RunFilter(queue="training"),
        RunFilter(labels={"team": "a"}),
        RunFilter(["QUEUED"], queue="training", labels={"team": "a", "x.y": "$1"}),
        RunFilter(labels={"x.y": "$1"}),
        RunFilter(since=T0),
    ):
        page = models.runs(wanted, 10)
        models.runs(wanted, 10, cursor=page.next_cursor)
    models.run("r1")
    models.stages("r1")
    models.validations("r1")
    models.hypothesis("h1")
    artifact_registry.of_run(database, "r1")
    for events in (
        EventFilter(),
        EventFilter(["ai.run.log"]),
        EventFilter(["ai.run.stage_started"]),
        EventFilter(level="error"),
        EventFilter(level="info"),
        EventFilter(since=T0),
    ):
        for newest_first in (True, False):
            pages.read_page("r1", events, 10, newest_first=newest_first)
            pages.read_page("r1", events, 10, cursor=10**18, newest_first=newest_first)
    pages.dead_letters(10)
    MetricSeries(database).read("r1", ["loss"], "s")
    MetricSeries(database).read("r1")
    view = RunFollower("r1", models, pages)
    view.poll()
    view.poll()
    QueueStatsReader(database).read()
    point = event("new", "ai.run.stage_metric", run="r1", stage="s", name="loss", value=1, step=1)
    take(database, read_batch([ndjson(point)]))
    rebuild(database, "r1")


def test_nothing_reads_a_collection_whole(database: Any, seen: Commands) -> None:
    ask_everything(database)
    commands = [each for each in seen.seen if next(iter(each)) in QUERIES]
    assert len(commands) > 50
    whole: list[dict[str, Any]] = []
    for command in commands:
        found = plans(database, command)
        assert found, command
        if "COLLSCAN" in found:
            whole.append({key: value for key, value in command.items() if key not in ("lsid", "$clusterTime")})
    assert whole == []


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [
        (RunFilter(queue="rare"), 5),
        (RunFilter(labels={"team": "a"}), 9),
        (RunFilter(name="rare"), 5),
        (RunFilter(name="rar*"), 5),
    ],
    ids=str,
)
def test_a_list_by_queue_label_or_name_reads_the_matching_runs_only(
    database: Any, seen: Commands, wanted: RunFilter, matching: int
) -> None:
    database["runs"].update_many(
        {"_id": {"$in": [f"r{n}" for n in range(5)]}}, {"$set": {"queue": "rare", "name": "rare"}}
    )
    seen.clear()
    assert ReadModels(database).runs(wanted, 20).total == matching
    commands = [each for each in seen.seen if next(iter(each)) in QUERIES]
    assert len(commands) == 2
    for command in commands:
        explained = database.command("explain", explainable(command), verbosity="executionStats")
        assert examined(explained) <= 2 * matching, command


def examined(found: Any) -> int:
    """The most documents that a part of the winning plan read."""
    if isinstance(found, dict):
        own = found.get("totalDocsExamined", 0)
        return max([own, *(examined(value) for value in found.values())])
    return max((examined(each) for each in found), default=0) if isinstance(found, list) else 0


def test_a_canceled_run_names_its_author(database: Any) -> None:
    """A waiting run ends without an event of a worker: only its history has the author."""
    actions, models = OperatorActions(database), ReadModels(database)
    database["runs"].update_one({"_id": "r0"}, {"$set": {"attempt": 0}})
    actions.cancel("r0", by="ana", reason="typo")
    assert (models.run("r0") or {})["canceledBy"] == "ana"
    database["runs"].update_one({"_id": "r0"}, {"$set": {"history": [7, {"what": "canceled", "by": None}]}})
    assert (models.run("r0") or {})["canceledBy"] is None
    database["runs"].update_one({"_id": "r1"}, {"$set": {"status": "CANCELED", "cancelRequestedBy": "ben"}})
    assert (models.run("r1") or {})["canceledBy"] == "ben"


def test_lists_are_not_sorted_in_memory(database: Any, seen: Commands) -> None:
    models = ReadModels(database)
    for wanted in (
        RunFilter(),
        RunFilter(["QUEUED"]),
        RunFilter(["QUEUED", "RUNNING"]),
        RunFilter(pipeline="training"),
        RunFilter(queue="training"),
    ):
        models.runs(wanted, 10)
    for command in [each for each in seen.seen if "find" in each]:
        assert "SORT" not in plans(database, command), command


def test_depth(database: Any) -> None:
    depth = QueueStatsReader(database).read()
    assert depth.by_status == {"QUEUED": 100, "RUNNING": 100, "COMPLETED": 100}
    assert depth.by_queue["training"]["QUEUED"] + depth.by_queue["synthetic"]["QUEUED"] == 100
    assert depth.oldest_queued_seconds["training"] > 0


@pytest.mark.parametrize("cursor", ["", "x", "W10=", "WyJhIiwgMV0="])
def test_a_foreign_cursor_is_refused(database: Any, cursor: str) -> None:
    models = ReadModels(database)
    if cursor:
        with pytest.raises(InvalidCursorError):
            models.runs(RunFilter(), 10, cursor=cursor)
    else:
        assert models.runs(RunFilter(), 10, cursor=cursor).items


def test_a_run_shows_a_bounded_number_of_stages(database: Any) -> None:
    rows = [{"_id": f"many:{n}", "runId": "many", "name": f"s{n}"} for n in range(ROWS_LIMIT + 5)]
    database["stages"].insert_many(rows)
    assert len(ReadModels(database).stages("many")) == ROWS_LIMIT
