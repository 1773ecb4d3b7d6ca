"""No secret leaves the processes that need it: logs, spool, events, API, documents, argv and the run's environment.

The canaries are every setting of the type Secret, and secrets of other programs. A run prints, logs, saves, returns
and raises its whole environment. Two of its variables are secrets that the operator passes on purpose.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import psutil
import pytest

from pod_worker.config import secret_settings
from pod_worker.worker.isolation.child_user import DEFAULT_UID
from tests.acceptance.local_stack import Running, wait_for
from tests.acceptance.process_tree import command_line, processes_below

LEAKING_RUN = Path(__file__).parent / "leaking_run"
STACKS_OWN = {"mongodb_url", "control_plane_token"}  # with canaries of their own, because the worker uses them
CANARIES = {
    name.upper(): f"canary-{name.replace('_', '-')}-0123456789" for name in sorted(secret_settings() - STACKS_OWN)
}
FOREIGN = {
    "DATABASE_URL": "postgres://ana:canary-database-0123456789@db.example/x",
    "MONGO_URI": "mongodb://ana:canary-mongo-0123456789@db.example/x",
    "REDIS_URL": "redis://:canary-redis-0123456789@cache.example",
    "GITHUB_PAT": "canary-github-0123456789",
    "DB_PASS": "canary-db-pass-0123456789",
    "AWS_SECRET_ACCESS_KEY": "canary-aws/+0123456789",
    "SENTRY_DSN": "https://canary-sentry-0123456789@sentry.example/1",
    "HTTPS_PROXY": "http://ana:canary-proxy-0123456789@proxy.example:3128",
    "KUBECONFIG_TOKEN": "canary-kube-0123456789",
}
# What the run is given on purpose, and must still not show.
PASSED = {
    "HF_TOKEN": "canary-hf-0123456789",
    "WANDB_API_KEY": 'canary-"wandb"-\\0123456789',
    "FEATURE_STORE_URL": "https://ana:canary-features-0123456789@features.example",
}
PASSWORD = "canary-mongodb-0123456789"
# Where secrets are kept on purpose, for their owner only (0600).
KEPT = ("stack.json", "identity.json", "keys.json")


@pytest.fixture
def mongodb_url(running: Running) -> Iterator[str]:
    """The stack's MongoDB with a login of its own."""
    admin = running.db.client.admin
    admin.command("createUser", "canary", pwd=PASSWORD, roles=["root"])
    url = running.local.stack.mongodb_url
    separator = "&" if "?" in url else "?"
    yield url.replace("mongodb://", f"mongodb://canary:{PASSWORD}@", 1) + f"{separator}authSource=admin"
    admin.command("dropUser", "canary")


def needles(running: Running) -> dict[str, str]:
    """What must not be found, by name: of a URL with a password, the password."""
    every = {**CANARIES, **FOREIGN, **PASSED}
    secrets = {
        name: value.rpartition("@")[0].rpartition(":")[2].strip("/") or value for name, value in every.items()
    }
    stack = {"token": running.local.token, "s3": running.local.stack.s3.secret_key, "mongodb": PASSWORD}
    return secrets | stack | {"wandb in JSON": json.dumps(PASSED["WANDB_API_KEY"])[1:-1]}


def test_no_secret_is_found_outside_the_processes_that_need_it(
    running: Running, mongodb_url: str, tmp_path: Path
) -> None:
    evidence = tmp_path / "evidence.json"
    env = {
        **CANARIES,
        **FOREIGN,
        **PASSED,
        "MONGODB_URL": mongodb_url,
        "CONTROL_PLANE_TOKEN": f"{running.local.token}\n",  # as a secret often comes from a file or a web form
        "POD_WORKER_CHILD_ENV": "WANDB_API_KEY,FEATURE_STORE_URL,PYTHON_LEAK_EVIDENCE",
        "PYTHONPATH": str(LEAKING_RUN),
        "PYTHON_LEAK_EVIDENCE": str(evidence),
        "NO_PROXY": "*",
    }
    completed = running.submit("synthetic", {"stages": 1})
    failed = running.submit("synthetic", {"stages": 1, "fail_at": 1})
    working = running.submit("synthetic", {"stages": 1, "seconds": 3})
    with running.worker("canary", **env) as worker:
        running.wait_status(completed, "COMPLETED")
        running.wait_status(failed, "FAILED")
        running.wait_status(working, "RUNNING")
        given = json.loads(evidence.read_text())
        seen = {"environment that the operator chose": json.dumps({**given, **dict.fromkeys(PASSED, "")})}
        seen |= dict(_readable_environments(worker.process.pid))
        seen |= dict(_command_lines(worker.process.pid))
        running.wait_status(working, "COMPLETED")
        for run_id, kind in ((completed, "completed"), (failed, "failed")):
            ended = {"runId": run_id, "type": f"ai.run.{kind}"}
            wait_for(partial(running.db.events.count_documents, ended), "all events")
        seen |= dict(_answers(running, completed, failed))
    assert {name: given.get(name) for name in PASSED} == PASSED, "the run had them"
    seen |= dict(_files(running.folder)) | dict(_files(running.local.data))
    seen |= {f"MongoDB {name}": str(list(running.db[name].find())) for name in running.db.list_collection_names()}
    seen |= dict(_commands(running, {**CANARIES, **FOREIGN, **PASSED}, completed, failed))
    assert len(seen) > 25, sorted(seen)
    assert "***" in seen["MongoDB events"], "the run's environment is there, masked"
    secrets = needles(running)
    found = {(place, name) for place, text in seen.items() for name, secret in secrets.items() if secret in text}
    # Without root the run has this test's user, who can read what the run was given on purpose.
    own = set() if os.geteuid() == 0 else {*PASSED, "wandb in JSON"}
    assert not {(place, name) for place, name in found if name not in own or "environment of" not in place}


def _readable_environments(worker: int) -> Iterator[tuple[str, str]]:
    """The environment of the worker and of each process below it, as far as the user of runs can read it."""
    uid = DEFAULT_UID if os.geteuid() == 0 else None
    for process in (psutil.Process(worker), *processes_below(worker)):
        done = subprocess.run(
            ["cat", f"/proc/{process.pid}/environ"],
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            capture_output=True,
            text=True,
            check=False,
        )
        yield f"environment of {process.pid}", done.stdout


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


def _commands(running: Running, env: Mapping[str, str], *run_ids: str) -> Iterator[tuple[str, str]]:
    lines = [["config", "show", "--origin"], ["doctor"], ["runs", "list", "--json"], ["workers", "--json"]]
    for run_id in run_ids:
        lines += [["runs", "show", run_id, "--json"], ["runs", "why", run_id], ["runs", "logs", run_id]]
    for words in lines:
        done = running.cli(*words, check=False, **{**env, "NO_PROXY": "*"})
        yield " ".join(words), done.stdout + done.stderr


JOB_SECRET = "canary-job/+secret-0123456789"
# Prints its secret in every form that a library might, and stays until `go` exists.
SPILLING_JOB = """
echo length=${#JOB_SECRET} $JOB_SECRET
printf %s "$JOB_SECRET" | base64
printf 'user:%s' "$JOB_SECRET" | base64
printf 'me:%s!' "$JOB_SECRET" | base64
echo "{\\"message\\": \\"$JOB_SECRET\\"}"
while [ ! -e "$GO" ]; do sleep 0.1; done
echo "error: $JOB_SECRET" >&2; exit 3
"""


def test_a_jobs_secret_is_in_its_command_alone(running: Running, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    go, env = tmp_path / "go", {"JOB_SECRET": JOB_SECRET}
    words = ["run", "--detach", "--json", "--no-workdir", "--env", f"GO={go}", "--secret", "JOB_SECRET"]
    setup = "echo setup=${JOB_SECRET:-absent}"
    done = running.cli(*words, "--setup", setup, "--", "bash", "-c", SPILLING_JOB, **env)
    run_id = json.loads(done.stdout)["id"]
    sealed = running.run(run_id)["sealedSecrets"]["JOB_SECRET"]
    seen: list[tuple[str, str]] = []

    def log() -> str:
        events = running.db.events.find({"runId": run_id, "type": "ai.run.log"})
        return "\n".join(str(event["data"]["message"]) for event in events)

    with running.worker("job-secret") as worker:
        wait_for(lambda: f"length={len(JOB_SECRET)}" in log(), "the job to have its secret")
        seen += _command_lines(worker.process.pid)
        go.touch()
        run = running.wait_status(run_id, "FAILED")
    assert "setup=absent" in log()
    clone = json.loads(running.cli("runs", "clone", run_id, "--json").stdout)["id"]
    assert running.run(clone)["sealedSecrets"] == {"JOB_SECRET": sealed}
    run.pop("sealedSecrets")
    seen += [("the run's document", json.dumps(run, default=str)), ("the worker's log", worker.log_text())]
    seen += [("events", json.dumps(list(running.db.events.find({"runId": run_id})), default=str))]
    seen += [*_answers(running, run_id), *_files(running.folder), *_commands(running, {}, run_id)]
    forms = {"plain": JOB_SECRET, "sealed": sealed}
    for prefix in ("", "user:", "me:"):
        text = base64.b64encode(f"{prefix}{JOB_SECRET}".encode()).decode()
        forms[f"base64 after {prefix!r}"] = text[len(prefix) * 4 // 3 + 4 : -4]
    found = {(place, name) for place, text in seen for name, form in forms.items() if form in text}
    assert not found
