"""`runs set` and `runs clone`: changes of a run, and copies with changes."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.database import Database

from tests.cli.conftest import Cli
from tests.cli.runs.test_commands import submit

Db = Database[dict[str, Any]]


def read(db: Db, run_id: str) -> dict[str, Any]:
    found = db.runs.find_one({"_id": run_id})
    assert found is not None
    return found


def test_a_waiting_run_is_renamed_moved_and_preferred(cli: Cli, db: Db) -> None:
    a, b = submit(cli, "--label", "x.y=1", "--label", "team=a"), submit(cli)
    words = (
        "--name",
        "mine",
        "--priority",
        "5",
        "--queue",
        "training",
        "--label",
        "$n=2",
        "--remove-label",
        "team",
    )
    result = cli("runs", "set", a, *words)
    assert result.code == 0, result.err
    run = read(db, a)
    assert (run["name"], run["priority"], run["queue"]) == ("mine", 5, "training")
    assert run["labels"] == {"x.y": "1", "$n": "2"}
    assert run["history"][-1]["what"] == "changed"
    assert "priority=5" in run["history"][-1]["detail"]
    assert read(db, b)["priority"] == 0
    assert cli("runs", "set", "mine", "--name", "").code == 0
    assert "name" not in read(db, a)


def test_only_a_waiting_run_changes_its_queue(cli: Cli, db: Db) -> None:
    a, b = submit(cli), submit(cli)
    db.runs.update_one({"_id": a}, {"$set": {"status": "RUNNING", "labels": "no mapping"}})
    result = cli("runs", "set", a, b, "--queue", "training")
    assert result.code == 1
    assert "only while a run is QUEUED" in result.out
    assert [read(db, each)["queue"] for each in (a, b)] == ["synthetic", "training"]
    assert cli("runs", "set", a, "--label", "n=1", "--name", "busy").code == 0
    assert (read(db, a)["labels"], read(db, a)["name"]) == ({"n": "1"}, "busy")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "Nothing to change"),
        (("--queue", " "), 2, "queue is empty"),
        (("--name", "x" * 201), 2, "1 to 200"),
    ],
)
def test_what_a_run_cannot_have_is_refused(cli: Cli, words: tuple[str, ...], code: int, text: str) -> None:
    result = cli("runs", "set", submit(cli), *words)
    assert (result.code, result.out) == (code, "")
    assert text in result.err
    assert cli("runs", "set", "missing", "--name", "x").code == 3


def test_a_copy_keeps_what_describes_the_run_and_drops_what_happened_to_it(cli: Cli, db: Db) -> None:
    words = (
        "-p",
        "seconds=2",
        "--label",
        "team=a",
        "--priority",
        "4",
        "--max-attempts",
        "2",
        "--min-vram-gb",
        "1",
    )
    first = submit(cli, *words, "--unique-key", "once")
    db.runs.update_one({"_id": first}, {"$set": {"status": "FAILED", "errorCode": "INTERNAL", "attempt": 3}})
    described = {"name": "mine", "after": [first], "maxDurationSeconds": 60.0, "retryOn": ["oom"]}
    db.runs.update_one({"_id": first}, {"$set": described})
    result = cli("runs", "clone", "mine", "--set", "seconds=3", "--label", "try=2", "--json")
    run, old = read(db, result.json["id"]), read(db, first)
    assert (run["status"], run["attempt"], run["params"]) == ("QUEUED", 0, old["params"] | {"seconds": 3})
    kept = ("queue", "priority", "maxAttempts", "requirements")
    assert {name: run[name] for name in kept} == {name: old[name] for name in kept}
    assert run["labels"] == {"team": "a", "try": "2"}
    assert not {"uniqueKey", "errorCode"} & run.keys()


def test_a_value_inside_a_parameter_is_set(cli: Cli, db: Db) -> None:
    first = cli("runs", "submit", "command", "-p", "run=true", "-p", 'envs={"A": "1"}', "--json").json["id"]
    words = (
        "--set",
        "envs.LR=0.1",
        "--set",
        "envs.A=",
        "--set",
        'outputs=[{"glob": "a"}]',
        "--set",
        "outputs.0.glob=1",
    )
    result = cli("runs", "clone", first, *words, "--json")
    assert result.code == 0, result.err
    params = read(db, result.json["id"])["params"]
    assert params["envs"] == {"A": "", "LR": "0.1"}
    assert params["outputs"][0]["glob"] == "1"
    assert read(db, first)["params"]["envs"] == {"A": "1"}


@pytest.mark.parametrize("path", ["run.x=1", "outputs.7.glob=a", "envz.A=1", "envs"])
def test_a_path_that_leads_nowhere_is_refused(cli: Cli, db: Db, path: str) -> None:
    first = cli("runs", "submit", "command", "-p", "run=true", "--json").json["id"]
    result = cli("runs", "clone", first, "--set", path)
    assert result.code == 2, result.err
    assert db.runs.count_documents({}) == 1
