"""What the shell proposes, asked as a shell asks: quickly, and without a word where the store is away."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.cli.completion import CONNECT_SECONDS
from pod_worker.local.process import free_port
from tests.cli.conftest import Cli, CommandResult

Db = Database[dict[str, Any]]
ANSWER_SECONDS = 0.5  # of this process, without the start of Python; the machine may be busy


@pytest.fixture
def complete(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(line: str) -> CommandResult:
        words = line.split(" ")
        monkeypatch.setenv("_POD_WORKER_COMPLETE", "zsh_complete")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        return cli()

    return call


def values(result: CommandResult) -> list[str]:
    """zsh gets three lines for each proposal: kind, value, description."""
    assert result.err == ""
    return result.out.splitlines()[1::3]


def insert(db: Db, *ids: str) -> None:
    db.runs.insert_many({"_id": each, "pipeline": "training", "status": "RUNNING"} for each in ids)


@pytest.mark.parametrize(
    "command",
    ["runs show", "runs logs", "runs watch", "runs why", "runs cancel", "runs reset", "runs retry-stage",
     "runs clone", "events tail", "events rebuild", "artifacts list", "artifacts get"],
)  # fmt: skip
def test_run_ids_are_completed_for_each_command_that_takes_one(complete: Any, db: Db, command: str) -> None:
    insert(db, "01A", "01B", "02C")
    result = complete(f"pod-worker {command} 01")
    assert values(result) == ["01B", "01A"]
    assert "training RUNNING" in result.out


def test_an_id_that_the_line_has_is_not_proposed_again(complete: Any, db: Db) -> None:
    insert(db, "01A", "01B")
    assert values(complete("pod-worker runs cancel 01A 0")) == ["01B"]
    assert set(values(complete("pod-worker runs show "))) == {"01A", "01B"}


@pytest.mark.parametrize("command", ["hypotheses show", "hypotheses launch", "ideation submit"])
def test_hypotheses_are_completed_with_their_titles(complete: Any, db: Db, command: str) -> None:
    db.hypotheses.insert_many([{"_id": "01A", "title": "Noise"}, {"_id": "02B"}])
    result = complete(f"pod-worker {command} 01")
    assert values(result) == ["01A"]
    assert "Noise" in result.out


def test_ideation_requests_are_completed_with_their_states(complete: Any, db: Db) -> None:
    db.ideation_requests.insert_one({"_id": "01A", "status": "RUNNING"})
    result = complete("pod-worker ideation show 0")
    assert values(result) == ["01A"]
    assert "RUNNING" in result.out


def test_pipelines_parameters_and_queues_are_completed(complete: Any) -> None:
    assert values(complete("pod-worker runs submit tr")) == ["training"]
    assert values(complete("pod-worker pipelines show s")) == ["synthetic"]
    assert values(complete("pod-worker runs submit synthetic -p fail_a")) == ["fail_at=", "fail_attempts="]
    assert {"lr=", "log_every=", "literature="} <= set(values(complete("pod-worker runs reset r1 -p l")))
    assert values(complete("pod-worker queues pause t")) == ["training"]


@pytest.mark.parametrize("url", ["mongodb://127.0.0.1:{port}/x", "postgres://x", ""])
def test_without_a_store_there_are_no_proposals_and_no_words(
    complete: Any, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("MONGODB_URL", url.format(port=free_port()))
    complete("pod-worker runs submit x")  # imports are not measured
    began = time.monotonic()
    result = complete("pod-worker runs show 0")
    assert time.monotonic() - began < CONNECT_SECONDS + ANSWER_SECONDS
    assert (result.out.strip(), result.err) == ("", "")


def test_names_labels_queues_and_statuses_are_completed(complete: Any, db: Db) -> None:
    run = {"pipeline": "training", "status": "RUNNING"}
    db.runs.insert_one({"_id": "01A", **run, "name": "sweep-1", "queue": "nightly", "labels": {"team": "a.b"}})
    db.runs.insert_one({"_id": "01B", **run, "name": "sweep-1", "labels": "not a mapping"})
    assert values(complete("pod-worker runs show swe")) == ["sweep-1"]
    assert values(complete("pod-worker runs list --name s")) == ["sweep-1"]
    assert values(complete("pod-worker runs list --label te")) == ["team=a.b"]
    assert values(complete("pod-worker runs cancel --label te")) == ["team=a.b"]
    assert values(complete("pod-worker runs list --queue n")) == ["nightly"]
    assert values(complete("pod-worker runs list --status FAILED,CO")) == ["FAILED,COMPLETED"]
