"""No secret leaves the processes that need it: logs, spool, events, API, pages, argv and the run's environment."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.acceptance.local_stack import Running, wait_for
from tests.acceptance.process_tree import command_line, environment, processes_below

CANARIES = {
    "OPENAI_API_KEY": "canary-openai-0123456789",
    "ANTHROPIC_API_KEY": "canary-anthropic-0123456789",
    "RUNPOD_API_KEY": "canary-runpod-0123456789",
    "MINIO_SECRET_KEY": "canary-minio-0123456789",
}
# Where secrets are kept on purpose, for their owner only (0600).
KEPT = ("stack.json", "identity.json", "keys.json")


def test_no_secret_is_found_outside_the_processes_that_need_it(running: Running) -> None:
    secrets = {**CANARIES, "token": running.local.token, "s3": running.local.stack.s3.secret_key}
    completed = running.submit("synthetic", {"seconds": 3, "events": 30, "artifact_bytes": 1000})
    failed = running.submit("synthetic", {"seconds": 1, "fail_at": 1.5, "fail_kind": "user_error"})
    # As a secret often comes from a file or a web form.
    with running.worker("canary", CONTROL_PLANE_TOKEN=f"{running.local.token}\n", **CANARIES) as worker:
        running.wait_status(completed, "RUNNING")
        processes = wait_for(lambda: _run_processes(worker.process.pid, completed), "the run's own process")
        seen = {f"environment of {process.pid}": str(environment(process)) for process in processes}
        seen |= dict(_command_lines(worker.process.pid))
        running.wait_status(completed, "COMPLETED")
        running.wait_status(failed, "FAILED")
        wait_for(
            lambda: running.db.events.count_documents({"runId": failed, "type": "ai.run.failed"}), "all events"
        )
        seen |= dict(_answers(running, completed, failed))
    seen |= dict(_files(running.folder)) | dict(_files(running.local.data))
    seen |= {f"MongoDB {name}": str(list(running.db[name].find())) for name in running.db.list_collection_names()}
    seen |= dict(_commands(running, completed, failed))
    assert len(seen) > 25, sorted(seen)
    found = {(place, name) for place, text in seen.items() for name, secret in secrets.items() if secret in text}
    assert not found


def _run_processes(worker: int, run_id: str) -> list[psutil.Process]:
    """Processes below the worker that execute the run's code: those that know its id."""
    return [process for process in processes_below(worker) if "POD_WORKER_ATTEMPT" in environment(process)]


def _command_lines(worker: int) -> Iterator[tuple[str, str]]:
    for process in processes_below(worker) + processes_below(os.getpid()):
        yield f"command line of {process.pid}", command_line(process)


def _answers(running: Running, *run_ids: str) -> Iterator[tuple[str, str]]:
    paths = ["/", "/api/runs", "/api/stats", "/readyz", "/api/health", "/metrics", "/openapi.json"]
    for run_id in run_ids:
        paths += [f"/api/runs/{run_id}{part}" for part in ("", "/events", "/logs", "/metrics", "/artifacts")]
    for path in paths:
        with urllib.request.urlopen(f"{running.local.url}{path}", timeout=30) as answer:
            yield f"GET {path}", answer.read().decode(errors="replace")


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in KEPT and "mongodb" not in path.parts:
            yield str(path), path.read_bytes().decode(errors="replace")


def _commands(running: Running, *run_ids: str) -> Iterator[tuple[str, str]]:
    lines = [["config", "show", "--origin"], ["doctor"], ["runs", "list", "--json"], ["workers", "--json"]]
    for run_id in run_ids:
        lines += [["runs", "show", run_id, "--json"], ["runs", "why", run_id]]
    for words in lines:
        done = running.cli(*words, check=False, **CANARIES)
        yield " ".join(words), done.stdout + done.stderr
