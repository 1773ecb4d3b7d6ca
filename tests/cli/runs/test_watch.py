"""Following a run for a long time: outages are waited out, and Ctrl-C leaves the run alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from pymongo.database import Database
from pymongo.errors import AutoReconnect, OperationFailure

from pod_worker.cli.connection import until_reconnected
from pod_worker.local.mongod import Mongod
from pod_worker.local.process import free_port
from pod_worker.store.mongo import connect
from pod_worker.submission import reconnecting
from tests.cli.conftest import Cli

Db = Database[dict[str, Any]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "RETRY_SECONDS", 0.01)


def test_an_outage_is_waited_out_and_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    answers: Iterator[object] = iter([AutoReconnect("a"), AutoReconnect("b"), "result"])

    def read() -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert until_reconnected(read) == "result"
    err = capsys.readouterr().err
    assert err.count("does not answer") == 1
    assert err.count("answers again") == 1


def test_an_error_that_waiting_cannot_help_ends_the_command() -> None:
    def read() -> None:
        raise OperationFailure("not authorized")

    with pytest.raises(OperationFailure):
        until_reconnected(read)


@contextmanager
def following(url: str, folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "pod_worker", *words, "r"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ) | {"MONGODB_URL": url, "PYTHONUNBUFFERED": "1"},
        cwd=folder,
    ) as process:
        yield process


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_a_restart_of_mongodb_is_survived(tmp_path: Path) -> None:
    event = {"runId": "r", "type": "ai.run.log", "level": "info"}
    with Mongod(tmp_path / "mongod", port=free_port()) as server, ExitStack() as stack:
        url = server.url_for("follow")
        database = connect(url)
        database.runs.insert_one({"_id": "r", "pipeline": "synthetic", "status": "RUNNING"})
        database.events.insert_one({"_id": "e1", "position": 1, "data": {"message": "first"}, **event})
        watch, logs, tail = commands = [
            stack.enter_context(following(url, tmp_path, *words))
            for words in (["runs", "watch"], ["runs", "logs", "-f"], ["events", "tail", "-f"])
        ]
        assert "RUNNING" in line_of(watch.stdout)
        assert "first" in line_of(logs.stdout)
        assert "first" in line_of(tail.stdout)
        server.kill()
        assert all("does not answer" in line_of(process.stderr) for process in commands)
        server.start()
        assert all("answers again" in line_of(process.stderr) for process in commands)
        database.events.insert_one({"_id": "e2", "position": 2, "data": {"message": "second"}, **event})
        database.runs.update_one({"_id": "r"}, {"$set": {"status": "COMPLETED"}})
        assert "COMPLETED" in line_of(watch.stdout)
        assert "second" in line_of(logs.stdout)
        assert "second" in line_of(tail.stdout)
        tail.send_signal(signal.SIGINT)
        assert [process.wait(30) for process in commands] == [0, 0, 130]
        database.client.close()


def test_ctrl_c_says_that_the_run_goes_on(mongodb_url: str, db: Db, tmp_path: Path) -> None:
    db.runs.insert_one({"_id": "r", "pipeline": "synthetic", "status": "RUNNING"})
    with subprocess.Popen(
        [sys.executable, "-m", "pod_worker", "runs", "watch", "r"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ) | {"MONGODB_URL": mongodb_url},
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert "RUNNING" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the run goes on" in err
    assert "pod-worker runs watch r" in err
    assert (db.runs.find_one({"_id": "r"}) or {})["status"] == "RUNNING"


def test_json_lines_follow_several_runs_to_their_end(cli: Cli, db: Db) -> None:
    db.runs.insert_many(
        [
            {"_id": "a", "pipeline": "synthetic", "status": "COMPLETED", "currentStage": {"name": "Stage_1"}},
            {"_id": "b", "pipeline": "synthetic", "status": "FAILED", "errorCode": "X", "errorMessage": "m"},
        ]
    )
    result = cli("runs", "watch", "a", "b", "--json")
    assert result.code == 1
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [(line["id"], line["status"], line["stage"], line["errorCode"]) for line in lines] == [
        ("a", "COMPLETED", "Stage_1", None),
        ("b", "FAILED", None, "X"),
    ]
    assert len({frozenset(line) for line in lines}) == 1


def test_a_result_that_waits_for_a_person_ends_the_watch_well(cli: Cli, db: Db) -> None:
    db.runs.insert_one({"_id": "a", "pipeline": "experiment", "status": "AWAITING_HUMAN"})
    assert cli("runs", "watch", "a").code == 0


def test_the_line_of_a_search_has_its_nodes_best_value_and_cost(cli: Cli, db: Db) -> None:
    stage = {
        "name": "Stage_2",
        "totalNodes": 7,
        "goodNodes": 5,
        "buggyNodes": 2,
        "iteration": 3,
        "maxIterations": 12,
    }
    metrics = {"llm_calls": 12, "llm_tokens": 34567, "llm_usd": 0.125, "slots_busy": 2}
    db.runs.insert_one(
        {
            "_id": "a",
            "pipeline": "experiment",
            "status": "FAILED",
            "currentStage": stage | {"bestMetric": 0.94},
            "metrics": metrics,
        }
    )
    out = " ".join(cli("runs", "watch", "a").out.split())
    assert "7 nodes: 5 good, 2 buggy" in out
    assert "iteration 3 of 12" in out
    assert "best 0.94" in out
    assert "12 calls, 34,567 tokens, $0.12" in out
    assert "slots busy" not in out, "no slot is busy once the run has ended"


def test_why_says_how_to_read_a_result_that_waits_for_a_person(cli: Cli, db: Db) -> None:
    db.runs.insert_one({"_id": "a", "pipeline": "experiment", "status": "AWAITING_HUMAN"})
    out = cli("runs", "why", "a").out
    assert "a person decides" in out
    assert "artifacts get a report.html" in out
