"""Real processes, real signals: what happens to a run when workers come, go, die and are cut off."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.acceptance.local_stack import Running, WorkerProcess, ignored_signals, wait_for
from tests.acceptance.process_tree import command_line, environment, processes_below

if TYPE_CHECKING:
    from pod_worker.training.data.demo_data import DemoData


@pytest.fixture(scope="session")
def material(training_libraries: None, tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    from pod_worker.training.data import demo_data

    return demo_data.build(tmp_path_factory.mktemp("material"), rows=200)


def training(material: DemoData, **more: Any) -> dict[str, Any]:
    base = {"model": str(material.model), "dataset": str(material.dataset), "batch_size": 4, "max_length": 128}
    return (
        base | {"max_steps": 24, "lr": 0.01, "log_every": 1, "eval_every": 0, "checkpoint_every_steps": 4} | more
    )


def last_checkpoint(running: Running, run_id: str) -> int:
    state = running.run(run_id).get("checkpoints", {}).get("training", {}).get("state", {})
    return int(state.get("step", 0))


def test_a_training_survives_the_sigkill_of_its_worker_and_no_event_is_lost(
    running: Running, material: DemoData
) -> None:
    run_id = running.submit("training", training(material))
    with running.worker("first") as first:
        wait_for(lambda: last_checkpoint(running, run_id) >= 4, "a checkpoint of the training", 120)
        children = processes_below(first.process.pid)
        first.send(signal.SIGKILL)
        first.wait()
        # The guard sees its supervisor gone: the GPU is free long before the lease ends.
        wait_for(
            lambda: not any(each.is_running() and each.status() != "zombie" for each in children),
            "its tree to end",
            10,
        )

    with running.worker("second", "--max-runs", "1") as second:
        run = running.wait_status(run_id, "COMPLETED", "FAILED", seconds=300)
        assert second.wait() == 0, second.log_text()
    assert run["status"] == "COMPLETED", run.get("errorMessage")
    assert run["attempt"] == 2
    assert run["crashCount"] == 0  # the second attempt got on
    summary = run["checkpoints"]["training"]["state"]
    [resumed] = running.db.events.find({"runId": run_id, "data.message": {"$regex": "^resumed at step"}})
    assert int(resumed["data"]["message"].split()[3]) >= 4
    assert resumed["attempt"] == 2
    assert summary["eval_loss_after"] < summary["eval_loss_before"]

    # A new worker on the first pod ships what the dead one left.
    with running.worker("first", "--exit-when-idle", "0") as again:
        again.wait()
    emitted = running.spool_ids("first", run_id) | running.spool_ids("second", run_id)
    assert emitted
    wait_for(lambda: emitted <= running.stored_ids(run_id), "every emitted event to be stored", 30)


def test_finished_stages_are_not_done_again_after_a_crash(running: Running) -> None:
    params = {"stages": 3, "seconds": 3, "events": 30, "fail_at": 3.5, "fail_kind": "sigkill", "fail_attempts": 1}
    run_id = running.submit("synthetic", params)
    with running.worker("w") as worker:
        run = running.wait_status(run_id, "COMPLETED", "FAILED")
        worker.send(signal.SIGTERM)
        worker.wait()
    assert run["status"] == "COMPLETED"
    assert run["attempt"] == 2
    started = running.db.events.count_documents(
        {"runId": run_id, "type": "ai.run.stage_started", "data.stage": "Stage_1"}
    )
    assert started == 1


def test_sigterm_gives_the_run_back_uncounted_and_exits_143(running: Running) -> None:
    run_id = running.submit("synthetic", {"stages": 1, "seconds": 60, "events": 600, "checkpoint_every": 1})
    with running.worker("w") as worker:
        running.wait_status(run_id, "RUNNING")
        wait_for(lambda: running.run(run_id).get("checkpoints"), "a checkpoint")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 143
    run = running.run(run_id)
    assert run["status"] == "QUEUED"
    assert (run["retryCount"], run["crashCount"]) == (0, 0)
    assert "leaseToken" not in run


def test_sigterm_while_the_run_imports_torch_costs_it_nothing(running: Running, material: DemoData) -> None:
    run_id = running.submit("training", training(material))
    with running.worker("w") as worker:

        def imports_torch() -> bool:
            try:
                maps = [map.path for each in processes_below(worker.process.pid) for map in each.memory_maps()]
            except psutil.Error:  # ended, or not yet executing its program
                return False
            return any("libtorch" in path for path in maps)

        wait_for(imports_torch, "the run to load torch")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 143
    run = running.run(run_id)
    assert (run["status"], run["retryCount"], run["crashCount"]) == ("QUEUED", 0, 0)
    assert "leaseToken" not in run
    running.db.runs.delete_one({"_id": run_id})


def test_two_workers_of_one_pod_take_each_run_once_also_when_one_is_killed(running: Running) -> None:
    params = {"stages": 1, "seconds": 1, "events": 4}
    runs = [running.submit("synthetic", params) for _ in range(8)]
    pod = {"RUNPOD_POD_ID": "one", "POD_WORKER_SPOOL_DIR": str(running.folder / "spool-one")}
    pod |= {"POD_WORKER_WORK_DIR": str(running.folder / "work-one")}
    with running.worker("a", **pod) as killed, running.worker("b", **pod) as other:

        def held_by_killed() -> bool:
            held = running.db.runs.find_one(
                {"_id": {"$in": runs}, "status": "RUNNING", "pod.workerId": card(killed)}
            )
            return held is not None

        def card(worker: WorkerProcess) -> str | None:
            found = running.db.workers.find_one({"pid": worker.process.pid})
            return str(found["_id"]) if found else None

        wait_for(held_by_killed, "the worker to hold a run")
        killed.send(signal.SIGKILL)
        for run_id in runs:
            running.wait_status(run_id, "COMPLETED", "FAILED")
        other.send(signal.SIGTERM)
        other.wait()
    ended = list(running.db.runs.find({"_id": {"$in": runs}}))
    assert {run["status"] for run in ended} == {"COMPLETED"}
    assert sum(run["attempt"] for run in ended) <= 9, "only the killed worker's run began twice"


def test_a_worker_of_nohup_in_the_background_stops_at_sigterm_and_its_run_inherits_nothing(
    running: Running,
) -> None:
    inherited = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    run_id = running.submit("synthetic", {"stages": 1, "seconds": 60, "events": 600})
    with running.worker("w", ignored=inherited) as worker:
        running.wait_status(run_id, "RUNNING")
        tree = processes_below(worker.process.pid)
        assert len(tree) == 2, "the guard and the run"
        assert not any(ignored_signals(process.pid) & set(inherited) for process in tree)
        worker.send(signal.SIGHUP)
        worker.send(signal.SIGINT)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 143
    assert "SIGTERM: finishing up" in worker.log_text()
    assert "SIGHUP" not in worker.log_text()
    assert "SIGINT" not in worker.log_text()


def test_a_second_signal_does_not_wait(running: Running) -> None:
    params = {"stages": 1, "seconds": 1, "events": 4, "fail_at": 1.25, "fail_kind": "ignore_sigterm"}
    run_id = running.submit("synthetic", params)
    with running.worker("w", POD_WORKER_GRACE_SECONDS="600") as worker:
        running.wait_status(run_id, "RUNNING")
        worker.send(signal.SIGTERM)
        wait_for(lambda: "finishing up" in worker.log_text(), "the worker to hear the first signal")
        worker.send(signal.SIGTERM)
        assert worker.wait(20) == 143
    assert running.run(run_id)["status"] == "QUEUED"


@pytest.mark.parametrize("kind", ["ignore_sigterm", "hold_gil", "hang", "fork_bomb_small"])
def test_a_cancel_always_ends_the_run_and_everything_it_started(running: Running, kind: str) -> None:
    run_id = running.submit(
        "synthetic", {"stages": 1, "seconds": 1, "events": 4, "fail_at": 1.25, "fail_kind": kind}
    )
    with running.worker("w", "--max-runs", "1") as worker:
        running.wait_status(run_id, "RUNNING")
        wait_for(
            lambda: running.db.events.find_one({"runId": run_id, "type": "ai.run.stage_metric"}),
            "the fault's step",
        )
        tree = processes_below(worker.process.pid)
        done = running.cli("runs", "cancel", run_id, "--yes")
        assert "CANCELED" in done.stdout
        wait_for(
            lambda: not any(p.is_running() and p.status() != "zombie" for p in tree),
            "the run's processes to end",
            15,
        )
        assert worker.wait() == 0
    assert running.run(run_id)["status"] == "CANCELED"


def test_a_worker_that_was_frozen_past_its_lease_frees_the_gpu_and_writes_nothing_more(running: Running) -> None:
    run_id = running.submit("synthetic", {"stages": 1, "seconds": 12, "events": 120, "checkpoint_every": 5})
    with running.worker("frozen") as frozen, running.worker("spare", POD_WORKER_POLL_SECONDS="0.5") as spare:
        first = running.wait_status(run_id, "RUNNING")
        owner, other = (frozen, spare) if "frozen" in first["claimedBy"] else (spare, frozen)
        tree = processes_below(owner.process.pid)
        owner.send(signal.SIGSTOP)
        wait_for(lambda: running.run(run_id)["attempt"] == 2, "the other worker to take over", 30)
        assert not any(p.is_running() and p.status() != "zombie" for p in tree), "two attempts were alive at once"
        owner.send(signal.SIGCONT)
        run = running.wait_status(run_id, "COMPLETED", "FAILED")
        wait_for(lambda: f"run {run_id}: lost" in owner.log_text(), "the frozen worker to notice", 20)
        assert f"run {run_id}: succeeded" in other.log_text() or run["status"] == "COMPLETED"
    assert run["status"] == "COMPLETED"
    assert run["attempt"] == 2


def test_curl_examples_of_the_guide_work_verbatim(running: Running) -> None:
    single = (
        'curl -sS -o /dev/null -w "%{http_code}" -X POST HOST/api/ingest/event -H "Content-Type: application/cloudevents+json" '
        """-d '{"specversion":"1.0","id":"test-123","source":"test://local","type":"ai.run.heartbeat","subject":"run/test-run-id",'"""
        """'"time":"2025-10-22T19:00:00Z","datacontenttype":"application/json","data":{"run_id":"test-run-id","gpu_util":0.75}}'"""
    )
    event = (
        '{"specversion":"1.0","id":"test-%d","source":"test://local","type":"ai.run.heartbeat","subject":"run/test-run-id",'
        '"time":"2025-10-22T19:00:00Z","datacontenttype":"application/json","data":{"run_id":"test-run-id"}}'
    )
    batch = (
        'curl -sS -o /dev/null -w "%{http_code}" -X POST HOST/api/ingest/events -H "Content-Type: application/x-ndjson" '
        "-d $'" + event % 1 + "\\n" + event % 2 + "'"
    )
    codes = [
        subprocess.run(
            ["bash", "-c", each.replace("HOST", running.local.url)], capture_output=True, text=True, check=True
        ).stdout
        for each in (single, batch)
    ]
    assert codes == ["201", "202"]


def test_no_secret_is_in_any_command_line_or_in_the_child_environment(running: Running) -> None:
    run_id = running.submit("synthetic", {"stages": 1, "seconds": 20, "events": 20})
    with running.worker("w", OPENAI_API_KEY="sk-sentinel-openai") as worker:
        running.wait_status(run_id, "RUNNING")
        secrets = [running.local.token, running.local.stack.s3.secret_key, "sk-sentinel-openai"]
        below = processes_below(worker.process.pid)
        lines = [command_line(each) for each in (psutil.Process(worker.process.pid), *below)]
        environments = [str(environment(each)) for each in below]
        assert len(lines) >= 3
        assert os.geteuid() != 0 or all(len(text) > 100 for text in environments), "read while it ran"
        assert not any(secret in text for text in lines + environments for secret in secrets)
        assert not any("MONGODB_URL" in text for text in environments)
        worker.send(signal.SIGTERM)
        worker.wait()
        assert not any(secret in worker.log_text() for secret in secrets)
    assert os.getpid()
