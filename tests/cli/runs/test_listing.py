"""`runs list` and names: what people look for, in pages that stay the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from tests.cli.conftest import Cli

Db = Database[dict[str, Any]]
NOW = datetime.now(UTC)


def insert(db: Db, run_id: str, hours_ago: int = 0, **fields: Any) -> None:
    run = {"pipeline": "synthetic", "queue": "synthetic", "status": "QUEUED", "attempt": 1, "priority": 0}
    db.runs.insert_one({"_id": run_id, **run, "createdAt": NOW - timedelta(hours=hours_ago), **fields})


@pytest.fixture
def runs(db: Db) -> None:
    insert(db, "a1", 1, name="train-lr1", status="FAILED", priority=1)
    insert(db, "a2", 2, name="train-lr2", status="RUNNING", priority=3, queue="nightly")
    insert(db, "b3", 3, name="plots", status="COMPLETED", priority=2)
    insert(db, "b4", 4, status="QUEUED")


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["--name", "train-*"], ["a1", "a2"]),
        (["--name", "train-lr?"], ["a1", "a2"]),
        (["--name", "train"], []),
        (["--name", "plots"], ["b3"]),
        (["--name", "*[.]*"], []),
        (["--status", "failed,running", "--status", "COMPLETED"], ["a1", "a2", "b3"]),
        (["--queue", "nightly"], ["a2"]),
        (["--since", "150m"], ["a1", "a2"]),
        (["--sort", "oldest"], ["b4", "b3", "a2", "a1"]),
        (["--sort", "priority"], ["a2", "b3", "a1", "b4"]),
        (["--sort", "name"], ["b4", "b3", "a1", "a2"]),
        (["--limit", "1", "--page", "3"], ["b3"]),
    ],
)
def test_a_list_is_filtered_and_sorted(cli: Cli, words: list[str], ids: list[str]) -> None:
    result = cli("runs", "list", *words, "--json-lines")
    assert result.code == 0, result.err
    assert [json.loads(line)["_id"] for line in result.out.splitlines()] == ids


@pytest.mark.usefixtures("runs")
def test_a_page_continues_at_its_cursor_while_runs_are_queued(cli: Cli, db: Db) -> None:
    first = cli("runs", "list", "--limit", "2", "--json")
    assert [run["_id"] for run in first.json] == ["a1", "a2"]
    assert "2 of 4 runs" in first.err
    insert(db, "new")
    cursor = first.err.split("--after ")[1].split()[0]
    rest = cli("runs", "list", "--limit", "2", "--after", cursor, "--json")
    assert [run["_id"] for run in rest.json] == ["b3", "b4"]
    assert rest.err == ""


@pytest.mark.parametrize("words", [["--after", "x"], ["--after", "eA==", "--page", "2"]])
def test_a_wrong_cursor_is_a_usage_error(cli: Cli, words: list[str]) -> None:
    result = cli("runs", "list", *words)
    assert result.code == 2
    assert "Traceback" not in result.err


@pytest.mark.usefixtures("runs")
def test_the_list_shows_names(cli: Cli) -> None:
    header, *rows = cli("runs", "list").out.splitlines()
    column = header.split("\t").index("name")
    assert [row.split("\t")[column] for row in rows] == ["train-lr1", "train-lr2", "plots", "-"]


@pytest.mark.usefixtures("runs")
def test_a_name_stands_for_its_newest_run(cli: Cli, db: Db) -> None:
    insert(db, "c1", 10, name="plots")
    result = cli("runs", "show", "plots", "--json")
    assert result.json["run"]["_id"] == "b3"
    assert "newest" in result.err
    assert "newest" not in cli("runs", "show", "train-lr1").err
    insert(db, "plots", 20)
    assert cli("runs", "show", "plots", "--json").json["run"]["_id"] == "plots", "an id comes before a name"
    ambiguous = cli("runs", "show", "a")
    assert ambiguous.code == 3
    assert "a1, a2" in ambiguous.err
