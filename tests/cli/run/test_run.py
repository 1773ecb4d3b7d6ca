"""`pod-worker run` and `wait`: what is queued, and what is refused before anything is written."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker import jobs
from pod_worker.cli.run.words import with_repeated_sweeps
from tests.cli.conftest import Cli

Db = Database[dict[str, Any]]


def queued(cli: Cli, *words: str) -> list[str]:
    result = cli("run", "--detach", "--json", *words)
    assert result.code == 0, result.err
    return [str(each) for each in result.json["ids"]]


def test_a_command_is_queued_with_its_options(cli: Cli, db: Db) -> None:
    [run_id] = queued(
        cli, "--no-workdir", "--name", "first", "--env", "LR=1e-4", "--env", "DAY=2026-01-01", "--env", 'LIST=[1, "a"]', "--gpu", "24GB..48GB:2",
        "--max-duration", "90m", "--max-queue-time", "1h", "--retry", "2", "--label", "team=a", "--priority", "3",
        "--set", "resources.memory=64GB", "--", "python", "train.py", "--lr", "1e-4",
    )  # fmt: skip
    run = db.runs.find_one({"_id": run_id}) or {}
    assert run["params"]["run"] == ["python", "train.py", "--lr", "1e-4"]
    assert run["params"]["envs"] == {"LR": "1e-4", "DAY": "2026-01-01", "LIST": '[1, "a"]'}
    assert run["params"]["gpus"] == 2
    assert run["requirements"] == {"minVramGb": 24, "maxVramGb": 48, "gpuCount": 2, "memoryGb": 64}
    assert (run["name"], run["priority"], run["maxAttempts"]) == ("first", 3, 3)
    assert (run["maxDurationSeconds"], run["maxQueueSeconds"]) == (5400, 3600)
    assert run["retryOn"] == ["interruption"]
    assert run["labels"] == {"team": "a"}


def test_a_file_is_queued_and_an_option_outranks_it(cli: Cli, db: Db, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("run: echo hi\nname: from-file\nenvs: {A: 1}\nafter: []\n")
    [run_id] = queued(cli, "job.yaml", "--name", "from-option", "--set", "envs.B=2")
    run = db.runs.find_one({"_id": run_id}) or {}
    assert (run["name"], run["params"]["envs"]) == ("from-option", {"A": "1", "B": "2"})
    [then] = queued(cli, "job.yaml", "--after", "from-option")
    assert (db.runs.find_one({"_id": then}) or {})["after"] == [run_id]


def test_a_job_from_python_is_the_same_run_as_from_a_file(
    cli: Cli, control_plane: str, db: Db, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "train.py").write_text("print(1)")
    first = jobs.run(run="true", name="prepare").id
    fields: dict[str, Any] = {
        "run": ["python", "train.py", 1],
        "name": "digits",
        "labels": {"team": "vision"},
        "envs": {"LR": 1e-4},
        "secrets": {"KEY": "a-secret-value"},
        "resources": {"gpu": "24GB..48GB:2", "memory": "64GB"},
        "max_duration": "90m",
        "retry": {"max": 2, "on": ["oom"]},
        "outputs": ["*.json", {"glob": "model.bin", "required": True}],
        "after": ["prepare"],
        "metrics": {"tensorboard": "runs"},
    }
    made = jobs.run(**fields, workdir=tmp_path / "work").id
    (tmp_path / "job.yaml").write_text(json.dumps({**fields, "workdir": "work"}))
    other = cli("run", "--detach", "--json", "job.yaml").json["id"]
    found, expected = (db.runs.find_one({"_id": each}) or {} for each in (made, other))
    assert found["after"] == [first]
    assert found["params"]["workdir"]["files"] == 1
    own = {"_id", "createdAt", "queuedAt", "runAfter", "history", "sealedSecrets"}
    assert {name: value for name, value in found.items() if name not in own} == {
        name: value for name, value in expected.items() if name not in own
    }
    assert "a-secret-value" not in repr(found)
    jobs.close()


def test_a_sweep_is_queued_together(cli: Cli, db: Db) -> None:
    ids = queued(cli, "--no-workdir", "--sweep", "lr=1,2", "seed=0..2", "--", "train", "{lr}", "{seed}")
    assert len(ids) == 6
    assert db.runs.count_documents({"labels.lr": "2"}) == 3


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "pod-worker run -- python train.py"),
        (["train.py"], "write -- before it"),
        (["nowhere.yaml"], "cannot be read"),
        (["--no-workdir", "--max-duration", "soon", "--", "x"], '"90m"'),
        (["--no-workdir", "--gpu", "H100:x", "--", "x"], "H100:2"),
        (["--no-workdir", "--secret", "KEY=value", "--", "x"], "takes a name alone"),
        (["--no-workdir", "--secret", "NOT_SET_ANYWHERE", "--", "x"], "export NOT_SET_ANYWHERE"),
        (["--no-workdir", "--env", "LR", "--", "x"], "NAME=VALUE"),
        (["--no-workdir", "--env", "OUTPUT_DIR=x", "--", "x"], "which the worker sets"),
        (["--no-workdir", "--sweep", "lr=1,2", "--", "x"], "does not use {lr}"),
        (["--no-workdir", "--after", "nothing", "--", "x"], "there is no run 'nothing'"),
        (["--workdir", "no-such-folder", "--", "x"], "not a folder"),
        (["--workdir", "https://host/o/r", "--", "x"], "URL@COMMIT"),
        (["--workdir", "empty", "--", "x"], "empty"),
        (["--workdir", "data", "--max-mb", "1", "--", "x"], "big.bin"),
    ],
)
def test_bad_input_is_refused_with_the_fix_and_nothing_is_queued(
    cli: Cli, db: Db, tmp_path: Path, words: list[str], hint: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "big.bin").write_bytes(b"x" * 2_000_000)
    result = cli("run", "--detach", *words)
    assert result.code in (2, 3), result.err
    assert hint in result.err
    assert db.runs.count_documents({}) == 0


def test_a_dry_run_changes_nothing_and_shows_no_secret(cli: Cli, db: Db, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("run: train\nworkdir: .\nsecrets: {KEY: a-secret-value}\n")
    text = cli("run", "job.yaml", "--dry-run")
    assert text.code == 0, text.err
    assert "job.yaml" in text.out
    found = cli("run", "job.yaml", "--dry-run", "--json")
    assert found.json["workdir"]["files"] == 1
    assert "a-secret-value" not in text.out + text.err + found.out + found.err
    assert db.runs.count_documents({}) == 0


def test_a_plan_asks_a_control_plane_that_is_away_once(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Away(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *words: object) -> None:
            pass

    (tmp_path / "job.yaml").write_text("run: train\nworkdir: .\n")
    with HTTPServer(("127.0.0.1", 0), Away) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("CONTROL_PLANE_URL", f"http://127.0.0.1:{server.server_port}")
        try:
            plan = cli("run", "job.yaml", "--dry-run")
        finally:
            server.shutdown()
            thread.join()
    assert plan.code == 0, plan.err
    assert asked == ["/api/content/missing"]


def test_wait_exits_with_the_first_code_that_is_not_zero(cli: Cli, db: Db) -> None:
    good, bad, canceled = (queued(cli, "--no-workdir", "--name", name, "--", "x")[0] for name in "abc")
    failed = {"status": "FAILED", "exitCode": 3, "errorMessage": "the command ended with exit code 3"}
    for run_id, fields in ((good, {"status": "COMPLETED"}), (bad, failed), (canceled, {"status": "CANCELED"})):
        db.runs.update_one({"_id": run_id}, {"$set": fields})
    assert cli("wait", good).code == 0
    result = cli("wait", good, "b", canceled)
    assert result.code == 3
    assert "exit code 3" in result.out
    assert cli("wait", canceled).code == 1
    assert [json.loads(line)["exit_code"] for line in cli("wait", good, bad, "--json").out.splitlines()] == [0, 3]


def test_wait_gives_up_after_its_time_and_names_an_unknown_run(cli: Cli) -> None:
    [run_id] = queued(cli, "--no-workdir", "--", "x")
    assert cli("wait", run_id, "--timeout", "0").code == 75
    assert cli("wait", "nothing").code == 3
    assert cli("wait", run_id, "--timeout", "soon").code == 2


def test_the_schema_is_printed(cli: Cli) -> None:
    assert cli("run", "--schema").json["title"] == "pod_worker job"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--sweep", "a=1", "b=2", "--detach"], ["--sweep", "a=1", "--sweep", "b=2", "--detach"]),
        (["job.yaml", "--sweep", "a=1"], ["job.yaml", "--sweep", "a=1"]),
        (["--sweep", "a=1", "job.yaml"], ["--sweep", "a=1", "job.yaml"]),
        (["--env", "A=1", "--sweep", "a=1", "--env", "B=2"], ["--env", "A=1", "--sweep", "a=1", "--env", "B=2"]),
    ],
)
def test_one_sweep_option_takes_several_words(given: list[str], meant: list[str]) -> None:
    assert with_repeated_sweeps(given) == meant
