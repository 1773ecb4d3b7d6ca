"""A page of runs among a hundred thousand runs and millions of events: by read model, HTTP and command line.

Documents are put straight into a real mongod, in the shape of queue and event log. Measured: `ReadModels.runs`
with several filters, `GET /api/runs` and a run's events from the real control plane in a process of its own, and
`pod-worker runs list` as a process, beside what starting Python and its imports cost. The server's explain output
must show an index for each query.

    python -m benchmarks.lists [--runs 100000] [--events 300000] [--full] [--json]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pymongo.write_concern import WriteConcern

from pod_worker.local.mongod import Mongod
from pod_worker.store.indexes import all_indexes
from pod_worker.store.mongo import Document, Mongo, connect, ensure_indexes
from pod_worker.store.views.read_models import ReadModels, RunFilter

CHUNK = 5000
STATUSES = ["COMPLETED"] * 70 + ["FAILED"] * 20 + ["CANCELED"] * 5 + ["QUEUED"] * 4 + ["RUNNING"]
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
FILTERS = {
    "all": RunFilter(),
    "status RUNNING": RunFilter(("RUNNING",)),
    "status FAILED": RunFilter(("FAILED",)),
    "pipeline training": RunFilter(pipeline="training"),
    "one hypothesis": RunFilter(hypothesis_id="hyp-7"),
}
FULL_EVENTS = 5_000_000


def measure(options: argparse.Namespace) -> dict[str, Any]:
    folder = tempfile.TemporaryDirectory(prefix="bench-lists-")
    with folder as data, Mongod(Path(data), cache_gb=1.0) as mongod:
        database = connect(mongod.url)
        ensure_indexes(database, all_indexes())
        print(f"… writing {options.runs} runs and {options.events} events", file=sys.stderr, flush=True)
        _fill(database, options.runs, options.events)
        print("… reading", file=sys.stderr, flush=True)
        models = _models(database, options.reads)
        served = _served(mongod.url, options.runs, options.reads)
        command = _command_line(mongod.url, options.commands)
        plans = _plans(database)
    return {"runs": options.runs, "events": options.events, "models": models, "http": served} | {
        "command": command,
        "plans": plans,
    }


# ── what is there ───────────────────────────────────────────────────────────────────────────────────────────


def _fill(database: Mongo, runs: int, events: int) -> None:
    rng = random.Random(1)
    quickly = WriteConcern(1)
    into = database.get_collection("runs", write_concern=quickly)
    for start in range(0, runs, CHUNK):
        into.insert_many([_run(number, rng) for number in range(start, min(start + CHUNK, runs))], ordered=False)
    log = database.get_collection("events", write_concern=quickly)
    for start in range(0, events, CHUNK):
        numbers = range(start, min(start + CHUNK, events))
        log.insert_many([_event(number, runs, events) for number in numbers], ordered=False)


def _run_id(number: int) -> str:
    return f"01RUN{number:021d}"


def _run(number: int, rng: random.Random) -> Document:
    at = FIRST + timedelta(seconds=number * 60)
    status = rng.choice(STATUSES)
    document: Document = {
        "_id": _run_id(number),
        "pipeline": rng.choice(("training", "experiment", "synthetic")),
        "queue": "training",
        "status": status,
        "priority": 0,
        "params": {"model": "a/model", "dataset": "a/dataset", "epochs": 3, "notes": "x" * 400},
        "attempt": 1,
        "createdAt": at,
        "queuedAt": at,
        "requirements": {},
        "labels": {"team": "one"},
        "currentStage": {"name": "training", "progress": rng.random(), "iteration": 10},
        "metrics": {"loss": {"value": rng.random(), "step": 100}},
        "checkpoints": {"training": {"summary": {"loss": rng.random()}, "at": at}},
        "history": [{"at": at, "what": "claimed", "attempt": 1}] * 5,
    }
    return document | ({"hypothesisId": f"hyp-{number % 1000}"} if number % 3 == 0 else {})


def _event(number: int, runs: int, events: int) -> Document:
    """Spread over the newest tenth of the runs, as on a system that has pruned."""
    at = FIRST + timedelta(seconds=number)
    is_notable = number % 100 == 0
    document: Document = {
        "_id": f"01EVT{number:021d}",
        "runId": _run_id(runs - 1 - number % max(runs // 10, 1)),
        "attempt": 1,
        "seq": number,
        "type": "ai.run.log" if is_notable else "ai.run.stage_metric",
        "time": at,
        "receivedAt": at,
        "position": number,
        "source": "runpod://pod/pod-1",
        "data": {"stage": "training", "name": "loss", "value": 0.5, "step": number, "message": "all is well"},
    }
    return document | ({"notable": True, "level": "warn"} if is_notable else {})


# ── how long it takes ───────────────────────────────────────────────────────────────────────────────────────


def _timed(call: Callable[[], object], times: int) -> dict[str, float]:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append((time.perf_counter() - began) * 1000)
    return {"p50_ms": statistics.median(took), "p95_ms": statistics.quantiles(took, n=20)[18]}


def _models(database: Mongo, times: int) -> dict[str, dict[str, float]]:
    models = ReadModels(database)
    found = {name: _timed(_page_of(models, wanted), times) for name, wanted in FILTERS.items()}
    tenth = models.runs(RunFilter(), 100).next_cursor
    found["by cursor"] = _timed(lambda: models.runs(RunFilter(), 25, cursor=tenth), times)
    return found


def _page_of(models: ReadModels, wanted: RunFilter) -> Callable[[], object]:
    return lambda: models.runs(wanted, 25)


def _served(url: str, runs: int, times: int) -> dict[str, dict[str, float]]:
    paths = {
        "/api/runs": "/api/runs",
        "/api/runs?status=FAILED": "/api/runs?status=FAILED",
        "/api/runs/ID": f"/api/runs/{_run_id(runs - 1)}",
        "/api/runs/ID/events": f"/api/runs/{_run_id(runs - 1)}/events",
    }
    with _control_plane(url) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        return {name: _timed(lambda path=path: _get(client, path), times) for name, path in paths.items()}  # type: ignore[misc]


@contextmanager
def _control_plane(url: str) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.ingest", "--as", "serve", "--url", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.terminate()


def _get(client: http.client.HTTPConnection, path: str) -> None:
    client.request("GET", path)
    answer = client.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {body[:300]!r}")


def _command_line(url: str, times: int) -> dict[str, dict[str, float]]:
    program = str(Path(sys.executable).with_name("pod-worker"))
    env = os.environ | {"MONGODB_URL": url}

    def run(*words: str) -> None:
        subprocess.run(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    return {
        "pod-worker runs list": _timed(lambda: run(program, "runs", "list"), times),
        "pod-worker runs list --status FAILED": _timed(
            lambda: run(program, "runs", "list", "--status", "FAILED"), times
        ),
        "pod-worker --version (start only)": _timed(lambda: run(program, "--version"), times),
        "import of the MongoDB driver": _timed(lambda: run(sys.executable, "-c", "import pymongo"), times),
        "python -c pass": _timed(lambda: run(sys.executable, "-c", "pass"), times),
    }


# ── and by which index ──────────────────────────────────────────────────────────────────────────────────────


def _plans(database: Mongo) -> dict[str, dict[str, Any]]:
    order = [("createdAt", -1), ("_id", -1)]
    runs, events = database.runs, database.events
    newest = _run_id(database.runs.estimated_document_count() // 2)
    cursors = {
        "all": runs.find({"hidden": {"$ne": True}}).sort(order).limit(26),
        "status FAILED": runs.find({"hidden": {"$ne": True}, "status": "FAILED"}).sort(order).limit(26),
        "pipeline training": runs.find({"hidden": {"$ne": True}, "pipeline": "training"}).sort(order).limit(26),
        "one hypothesis": runs.find({"hidden": {"$ne": True}, "hypothesisId": "hyp-7"}).sort(order).limit(26),
        "events of a run": events.find({"runId": newest}).sort("position", 1).limit(100),
    }
    found = {}
    for name, cursor in cursors.items():
        explained = cursor.explain()
        plan = str(explained["queryPlanner"]["winningPlan"])
        found[name] = {
            "uses_index": "IXSCAN" in plan and "COLLSCAN" not in plan and "'SORT'" not in plan,
            "documents": explained["executionStats"]["totalDocsExamined"],
        }
    return found


# ── the tables ──────────────────────────────────────────────────────────────────────────────────────────────


def tables(found: dict[str, Any]) -> str:
    lines = [f"{found['runs']} runs, {found['events']} events", "", "| | p50 ms | p95 ms |", "|---|---|---|"]
    for part, title in (("models", "read model, "), ("http", "GET "), ("command", "")):
        lines += [
            f"| {title}{name} | {row['p50_ms']:.1f} | {row['p95_ms']:.1f} |" for name, row in found[part].items()
        ]
    lines += ["", "| query | index | documents read |", "|---|---|---|"]
    lines += [
        f"| {name} | {'yes' if plan['uses_index'] else '**no**'} | {plan['documents']} |"
        for name, plan in found["plans"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--reads", type=int, default=60)
    parser.add_argument("--commands", type=int, default=10)
    parser.add_argument("--full", action="store_true", help=f"{FULL_EVENTS} events")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.full:
        options.events = FULL_EVENTS
    found = measure(options)
    print(json.dumps(found) if options.json else tables(found))


if __name__ == "__main__":
    main()
