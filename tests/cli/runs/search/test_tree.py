"""`runs tree`: the search tree of a run from its events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.cli.runs.search.search_tree import WIDTH, tree_lines, tree_of
from tests.cli.conftest import Cli

Db = Database[dict[str, Any]]


class Log:
    """Events of a run as the log stores them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(self, kind: str, node: str, parent: str | None = None, *, attempt: int = 1, **data: Any) -> None:
        number = len(self.events) + 1
        stage = node.partition("-")[0]
        self.events.append(
            {
                "_id": f"e{number}",
                "runId": "r",
                "type": f"ai.node.{kind}",
                "notable": True,
                "attempt": attempt,
                "seq": number,
                "position": number,
                "time": datetime.now(UTC),
                "data": {"stage": stage, "node_id": node, "parent_id": parent, **data},
            }
        )

    def node(self, name: str, parent: str | None = None, metric: float | None = None, plan: str = "") -> None:
        self.add("created", name, parent, plan=plan)
        self.add("executing", name, parent)
        self.add("completed", name, parent, plan=plan, is_buggy=metric is None, metric=metric, exec_time_s=1.5)

    def lines(self) -> list[str]:
        return list(tree_lines(tree_of(self.events)))


@pytest.fixture
def log() -> Log:
    found = Log()
    found.node("Stage_1-001", metric=0.91234, plan="linear model")
    found.node("Stage_1-002", plan="deep model")
    found.node("Stage_1-003", "Stage_1-002", metric=0.95, plan="repaired")
    found.node("Stage_1-004", "Stage_1-003", metric=0.94, plan="replicate")
    found.node("Stage_1-005", "Stage_1-003", metric=0.96, plan="replicate")
    found.add("selected_best", "Stage_1-003", "Stage_1-002", metric=0.95)
    found.node("Stage_2-001", "Stage_1-003", metric=0.97, plan="smaller C")
    found.add("created", "Stage_2-002", "Stage_1-003", plan="larger C")
    found.add("executing", "Stage_2-002", "Stage_1-003")
    return found


def test_the_tree_shows_stages_parents_outcomes_and_replicas(log: Log) -> None:
    assert log.lines() == [
        "Stage_1 preliminary investigation: 3 nodes, 2 scored, 1 without a score",
        "├─ ● 001 0.9123 · linear model",
        "└─ ✗ 002 no score · deep model",
        "   └─ ● 003 0.95 ×2 seeds ★ selected · repaired",
        "",
        "Stage_2 baseline tuning: 2 nodes, 1 scored, 0 without a score",
        "├─ ● 001 0.97 from Stage_1-003 · smaller C",
        "└─ ▸ 002 running from Stage_1-003 · larger C",
    ]


def test_the_order_of_arrival_does_not_matter(log: Log) -> None:
    expected = log.lines()
    for number, event in enumerate(reversed(log.events)):
        event["position"] = number
    log.events.reverse()
    assert log.lines() == expected


def test_the_last_selection_of_a_stage_counts(log: Log) -> None:
    log.add("selected_best", "Stage_1-001", metric=0.91)
    assert [node.node_id for node in tree_of(log.events) if node.is_best] == ["Stage_1-001"]


def test_a_search_that_starts_again_replaces_what_came_after(log: Log) -> None:
    log.add("created", "Stage_1-002", attempt=2, plan="another model")
    assert [(node.node_id, node.state, node.plan) for node in tree_of(log.events)] == [
        ("Stage_1-001", "scored", "linear model"),
        ("Stage_1-002", "created", "another model"),
    ]


def test_events_of_a_lost_lease_do_not_count(log: Log) -> None:
    expected = log.lines()
    log.add("created", "Stage_1-001", plan="late")
    log.events[-1]["isFenced"] = True
    assert log.lines() == expected


def test_a_long_chain_and_a_long_plan_stay_within_the_width() -> None:
    log = Log()
    for number in range(1, 1_500):
        parent = f"Stage_3-{number - 1:04d}" if number > 1 else None
        log.node(f"Stage_3-{number:04d}", parent, metric=0.5, plan="a plan of many words " * 9)
    lines = log.lines()
    assert len(lines) == 1_500
    assert max(map(len, lines)) == WIDTH
    assert "· a plan of many" in lines[-1]


def test_strange_events_are_shown_as_far_as_they_can_be() -> None:
    log = Log()
    log.add("created", "S-1", "S-2")
    log.add("created", "S-2", "S-1", plan=["x"])
    log.add("completed", "S-3", "S-3", metric=float("nan"), is_buggy="no", exec_time_s="x")
    log.add("completed", "S-4", metric="0.5\x1b[31m\nred", plan=7)
    log.add("completed", "", metric=1.0)
    log.events += [
        {"type": "ai.node.created"},
        {"type": "ai.node.created", "data": "x", "seq": "y"},
        {"type": 7, "data": {"node_id": "S-5", "stage": "S"}},
        {"type": "ai.node.created", "data": {"node_id": 5, "stage": "S"}},
    ]
    lines = log.lines()
    assert lines[0] == "S S: 4 nodes, 2 scored, 0 without a score"
    assert sorted(line.lstrip("│└├─ ") for line in lines[1:]) == [
        "… 1 waiting",
        "… 2 waiting",
        "● 3 scored",
        "● 4 0.5 red",
    ]


def insert_run(db: Db, pipeline: str = "experiment") -> None:
    db.runs.insert_one({"_id": "r", "pipeline": pipeline, "status": "RUNNING", "attempt": 1})


def test_the_command_reads_the_event_log(cli: Cli, db: Db, log: Log) -> None:
    insert_run(db)
    db.events.insert_many([*log.events, {**log.events[0], "_id": "other", "runId": "other"}])
    result = cli("runs", "tree", "r")
    assert result.code == 0, result.err
    assert result.out.splitlines() == log.lines()
    first, *_ = cli("runs", "tree", "r", "--json").json
    assert first == {
        "node_id": "Stage_1-001",
        "stage": "Stage_1",
        "parent_id": None,
        "state": "scored",
        "plan": "linear model",
        "metric": 0.91234,
        "seconds": 1.5,
        "is_replica": False,
        "is_best": False,
    }


def test_every_page_of_a_long_log_is_read(cli: Cli, db: Db, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pod_worker.cli.runs.search.tree._PAGE", 2)
    insert_run(db)
    db.events.insert_many(log.events)
    assert cli("runs", "tree", "r").out.splitlines() == log.lines()


@pytest.mark.parametrize(
    ("pipeline", "says"), [("experiment", "runs watch r"), ("training", "a run of the pipeline training has no")]
)
def test_a_run_without_nodes_is_explained(cli: Cli, db: Db, pipeline: str, says: str) -> None:
    insert_run(db, pipeline)
    result = cli("runs", "tree", "r")
    assert (result.code, result.out) == (0, "")
    assert says in result.err
    assert cli("runs", "tree", "r", "--json").json == []


def test_a_picture_that_is_not_published_yet_is_explained(cli: Cli, db: Db, log: Log) -> None:
    insert_run(db)
    db.events.insert_many(log.events)
    result = cli("runs", "tree", "r", "--svg", "tree.svg")
    assert result.code == 3
    assert "after Stage_4" in result.err
    assert "runs watch r" in result.err
    assert result.out.splitlines() == log.lines(), "the tree itself is printed"
