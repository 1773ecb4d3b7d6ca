"""`pod-worker demo-pods`: execute a run in a pod of the fake RunPod.

It queues the run, rents the pod and terminates it.

Every step is a command that a user would type, so this tests the documentation's example.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

import click

from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import say
from pod_worker.cli.runs.watch import watch_runs
from pod_worker.cli.stack.demo import DemoCheck, report_checks
from pod_worker.cli.stack.up import LocalStack
from pod_worker.config import load
from pod_worker.core.run import Json
from pod_worker.local.stack import stop_on_signals
from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.views.read_models import ReadModels

SPEED = 60  # virtual seconds per second: a pod's minute of pulling its image takes one second


@click.command("demo-pods")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
def demo_pods(as_json: bool) -> int:
    """Rent a pod from a fake RunPod and execute a queued run in it.

    A real worker executes it; then the pod is terminated.

    Exit code 0 only if a worker in that pod completed the run, its events arrived, and the pod is gone.
    """
    folder = Path(tempfile.mkdtemp(prefix="pod_worker_demo_pods_"))
    stop = threading.Event()
    with stop_on_signals(stop):
        local = LocalStack(folder / "stack", stop)
        try:
            say("starting MongoDB, S3, the control plane and a fake RunPod …")
            local.start()
            cloud = _start_fake_runpod(local, folder)
            checks = _run_checks(local, cloud)
        finally:
            say("stopping …")
            local.stack.stop()
            shutil.rmtree(folder, ignore_errors=True)
    report_checks(checks, as_json)
    return ExitCode.OK if all(check.passed for check in checks) else ExitCode.FAILED


def _start_fake_runpod(local: LocalStack, folder: Path) -> dict[str, str]:
    """The fake RunPod as a child of the stack; returns the environment for `pods`."""
    key = f"rpa_{secrets.token_hex(8)}"
    words = ["fake-runpod", "--speed", str(SPEED), "--data", str(folder / "pods")]
    port = local.stack.start_server(
        "fake-runpod",
        lambda port: [sys.executable, "-m", "pod_worker", *words, "--port", str(port)],
        dict(os.environ) | {"FAKE_RUNPOD_API_KEY": key},
        ready=lambda port: _accepts(f"http://127.0.0.1:{port}", key),
    )
    url = f"http://127.0.0.1:{port}"
    return local.worker_env(RUNPOD_API_BASE_URL=url, RUNPOD_API_KEY=key, RUNPOD_STATE_DIR=str(folder))


def _accepts(url: str, key: str) -> bool:
    """Whether the fake RunPod at `url` accepts our key, which another one would not."""
    request = urllib.request.Request(f"{url}/v2/pods", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def _run_checks(local: LocalStack, cloud: dict[str, str]) -> list[DemoCheck]:
    store = open_store(load(local.env()))
    run_id = _pod_worker(cloud, "runs", "submit", "synthetic", "-p", "seconds=4", "--json")["id"]
    say(f"queued run {run_id}; no worker is running yet. Renting a pod …")
    command = "pod-worker worker --mode all --max-runs 1"
    # The fake pod advertises a GPU that this machine may lack; the worker's preflight check would fail.
    no_gpu = ["-e", "POD_WORKER_REQUIRED_GPUS=0"]
    created = _pod_worker(cloud, "pods", "create", "demo", "--command", command, *no_gpu, "--yes", "--json")
    pod_id = str(created["id"])
    say(f"rented pod {pod_id}; its worker claims the run after the image is pulled")
    watch_runs(store, [run_id], seconds=120)
    run = ReadModels(store.database).run(run_id) or {}
    ended = _pod_worker(cloud, "pods", "terminate", pod_id, "--yes", "--json")
    left = _pod_worker(cloud, "pods", "list", "--json")
    return [
        DemoCheck("run", str(run.get("status")), run.get("status") == "COMPLETED"),
        DemoCheck(
            "executed in the pod",
            str((run.get("pod") or {}).get("id")),
            (run.get("pod") or {}).get("id") == pod_id,
        ),
        _events_check(store, run_id),
        DemoCheck("pod terminated", json.dumps(ended)[:60], not left),
    ]


def _events_check(store: StoreSession, run_id: str) -> DemoCheck:
    page = EventReader(store.database).read_page(run_id, EventFilter(), 1000)
    kinds = {str(event["type"]) for event in page.items}
    wanted = {"ai.run.started", "ai.run.stage_completed", "ai.run.completed"}
    return DemoCheck("events arrived", f"{len(kinds)} types", wanted <= kinds)


def _pod_worker(env: dict[str, str], *words: str) -> Json:
    done = subprocess.run(
        [sys.executable, "-m", "pod_worker", *words], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CommandError(f"`pod-worker {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)
