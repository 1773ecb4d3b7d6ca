"""Parameters of runs: bounded and named at the door, changed by reset and clone, paths made absolute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.store.worker_registry import WorkerInfo, WorkerRegistry, WorkerState
from tests.cli.conftest import Cli

Db = Database[dict[str, Any]]


def run_of(db: Db, run_id: str) -> dict[str, Any]:
    return db.runs.find_one({"_id": run_id}) or {}


def submit(cli: Cli, *words: str, pipeline: str = "synthetic") -> str:
    result = cli("runs", "submit", pipeline, *words, "--json")
    assert result.code == 0, result.err
    return str(result.json["id"])


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("-p", "events=9223372036854775808"), "events"),
        (("-p", f"events={'9' * 400}"), "events"),
        (("-p", f"events={'9' * 5000}"), "events"),
        (("-p", "seconds=1e400"), "seconds"),
        (("-p", "seconds=NaN"), "seconds"),
        (("-p", 'nested=[1, {"a": Infinity}]'), "nested"),
        (("-p", 'nested=[1, {"a": 99999999999999999999}]'), "nested"),
        (("--priority", "9223372036854775808"), "--priority"),
        (("--priority", "1.5"), "--priority"),
        (("--max-attempts", "9223372036854775808"), "--max-attempts"),
        (("--max-attempts", "0"), "--max-attempts"),
        (("--min-vram-gb", "nan"), "--min-vram-gb"),
        (("--min-vram-gb", "inf"), "--min-vram-gb"),
        (("--min-vram-gb", "-1"), "--min-vram-gb"),
        (("--count", "0"), "--count"),
        (("--unique-key", " "), "--unique-key"),
    ],
)
def test_a_number_that_cannot_be_stored_is_refused_by_name(
    cli: Cli, db: Db, words: tuple[str, ...], name: str
) -> None:
    result = cli("runs", "submit", "synthetic", *words)
    assert result.code == 2
    assert name in result.err
    assert len(result.err) < 500
    assert db.runs.count_documents({}) == 0


def test_the_largest_numbers_are_stored(cli: Cli, db: Db) -> None:
    run_id = submit(cli, "--priority", "9223372036854775807", "-p", "events=9007199254740992")
    assert run_of(db, run_id)["priority"] == 2**63 - 1


def test_a_text_parameter_stays_text_when_it_looks_like_a_number(cli: Cli, db: Db) -> None:
    words = ("-p", "model=m", "-p", "dataset=/d.jsonl", "-p", "revision=1234567", "-p", "lr=1e-5")
    params = run_of(db, submit(cli, *words, pipeline="training"))["params"]
    assert (params["revision"], params["lr"]) == ("1234567", 1e-5)
    assert (
        run_of(db, submit(cli, *words, "-p", "revision=12e45678", pipeline="training"))["params"]["revision"]
        == "12e45678"
    )


def test_a_relative_data_set_is_made_absolute_where_it_exists(cli: Cli, db: Db, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "model").mkdir()
    result = cli("runs", "submit", "training", "-p", "model=model", "-p", "dataset=rows.jsonl")
    params = run_of(db, result.out.strip())["params"]
    assert params["dataset"] == str(tmp_path / "rows.jsonl")
    assert params["model"] == str(tmp_path / "model")
    assert f"dataset: {tmp_path / 'rows.jsonl'}" in result.err
    params = run_of(db, submit(cli, "-p", "model=owner/name", "-p", "dataset=runs/a/b", pipeline="training"))[
        "params"
    ]
    assert (params["model"], params["dataset"]) == ("owner/name", "runs/a/b")


def test_reset_with_other_parameters_checks_them_and_starts_over(cli: Cli, db: Db) -> None:
    run_id = submit(cli, "-p", "seconds=2")
    failed = {"status": "FAILED", "checkpoints": {"Stage_1": {"done": True, "state": {}, "attempt": 1}}}
    db.runs.update_one({"_id": run_id}, {"$set": failed})
    refused = cli("runs", "reset", run_id, "-p", "stages=0")
    assert refused.code == 2
    assert "stages must be 1..50" in refused.err
    assert run_of(db, run_id)["status"] == "FAILED"
    assert cli("runs", "reset", run_id, "-p", "stages=5").code == 0
    run = run_of(db, run_id)
    assert (run["status"], run["checkpoints"], run["params"]["stages"], run["params"]["seconds"]) == (
        "QUEUED", {}, 5, 2,
    )  # fmt: skip
    assert run["history"][-1]["detail"] == "new parameters"


def test_parameters_with_dollar_signs_are_stored_as_they_are(cli: Cli, db: Db) -> None:
    words = ("-p", "model=$name", "-p", "dataset=/d.jsonl")
    run_id = submit(cli, *words, pipeline="training")
    db.runs.update_one({"_id": run_id}, {"$set": {"status": "FAILED"}})
    assert cli("runs", "reset", run_id, "-p", "dataset=$ROOT.x").code == 0
    assert run_of(db, run_id)["params"]["dataset"] == "$ROOT.x"
    assert run_of(db, run_id)["params"]["model"] == "$name"


def test_clone_queues_a_copy_without_results(cli: Cli, db: Db) -> None:
    first = submit(
        cli, "-p", "seconds=2", "--label", "team=a", "--priority", "7", "--gpu", "H100", "--queue", "nightly"
    )
    db.runs.update_one({"_id": first}, {"$set": {"status": "COMPLETED", "metrics": {"loss": 1.0}}})
    result = cli("runs", "clone", first, "-p", "stages=5", "--label", "try=2", "--queue", "synthetic")
    assert result.code == 0, result.err
    copy = run_of(db, result.out.strip())
    assert (copy["status"], copy["queue"], copy["priority"]) == ("QUEUED", "synthetic", 7)
    assert (copy["params"]["stages"], copy["params"]["seconds"]) == (5, 2)
    assert copy["labels"] == {"team": "a", "try": "2"}
    assert copy["requirements"] == {"gpu": "H100"}
    assert "metrics" not in copy
    assert run_of(db, first)["status"] == "COMPLETED"


def test_why_names_commands_that_can_be_followed(cli: Cli, db: Db) -> None:
    run_id = submit(cli, "--queue", "nightly")
    text = cli("runs", "why", run_id).out
    assert "no worker mode includes it" in text
    assert f"pod-worker runs clone {run_id} --queue synthetic" in text
    assert "pod-worker worker --queue nightly" in text
    serving = WorkerInfo("w", "pod", "all", "0.1", "host", 7, queues=("nightly",))
    WorkerRegistry(db).report_state(serving, WorkerState.IDLE)
    assert "1 worker can claim it; 1 idle." in cli("runs", "why", run_id).out
    failed = {"status": "FAILED", "errorCode": "INVALID_INPUT", "errorMessage": "lr is too high"}
    db.runs.update_one({"_id": run_id}, {"$set": failed})
    assert f"pod-worker runs reset {run_id} --param NAME=VALUE" in cli("runs", "why", run_id).out


@pytest.mark.parametrize("pair", ["max_steps=9223372036854775808", "max_rows=1e999"])
def test_every_pipeline_is_protected_from_numbers_that_cannot_be_stored(cli: Cli, db: Db, pair: str) -> None:
    result = cli("runs", "submit", "training", "-p", "model=m", "-p", "dataset=/d.jsonl", "-p", pair)
    assert result.code == 2
    assert f"parameter {pair.partition('=')[0]!r}" in result.err
    assert db.runs.count_documents({}) == 0
