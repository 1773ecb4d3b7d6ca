"""The examples, as a user runs them: submitted from their files, executed by real workers."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.acceptance.local_stack import Running, wait_for

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def submitted(running: Running, *words: str) -> list[str]:
    done = running.cli("run", "--detach", "--json", *words)
    return [str(each) for each in json.loads(done.stdout)["ids"]]


def output(running: Running, run_id: str, name: str, folder: Path) -> str:
    """The content of an uploaded output."""
    keys = [str(row["key"]) for row in running.db.artifacts.find({"runId": run_id}) if row["key"].endswith(name)]
    assert keys, f"{run_id} has no output {name}"
    running.cli("artifacts", "get", keys[0], "--output", str(folder / run_id))
    return (folder / run_id).read_text()


def snapshots(run: dict[str, Any]) -> Any:
    return ((run.get("checkpoints") or {}).get("command") or {}).get("state", {}).get("snapshots")


def test_a_training_that_is_killed_ends_on_another_pod_with_the_same_result(
    running: Running, tmp_path: Path
) -> None:
    job = str(EXAMPLES / "pytorch_checkpoints" / "job.yaml")
    fields = ["--set", "envs.EPOCHS=300", "--set", "checkpoint_every=1"]
    [killed] = submitted(running, job, *fields)
    with running.worker("first-pod") as first:
        wait_for(lambda: snapshots(running.run(killed)), "a snapshot of the checkpoints", 120)
        first.send(signal.SIGKILL)
    [whole] = submitted(running, job, *fields)
    with running.worker("second-pod", "--max-runs", "2") as second:
        assert running.cli("wait", killed, whole).stdout.count("COMPLETED") == 2
        assert second.wait() == 0
    run = running.run(killed)
    assert run["attempt"] == 2
    lines = [
        str(event["data"]["message"]) for event in running.db.events.find({"runId": killed, "type": "ai.run.log"})
    ]
    assert any(line.startswith("continuing after epoch ") for line in lines)
    results = [output(running, each, "result.json", tmp_path) for each in (killed, whole)]
    assert results[0] == results[1]


def test_a_sweep_is_one_run_per_combination_and_a_pipeline_waits(running: Running, tmp_path: Path) -> None:
    sweep = submitted(
        running,
        str(EXAMPLES / "sklearn_sweep" / "job.yaml"),
        "--sweep",
        "c=0.1,10",
        "gamma=0.001",
        "--label",
        "t=1",
    )
    count_file = EXAMPLES / "shell_pipeline" / "count.yaml"
    [first] = submitted(running, str(EXAMPLES / "shell_pipeline" / "prepare.yaml"))
    [then] = submitted(running, str(count_file))
    assert running.run(then)["blockedBy"] == [first]
    with running.worker("pod"):
        running.cli("wait", *sweep, first, then)
    scores = [json.loads(output(running, each, "score.json", tmp_path)) for each in sweep]
    assert [(each["c"], each["gamma"]) for each in scores] == [(0.1, 0.001), (10.0, 0.001)]
    assert scores[1]["accuracy"] > scores[0]["accuracy"]
    assert [running.run(each)["labels"] for each in sweep] == [
        {"t": "1", "c": "0.1", "gamma": "0.001"},
        {"t": "1", "c": "10", "gamma": "0.001"},
    ]
    assert output(running, then, "top.txt", tmp_path).split()[:2] == ["7", "the"]


def test_the_exit_code_of_the_command_is_ours(running: Running, tmp_path: Path) -> None:
    with running.worker("pod"):
        done = running.cli("run", "--no-workdir", "--", "bash", "-c", "echo last words; exit 7", check=False)
        assert done.returncode == 7
        assert "last words" in done.stdout
        [run_id] = submitted(running, "--no-workdir", "--", "/no/such/program")
        waited = running.cli("wait", run_id, "--json", check=False)
    assert waited.returncode == 127
    assert json.loads(waited.stdout)["exit_code"] == 127
