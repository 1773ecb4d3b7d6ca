"""From a hypothesis to ideas to an experiment, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.store.ideation.launches import WaitingLaunches
from tests.cli.conftest import Cli
from tests.ideation_pipelines import register
from tests.store.ideation.conftest import IDEA

Db = Database[dict[str, Any]]
CREATE = ("hypotheses", "create", "--title", "Noise", "--idea", "Smoothing helps.")


@pytest.fixture(autouse=True)
def _pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def run_of(db: Db, run_id: str) -> dict[str, Any]:
    run = db.runs.find_one({"_id": run_id})
    assert run is not None
    return run


def with_ideas(db: Db, hypothesis_id: str, *ideas: dict[str, Any]) -> None:
    change = {"ideation.ideas": list(ideas), "ideation.ideaCount": len(ideas), "ideaJson": ideas[0]}
    db.hypotheses.update_one({"_id": hypothesis_id}, {"$set": change})


def test_a_hypothesis_with_ideation_queues_a_run_of_the_requests_id(cli: Cli, db: Db, tmp_path: Path) -> None:
    (tmp_path / "context.md").write_text("Earlier runs failed.")
    made = cli(*CREATE, "--context", "context.md", "--ideate", "--reflections", "2", "--json").json
    run = run_of(db, made["ideationId"])
    assert (run["pipeline"], run["queue"], run["status"], run["hypothesisId"]) == (
        "ideation", "ideation", "QUEUED", made["id"],
    )  # fmt: skip
    assert run["params"]["reflections"] == 2
    assert run["params"]["context"] == "Earlier runs failed."
    assert made["runId"] is None
    listed = cli("hypotheses", "list")
    assert "Noise\tQUEUED\t0" in listed.out
    shown = cli("hypotheses", "show", made["id"][:20], "--json").json
    assert shown["hypothesis"]["title"] == "Noise"
    assert [each["id"] for each in shown["requests"]] == [made["ideationId"]]
    assert [each["id"] for each in shown["runs"]] == [made["ideationId"]]


def test_the_id_alone_is_on_stdout(cli: Cli, db: Db) -> None:
    result = cli(*CREATE)
    assert db.hypotheses.find_one({"_id": result.out.strip()}) is not None
    assert f"pod-worker ideation submit {result.out.strip()}" in result.err


def test_ideation_can_be_submitted_later_with_parameters(cli: Cli, db: Db) -> None:
    name = cli(*CREATE).out.strip()
    made = cli(
        "ideation", "submit", name, "--generations", "2", "-p", "model=scripted", "-p", "seed=7", "--json"
    ).json
    params = run_of(db, made["id"])["params"]
    assert (params["model"], params["seed"], params["max_num_generations"]) == ("scripted", 7, 2)
    assert params["idea"] == "Smoothing helps."
    shown = cli("ideation", "show", made["id"]).out
    assert "QUEUED" in shown
    assert "generations  2" in shown
    assert cli("ideation", "list", "--hypothesis", name[:12], "--json").json[0]["status"] == "QUEUED"
    assert f"{made['id']}\t{name}\tQUEUED" in cli("ideation", "list").out


def test_the_selected_idea_is_launched_and_another_one_can_be_chosen(cli: Cli, db: Db) -> None:
    name = cli(*CREATE).out.strip()
    with_ideas(db, name, IDEA, IDEA | {"Title": "Second", "Task": "wine"})
    first = cli("hypotheses", "launch", name, "-p", "seed=3", "--json").json
    run = run_of(db, first["id"])
    assert (run["pipeline"], run["hypothesisId"], run["params"]["seed"]) == ("experiment", name, 3)
    assert run["params"]["idea"] == IDEA
    second = cli("hypotheses", "launch", name, "--idea-index", "1")
    run = run_of(db, second.out.strip())
    assert (run["params"]["idea"]["Title"], run["params"]["task"]) == ("Second", "wine")
    assert db.hypotheses.count_documents({"_id": name, "ideaJson.Title": "Second"}) == 1
    db.hypotheses.update_one({"_id": name}, {"$set": {"ideation.isScripted": True}})
    shown = cli("hypotheses", "show", name).out
    assert "the scripted model, no language model" in shown
    assert "0\t\tLabel smoothing under label noise\t-" in shown
    assert "1\t*\tSecond\twine" in shown


def test_a_launch_with_ideation_waits_for_the_idea(cli: Cli, db: Db) -> None:
    from pod_worker.core.clock import SystemClock
    from pod_worker.store.queue.run_queue import RunQueue

    made = cli(*CREATE, "--ideate", "--launch", "-p", "seed=5", "--json").json
    assert db.runs.find_one({"_id": made["runId"]}) is None
    assert f"experiment {made['runId']} waits for an idea" in cli("hypotheses", "show", made["id"]).out
    with_ideas(db, made["id"], IDEA)
    assert WaitingLaunches(db, RunQueue(db, SystemClock())).launch_ready() == [made["runId"]]
    assert run_of(db, made["runId"])["params"] == {"seed": 5, "idea": IDEA}


def test_a_complete_idea_needs_no_ideation(cli: Cli, db: Db, tmp_path: Path) -> None:
    (tmp_path / "idea.json").write_text(json.dumps(IDEA))
    made = cli(*CREATE, "--idea-json", "idea.json", "--launch", "--json").json
    assert run_of(db, made["runId"])["params"]["idea"] == IDEA
    assert made["ideationId"] is None


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    ((*CREATE, "--launch"), 2, "--launch needs an idea"),
    ((*CREATE, "--context", "absent.txt"), 2, "absent.txt"),
    ((*CREATE, "--idea-json", "bad.json"), 2, "'Abstract' is missing"),
    ((*CREATE, "--ideate", "--reflections", "11"), 2, "11"),
    ((*CREATE, "--ideate", "--launch", "-p", "seed=x"), 2, "'seed' is 'x'"),
    ((*CREATE, "--ideate", "--launch", "-p", "seeds=1"), 2, "did you mean 'seed'"),
    (("hypotheses", "create", "--title", "t", "--idea", " "), 2, "the idea text is empty"),
    (("hypotheses", "create", "--title", "t" * 501, "--idea", "x"), 2, "501 characters"),
    (("hypotheses", "show", "absent"), 3, "there is no hypothesis 'absent'"),
    (("hypotheses", "launch", "absent"), 3, "there is no hypothesis 'absent'"),
    (("ideation", "submit", "absent"), 3, "there is no hypothesis 'absent'"),
    (("ideation", "show", "absent"), 3, "there is no ideation request 'absent'"),
]  # fmt: skip


def test_what_cannot_work_is_refused_and_nothing_is_stored(cli: Cli, db: Db, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"Title": "only"}')
    for words, code, reason in REFUSED:
        result = cli(*words)
        assert (result.code, result.out) == (code, ""), words
        assert reason in result.err
        assert db.hypotheses.count_documents({}) == db.runs.count_documents({}) == 0


def test_a_launch_without_an_idea_names_the_next_step(cli: Cli, db: Db) -> None:
    name = cli(*CREATE).out.strip()
    result = cli("hypotheses", "launch", name)
    assert result.code == 2
    assert f"pod-worker ideation submit {name}" in result.err
    with_ideas(db, name, IDEA)
    result = cli("hypotheses", "launch", name, "--idea-index", "4")
    assert "has no idea 4; it has the ideas 0 to 0" in result.err


def test_an_ambiguous_beginning_lists_the_ids(cli: Cli, db: Db) -> None:
    db.hypotheses.insert_many([{"_id": "ab1", "title": "t"}, {"_id": "ab2", "title": "t"}])
    db.ideation_requests.insert_many([{"_id": "ab1"}, {"_id": "ab2"}])
    for words in (("hypotheses", "show", "ab"), ("ideation", "show", "ab")):
        result = cli(*words)
        assert result.code == 3
        assert "ab1, ab2" in result.err


def test_empty_lists_name_the_command_that_fills_them(cli: Cli) -> None:
    assert "pod-worker hypotheses create" in cli("hypotheses", "list").err
    assert "pod-worker ideation submit" in cli("ideation", "list").err
