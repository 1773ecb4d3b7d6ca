"""Managing runs as a person or a script does: words in, exit codes and JSON out, no traceback."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.run import Requirements
from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.store.queue.run_queue import RunQueue, RunRequest
from pod_worker.store.worker_registry import WorkerInfo, WorkerRegistry, WorkerState
from tests.cli.conftest import Cli

Db = Database[dict[str, Any]]
NOW = datetime.now(UTC)


def submit(cli: Cli, *words: str) -> str:
    result = cli("runs", "submit", "synthetic", *words, "--json")
    assert result.code == 0, result.err
    return str(result.json["id"])


def test_submit_prints_the_id_alone_on_stdout(cli: Cli, db: Db) -> None:
    result = cli("runs", "submit", "synthetic", "-p", "seconds=2", "--label", "team=a", "--priority", "7")
    assert result.code == 0
    run = db.runs.find_one({"_id": result.out.strip()})
    assert run is not None
    assert (run["status"], run["priority"], run["labels"], run["params"]["seconds"]) == (
        "QUEUED",
        7,
        {"team": "a"},
        2,
    )


def test_any_run_may_have_a_time_limit(cli: Cli, db: Db) -> None:
    result = cli("runs", "submit", "synthetic", "--max-duration", "1h30m")
    assert (db.runs.find_one({"_id": result.out.strip()}) or {})["maxDurationSeconds"] == 5400
    for wrong in ("soon", "0"):
        refused = cli("runs", "submit", "synthetic", "--max-duration", wrong)
        assert refused.code == 2
        assert "--max-duration" in refused.err


def test_a_unique_key_makes_one_run(cli: Cli) -> None:
    first = cli("runs", "submit", "synthetic", "--unique-key", "k", "--json")
    second = cli("runs", "submit", "synthetic", "--unique-key", "k", "--json")
    assert first.json["new"] is True
    run_id = first.json["id"]
    assert second.json == {"id": run_id, "ids": [run_id], "status": "QUEUED", "new": False}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("runs", "submit", "experimnt"), 2, "does not exist; there is: "),
        (("runs", "submit", "synthetic", "-p", "stages=0"), 2, "stages must be 1..50"),
        (("runs", "submit", "synthetic", "-p", "secnds=1"), 2, "unknown parameter 'secnds'"),
        (("runs", "submit", "synthetic", "-p", "seconds"), 2, "NAME=VALUE"),
        (("runs", "submit", "synthetic", "-p", "seconds=NaN"), 2, "'seconds': nan is not a finite number"),
        (("runs", "submit", "synthetic", "--params", "absent.json"), 2, "absent.json"),
        (("runs", "submit", "training", "-p", "model=x"), 2, "dataset"),
        (("runs", "show", "missing"), 3, "runs list"),
        (("runs", "why", "missing"), 3, "there is no run"),
        (("runs", "cancel", "missing", "--yes"), 3, "there is no run"),
        (("runs", "lst"), 2, "No such command"),
        (("rusn", "list"), 2, "Did you mean 'run'"),
    ],
)
def test_bad_input_gets_one_line_with_the_cause_and_its_exit_code(
    cli: Cli, words: tuple[str, ...], code: int, says: str
) -> None:
    result = cli(*words)
    assert result.code == code
    assert says in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def test_list_is_tab_separated_in_a_pipe_and_filters(cli: Cli, db: Db) -> None:
    kept, other = submit(cli), submit(cli)
    db.runs.update_one({"_id": other}, {"$set": {"status": "FAILED"}})
    result = cli("runs", "list", "--status", "queued")
    header, *rows = result.out.splitlines()
    assert header.split("\t")[:3] == ["id", "pipeline", "status"]
    assert [row.split("\t")[0] for row in rows] == [kept]
    assert [run["_id"] for run in cli("runs", "list", "--json").json] == [other, kept]


def test_the_list_is_filtered_by_status_label_queue_and_age(cli: Cli, db: Db) -> None:
    a = submit(cli, "--label", "team=a", "--label", "x.y=$1")
    b = submit(cli, "--label", "team=b", "--queue", "nightly")
    db.runs.update_one({"_id": b}, {"$set": {"status": "FAILED"}})
    db.runs.update_one({"_id": a}, [{"$set": {"createdAt": {"$subtract": ["$$NOW", 7_200_000]}}}])
    db.runs.insert_one({"_id": "other", "status": "FAILED", "labels": "team=a", "queue": 7})

    def ids(*words: str) -> set[str]:
        return {run["id"] for run in cli("runs", "list", *words, "--json").json}

    assert ids("--label", "team=a") == {a}
    assert ids("--label", "team=a", "--label", "x.y=$1") == {a}
    assert ids("--label", "team=c") == set()
    assert ids("--queue", "nightly") == {b}
    assert ids("--since", "1h") == {b}
    assert ids("--since", "3h") == {a, b}
    assert ids("--status", "failed,queued") == {a, b, "other"}
    assert ids("--status", "failed", "--status", "queued", "--queue", "nightly") == {b}
    wrong = cli("runs", "list", "--status", "runing")
    assert (wrong.code, wrong.out) == (2, "")
    assert "RUNNING" in wrong.err
    assert "no run matches" in cli("runs", "list", "--label", "team=c").err


@pytest.mark.parametrize("text", ["yesterday", "10", "-1h", "nan", "1e9d", "٣h", ""])
def test_a_time_that_is_none_is_refused_with_the_forms(cli: Cli, text: str) -> None:
    result = cli("runs", "list", "--since", text)
    assert result.code == 2
    assert "1h30m" in result.err
    assert "2026-01-31T18:00" in result.err


def test_json_has_every_key_and_an_id(cli: Cli, db: Db) -> None:
    submit(cli, "--label", "team=a")
    failed = submit(cli)
    db.runs.update_one({"_id": failed}, {"$set": {"status": "FAILED", "errorCode": "X", "loss": float("nan")}})
    listed = cli("runs", "list", "--json").json
    assert len({frozenset(run) - {"loss"} for run in listed}) == 1
    assert all(run["id"] == run["_id"] for run in listed)
    shown = cli("runs", "show", failed, "--json").json
    assert shown["run"]["loss"] is None
    assert {"params", "labels", "requirements", "history", "errorTraceback"} <= shown["run"].keys()
    assert shown["url"].endswith(f"/runs/{failed}")


def test_show_prints_everything_about_a_run(cli: Cli, db: Db) -> None:
    run_id = submit(cli, "-p", "seconds=2", "--label", "team=a", "--gpu", "H100", "--unique-key", "k")
    times = {
        "startedAt": {"$subtract": ["$$NOW", 90_000]},
        "status": "RUNNING",
        "currentStage": {"name": "Stage_2", "progress": 0.4, "etaS": 30},
    }
    db.runs.update_one({"_id": run_id}, [{"$set": times}])
    out = cli("runs", "show", run_id).out
    for text in (
        "seconds=2",
        "team=a",
        "GPU H100",
        "1m30s",
        "baseline tuning, at 40%, about 30s left",
        f"/runs/{run_id}",
    ):
        assert text in out, text
    assert "unique key" in out


def test_reset_dry_run_says_what_the_reset_would_do(cli: Cli, db: Db) -> None:
    run_id = submit(cli)
    live = {"status": "RUNNING", "attempt": 3, "leaseExpiresAt": {"$add": ["$$NOW", 60_000]}, "leaseToken": "t"}
    db.runs.update_one({"_id": run_id}, [{"$set": live}])
    dry = cli("runs", "reset", run_id, "--dry-run")
    assert dry.code == cli("runs", "reset", run_id).code == 1
    assert "--force" in dry.out
    assert cli("runs", "reset", run_id, "--dry-run", "--force", "--json").json == [
        {"id": run_id, "result": "done", "status": "RUNNING", "attempt": 4}
    ]


def test_why_says_that_no_worker_meets_the_requirements(cli: Cli, db: Db) -> None:
    run_id = submit(cli, "--gpu", "H100")
    worker = {"_id": "w", "mode": "all", "state": "idle", "gpu": None}
    db.workers.insert_one(worker)
    db.workers.update_one({"_id": "w"}, {"$currentDate": {"lastSeen": True}})
    text = cli("runs", "why", run_id).out
    assert "No running worker meets its requirements. It needs a pod with GPU H100" in text
    assert "1 with no GPU" in text
    db.workers.update_one({"_id": "w"}, {"$set": {"gpu": "NVIDIA H100"}})
    assert "1 worker can claim it; 1 idle." in cli("runs", "why", run_id).out


BOUNDS = {
    "cpus": (8, "8 CPU cores: the most is 4."),
    "memory_gb": (128, "128 GB of memory: the most is 64."),
    "disk_gb": (500, "500 GB of free disk: the most is 100."),
    "min_vram_gb": (40, "at least 40 GB of GPU memory: the most is 24."),
    "max_vram_gb": (16, "at most 16 GB of GPU memory: the least is 24."),
    "gpu_count": (4, "4 GPUs: the most is 2."),
    "gpu": ("H100", "GPU H100."),
    "region": ("US", "region US: there are EU."),
}


@pytest.mark.parametrize("field", BOUNDS)
def test_why_names_the_bound_that_no_worker_satisfies(cli: Cli, db: Db, field: str) -> None:
    value, text = BOUNDS[field]
    offer = WorkerOffer(("RTX 4090",), 2, 24.0, 24.0, cpus=4.0, memory_gb=64.0, disk_gb=100.0, region="EU")
    worker = WorkerInfo("w", "pod", "all", "0.1", "host", 7, "RTX 4090", offer=offer)
    WorkerRegistry(db).report_state(worker, WorkerState.IDLE)
    needs = Requirements(**{field: value})
    RunQueue(db, SystemClock()).enqueue(RunRequest("a", "synthetic", {}, requirements=needs))
    lines = cli("runs", "why", "a").out.splitlines()
    assert f"No worker has {text}" in lines
    assert sum(line.startswith("No worker has") for line in lines) == 1


def test_why_says_when_no_worker_meets_all_requirements_together(cli: Cli, db: Db) -> None:
    for name, offer in (("w1", WorkerOffer(cpus=8, memory_gb=1)), ("w2", WorkerOffer(cpus=1, memory_gb=8))):
        WorkerRegistry(db).report_state(
            WorkerInfo(name, "pod", "all", "0.1", "host", 7, offer=offer), WorkerState.IDLE
        )
    needs = Requirements(cpus=8, memory_gb=8)
    RunQueue(db, SystemClock()).enqueue(RunRequest("a", "synthetic", {}, requirements=needs))
    assert "no worker meets all of them" in cli("runs", "why", "a").out


def test_show_and_why_have_the_conditions_of_a_waiting_run(cli: Cli, db: Db) -> None:
    queue = RunQueue(db, SystemClock())
    queue.enqueue(RunRequest("first", "synthetic", {}, max_queue_seconds=7200))
    request = RunRequest(
        "a", "synthetic", {}, after=("first",), requirements=Requirements(gpu_count=1, min_vram_gb=24),
        max_queue_seconds=3600, max_duration_seconds=60, retry_on=("error", "oom"),
    )  # fmt: skip
    queue.enqueue(request)
    text = cli("runs", "show", "a").out
    for line in (
        "requirements   at least 24 GB of GPU memory, 1 GPU",
        "waits for      first",
        "time limits    1h00m to start, 1m00s for an attempt",
        "retried after  error, oom",
    ):
        assert line in text
    assert "If it fails, this run ends as FAILED." in cli("runs", "why", "a").out
    assert "It fails when no worker starts it within " in cli("runs", "why", "first").out


def test_unknown_ids_are_an_error_everywhere(cli: Cli, db: Db) -> None:
    for words in (("events", "tail", "nope"), ("events", "rebuild", "nope"), ("runs", "watch", "nope")):
        result = cli(*words)
        assert result.code == 3, words
        assert "there is no run 'nope'" in result.err
    assert "no run and no worker mode uses queue 'nope'" in cli("queues", "pause", "nope").err


def test_one_malformed_document_does_not_break_the_list(cli: Cli, db: Db) -> None:
    db.runs.insert_one(
        {"_id": "strange", "status": 7, "currentStage": "x", "createdAt": "yesterday", "attempt": None}
    )
    run_id = submit(cli)
    result = cli("runs", "list")
    assert result.code == 0
    assert run_id in result.out
    assert cli("runs", "show", "strange").code == 0


def test_a_run_is_found_by_the_beginning_of_its_id(cli: Cli) -> None:
    run_id = submit(cli)
    assert cli("runs", "show", run_id[:20], "--json").json["run"]["_id"] == run_id


def test_show_never_prints_the_lease_token(cli: Cli, db: Db) -> None:
    run_id = submit(cli)
    db.runs.update_one({"_id": run_id}, {"$set": {"status": "RUNNING", "leaseToken": "sentinel-token"}})
    assert "sentinel-token" not in cli("runs", "show", run_id, "--json").out
    assert "sentinel-token" not in cli("runs", "list", "--json").out


def test_cancel_and_reset_say_what_happened(cli: Cli, db: Db) -> None:
    run_id = submit(cli)
    result = cli("runs", "cancel", run_id, "--yes", "--reason", "typo")
    assert (result.code, result.out) == (0, f"{run_id}  CANCELED\n")
    assert "nothing to do" in cli("runs", "cancel", run_id, "--yes").out
    dry = cli("runs", "reset", run_id, "--dry-run")
    assert "CANCELED → QUEUED" in dry.out
    assert (db.runs.find_one({"_id": run_id}) or {})["status"] == "CANCELED"
    assert cli("runs", "reset", run_id).code == 0
    assert (db.runs.find_one({"_id": run_id}) or {})["status"] == "QUEUED"


def test_reset_refuses_a_live_run_without_force(cli: Cli, db: Db) -> None:
    run_id = submit(cli)
    live = [
        {
            "$set": {
                "status": "RUNNING",
                "attempt": 1,
                "leaseToken": "t",
                "leaseExpiresAt": {"$add": ["$$NOW", 60_000]},
            }
        }
    ]
    db.runs.update_one({"_id": run_id}, live)
    refused = cli("runs", "reset", run_id)
    assert refused.code == 1
    assert "--force" in refused.out
    assert cli("runs", "reset", run_id, "--force").code == 0


def test_why_explains_a_waiting_run(cli: Cli, db: Db) -> None:
    first, second = submit(cli), submit(cli, "--gpu", "RTX 4090")
    cli("queues", "pause", "synthetic")
    text = cli("runs", "why", second).out
    assert "The queue is paused" in text
    assert "GPU RTX 4090" in text
    assert "1 run is ahead" in text
    assert "No running worker serves this queue" in text
    cli("queues", "resume", "synthetic")
    assert "paused" not in cli("runs", "why", first).out


def test_why_explains_a_failure_and_what_to_do(cli: Cli, db: Db) -> None:
    run_id = submit(cli)
    failed = {"status": "FAILED", "errorCode": "CUDA_OOM", "errorMessage": "too big", "errorStage": "training"}
    db.runs.update_one({"_id": run_id}, {"$set": failed})
    text = cli("runs", "why", run_id).out
    assert "in stage training with CUDA_OOM: too big" in text
    assert "batch_size" in text
    assert f"runs reset {run_id}" in text


def test_stats_and_queues_count(cli: Cli) -> None:
    for _ in range(3):
        submit(cli)
    assert cli("runs", "stats", "--json").json["byStatus"] == {"QUEUED": 3}
    assert "synthetic\topen\t3\t0" in cli("queues").out


def test_many_are_queued_at_once(cli: Cli, db: Db) -> None:
    result = cli("runs", "submit", "synthetic", "--count", "2500")
    assert len(result.out.split()) == 2500
    assert db.runs.count_documents({"status": "QUEUED"}) == 2500


def test_prune_deletes_old_ended_runs_and_nothing_else(cli: Cli, db: Db) -> None:
    old, live = submit(cli), submit(cli)
    db.runs.update_many({}, [{"$set": {"createdAt": {"$subtract": ["$$NOW", 40 * 86_400_000]}}}])
    db.runs.update_one({"_id": old}, {"$set": {"status": "COMPLETED"}})
    db.events.insert_one({"_id": "e", "runId": old})
    assert cli("runs", "prune", "--older-than", "30d", "--yes").code == 0
    assert [run["_id"] for run in db.runs.find()] == [live]
    assert db.events.count_documents({}) == 0


def test_a_wrong_mongodb_url_names_the_fix_and_no_password(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URL", "postgres://ana:sentinel@db/x")
    result = cli("runs", "list")
    assert result.code == 2
    assert "mongodb://" in result.err
    assert "sentinel" not in result.err


def test_a_missing_mongodb_url_names_the_fix(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONGODB_URL")
    result = cli("runs", "list")
    assert result.code == 2
    assert "pod-worker up" in result.err


def test_config_show_masks_secrets(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_PLANE_TOKEN", "sentinel-key-0123456")
    result = cli("config", "show", "--origin")
    assert "CONTROL_PLANE_TOKEN\t***\tenvironment" in result.out
    assert "sentinel" not in result.out


def test_an_unexpected_error_shows_a_traceback_only_with_debug(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("pod_worker.cli.runs.views.QueueStatsReader", broken)
    result = cli("runs", "stats")
    assert result.code == 1
    assert "KeyError" in result.err
    assert "--debug" in result.err
    assert "Traceback" not in result.err


def test_a_stage_of_a_dead_process_does_not_go_on(cli: Cli, db: Db) -> None:
    run_id = submit(cli)
    db.runs.update_one(
        {"_id": run_id}, {"$set": {"status": "FAILED", "attempt": 5, "startedAt": NOW, "failedAt": NOW}}
    )
    db.stages.insert_one({"_id": "s", "runId": run_id, "name": "Stage_1", "status": "RUNNING", "startedAt": NOW})
    out = cli("runs", "show", run_id).out
    assert "INTERRUPTED\t-\t-" in out
    assert "0s (attempt 5 alone)" in out
    db.runs.update_one({"_id": run_id}, {"$set": {"status": "RUNNING"}})
    assert "RUNNING\t-\t" in cli("runs", "show", run_id).out


def test_show_leaves_samples_out_of_the_last_events(cli: Cli, db: Db) -> None:
    run_id = submit(cli)
    kinds = ["ai.run.started", *["ai.run.stage_metric"] * 20]
    db.events.insert_many(
        {"_id": f"e{n}", "runId": run_id, "type": kind, "position": n, "data": {}, "notable": n == 0}
        for n, kind in enumerate(kinds)
    )
    out = cli("runs", "show", run_id).out
    assert "ai.run.started" in out
    assert "stage_metric" not in out


def test_submit_says_what_a_worker_may_not_find(cli: Cli) -> None:
    result = cli(
        "runs", "submit", "training", "-p", "model=gpt2", "-p", "dataset=none.jsonl", "--queue", "nightly"
    )
    assert result.code == 0
    assert "there is no none.jsonl on this machine" in result.err
    assert "gpt2 on this" not in result.err
    assert "pod-worker worker --queue nightly" in result.err


def test_retry_stage_repeats_the_later_stages_too(cli: Cli, db: Db) -> None:
    run_id = submit(cli, "-p", "stages=3")
    done = {f"Stage_{number}": {"done": True} for number in (1, 2, 3)}
    db.runs.update_one({"_id": run_id}, {"$set": {"status": "COMPLETED", "checkpoints": done}})
    assert cli("runs", "retry-stage", run_id, "Stage_2").code == 0
    run = db.runs.find_one({"_id": run_id})
    assert run is not None
    assert list(run["checkpoints"]) == ["Stage_1"]
