"""Commands for several runs: by ids, by label, by queue."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import OperationFailure
from rich.console import Console

from pod_worker.cli.runs import watch
from pod_worker.cli.runs.selection import named
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.views.read_models import ReadModels
from tests.cli.conftest import Cli
from tests.cli.runs.test_commands import submit

Db = Database[dict[str, Any]]


def canceled(db: Db) -> set[str]:
    return {run["_id"] for run in db.runs.find({"status": "CANCELED"})}


def test_cancel_takes_the_open_runs_with_a_label(cli: Cli, db: Db) -> None:
    a, b = submit(cli, "--label", "sweep=x"), submit(cli, "--label", "sweep=x", "--label", "n.1=2")
    other, done = submit(cli, "--label", "sweep=y"), submit(cli, "--label", "sweep=x")
    db.runs.update_one({"_id": done}, {"$set": {"status": "COMPLETED"}})
    assert cli("runs", "cancel", "--label", "sweep=x", "--label", "n.1=2", "--yes").code == 0
    assert canceled(db) == {b}
    result = cli("runs", "cancel", "--label", "sweep=x", other, "--yes", "--json")
    assert {run["id"] for run in result.json} == canceled(db) - {b} == {a, other}


def test_cancel_takes_the_open_runs_of_a_queue(cli: Cli, db: Db) -> None:
    a, _ = submit(cli, "--queue", "nightly"), submit(cli)
    assert cli("runs", "cancel", "--queue", "nightly", "--yes").code == 0
    assert canceled(db) == {a}
    again = cli("runs", "cancel", "--queue", "nightly", "--yes")
    assert (again.code, again.out) == (0, "")
    assert "no open run matches" in again.err


@pytest.mark.parametrize("command", ["cancel", "watch"])
def test_nothing_is_selected_without_a_word(cli: Cli, db: Db, command: str) -> None:
    submit(cli)
    result = cli("runs", command)
    assert result.code == 2
    assert "--label" in result.err
    assert canceled(db) == set()


def test_the_question_names_few_of_many_runs() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named([*"abcdefgh"]) == "a, b, c, d, e and 3 more (8 runs)"


def test_watch_follows_the_open_runs_with_a_label(cli: Cli, db: Db) -> None:
    a, _ = submit(cli, "--label", "sweep=x"), submit(cli)
    db.runs.update_one({"_id": a}, {"$set": {"status": "AWAITING_HUMAN"}})
    found = ReadModels(db)

    class Ended(ReadModels):
        def runs_by_id(self, run_ids: Any) -> Any:
            db.runs.update_one({"_id": a}, {"$set": {"status": "COMPLETED"}})
            return found.runs_by_id(run_ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "ReadModels", Ended)
        result = cli("runs", "watch", "--label", "sweep=x")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()] == [a]


def test_many_runs_are_a_line_each_with_the_running_ones_first(db: Db) -> None:
    """200 runs in a terminal of 50 lines: what runs is visible, and the counts of all are."""
    runs = [{"_id": f"run-{n:03}", "status": "RUNNING" if n == 150 else "QUEUED"} for n in range(200)]
    out = StringIO()
    Console(file=out, width=100, height=50).print(watch._live_table(ReadModels(db), runs))
    lines = out.getvalue().splitlines()
    assert len(lines) < 50
    assert "run-150" in lines[3]
    assert "200 runs: 199 QUEUED, 1 RUNNING" in out.getvalue()


def test_cancel_takes_runs_by_name_and_status(cli: Cli, db: Db) -> None:
    a, b, c = submit(cli), submit(cli), submit(cli)
    db.runs.update_one({"_id": a}, {"$set": {"name": "mine"}})
    db.runs.update_one({"_id": b}, {"$set": {"status": "AWAITING_HUMAN"}})
    assert cli("runs", "cancel", "mine", "--yes").code == 0
    assert canceled(db) == {a}
    assert cli("runs", "cancel", "--status", "awaiting_human", "--yes").code == 0
    assert canceled(db) == {a, b}
    assert c not in canceled(db)


def test_one_unknown_run_does_not_stop_the_others(cli: Cli, db: Db) -> None:
    a = submit(cli)
    result = cli("runs", "cancel", "missing", a, "--yes")
    assert result.code == 1
    assert canceled(db) == {a}
    assert [line.split()[0] for line in result.out.splitlines()] == [a, "missing"]
    again = cli("runs", "reset", "missing", a, "--json")
    assert (again.code, {row["id"]: row["result"] for row in again.json}) == (1, {a: "done", "missing": "missing"})


def test_an_error_of_one_run_does_not_stop_the_others(cli: Cli, db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = submit(cli), submit(cli)
    act = OperatorActions.cancel

    def failing(self: OperatorActions, run_id: str, **rest: Any) -> Any:
        if run_id == a:
            raise OperationFailure("document is too large")
        return act(self, run_id, **rest)

    monkeypatch.setattr(OperatorActions, "cancel", failing)
    result = cli("runs", "cancel", a, b, "--yes")
    assert (result.code, canceled(db)) == (1, {b})
    assert "too large" in result.out.splitlines()[0]


def test_reset_takes_failed_and_canceled_runs_with_a_label(cli: Cli, db: Db) -> None:
    a, b, done = (submit(cli, "--label", "s=1") for _ in range(3))
    for run_id, status in ((a, "FAILED"), (b, "CANCELED"), (done, "COMPLETED")):
        db.runs.update_one({"_id": run_id}, {"$set": {"status": status}})
    refused = cli("runs", "reset", "--label", "s=1")
    assert (refused.code, db.runs.count_documents({"status": "QUEUED"})) == (2, 0)
    assert "--yes" in refused.err
    assert cli("runs", "reset", "--label", "s=1", "--yes").code == 0
    assert {run["_id"] for run in db.runs.find({"status": "QUEUED"})} == {a, b}
    assert cli("runs", "reset", "--label", "s=1", "--status", "COMPLETED", "-y").code == 0
    assert db.runs.count_documents({"status": "QUEUED"}) == 3


def test_a_stage_of_several_runs_is_executed_again(cli: Cli, db: Db) -> None:
    a, b, c = (submit(cli, "--label", "s=1") for _ in range(3))
    done = {"Stage_1": {"done": True}}
    db.runs.update_many({}, {"$set": {"status": "FAILED", "checkpoints": done}})
    db.runs.update_one({"_id": b}, {"$set": {"checkpoints": {}}})
    result = cli("runs", "retry-stage", a, b, "Stage_1")
    assert result.code == 1
    assert "not a finished stage" in result.out
    assert cli("runs", "retry-stage", "--label", "s=1", "Stage_1", "--yes", "--json").code == 1
    assert {run["_id"] for run in db.runs.find({"status": "QUEUED"})} == {a, c}


def test_watch_names_an_unknown_run_and_follows_the_others(cli: Cli, db: Db) -> None:
    a = submit(cli)
    db.runs.update_one({"_id": a}, {"$set": {"status": "COMPLETED"}})
    result = cli("runs", "watch", a, "missing")
    assert result.code == 1
    assert "no run 'missing'" in result.err
    assert a in result.out
