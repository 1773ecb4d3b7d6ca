"""Two hundred workers on a long queue, and ingest for minutes on end: what the server and the control plane bear.

Idle: simulated workers (claim loops with the daemon's own rhythm, in one process) beside a long queue that none of
them may touch; queries per second as the server counts them. Busy: the same number claims from a long queue as
fast as it can, beside the naive statement. Ingest: eight connections post batches of fifty as fast as answers
come; rate, p99 of an answer, and the resident memory of the control plane over the time.

    python -m benchmarks.load [--workers 200] [--queued 10000] [--ingest-seconds 60] [--full] [--json]
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import claims
from benchmarks.ingest import BATCH, CONNECTIONS, batch_of
from pod_worker.core.clock import SystemClock
from pod_worker.local.mongod import Mongod
from pod_worker.store.mongo import Mongo, connect, ensure_indexes
from pod_worker.store.queue import run_queue
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue, RunRequest
from pod_worker.worker.daemon import WorkerIntervals

PROCESSES = 4
WARM_UP_SECONDS = 5.0  # of ingest: connections, caches, the first batches
FULL = {"queued": 100_000, "ingest_seconds": 600.0, "idle_seconds": 60.0}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"workers": options.workers, "queued": options.queued}
    if "idle" in options.only:
        found["idle"] = _idle(options)
    if "claims" in options.only:
        print("… claims", file=sys.stderr, flush=True)
        words = ["--claimers", options.workers, "--processes", PROCESSES, "--queued", options.queued]
        words += ["--seconds", 5, "--rounds", 1 if options.queued < 50_000 else 3]
        found["claims"] = claims.measure(claims.options_of([str(word) for word in words]))
    if "ingest" in options.only:
        found["ingest"] = _ingest(options.ingest_seconds)
    return found


# ── idle ────────────────────────────────────────────────────────────────────────────────────────────────────


def _idle(options: argparse.Namespace) -> dict[str, float]:
    print(f"… {options.workers} idle workers", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-idle-") as folder, Mongod(Path(folder)) as mongod:
        database = connect(mongod.url)
        ensure_indexes(database, run_queue.INDEXES)
        _fill(database, options.queued)
        command = [sys.executable, "-m", "benchmarks.load", "--idle-at", mongod.url]
        pipe = subprocess.PIPE
        with subprocess.Popen([*command, "--workers", str(options.workers)], stdout=pipe, text=True) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()  # everybody has looked once
                before, began = _queries(database), time.monotonic()
                cpu_before = _mongod_cpu(mongod)
                time.sleep(options.idle_seconds)
                took = time.monotonic() - began
                queries = (_queries(database) - before) / took
                cpu = (_mongod_cpu(mongod) - cpu_before) / took
            finally:
                process.kill()
    return {
        "queries_per_s": queries,
        "per_worker_per_s": queries / options.workers,
        "mongod_cpu_pct": cpu * 100,
        "seconds": took,
    }


def _fill(database: Mongo, count: int) -> None:
    """Runs of another queue, which an idle look must not even see."""
    queue = RunQueue(database, SystemClock())
    for start in range(0, count, 2000):
        numbers = range(start, min(start + 2000, count))
        queue.enqueue_many([RunRequest(f"run-{n:07d}", "training", {}) for n in numbers])


def _queries(database: Mongo) -> int:
    operations = database.client.admin.command("serverStatus")["opcounters"]
    return int(operations["query"] + operations["update"] + operations["getmore"])


def _mongod_cpu(mongod: Mongod) -> float:
    times = psutil.Process(mongod.members[0].process.pid).cpu_times()
    return float(times.user + times.system)


def idle_workers(url: str, count: int) -> None:
    """Claim loops as the daemon runs them, until killed."""
    database, rhythm = connect(url, pool_size=count), WorkerIntervals()
    looked = threading.Barrier(count + 1)

    def loop(number: int) -> None:
        rng = random.Random(number)
        queue, rescue = RunQueue(database, SystemClock(), rng=rng), Rescue(database)
        claimant = ClaimingWorker(f"w{number}", "pod", ("experiment", "synthetic"), ("synthetic",))
        time.sleep(rng.uniform(0, rhythm.poll_seconds))
        next_sweep, is_first = 0.0, True
        while True:
            if time.monotonic() >= next_sweep:
                next_sweep = time.monotonic() + rhythm.rescue_seconds * rng.uniform(0.9, 1.1)
                rescue.sweep()
            queue.claim(claimant)
            if is_first:
                looked.wait()
                is_first = False
            time.sleep(rhythm.poll_seconds * rng.uniform(0.8, 1.0))

    for number in range(count):
        threading.Thread(target=loop, args=(number,), daemon=True).start()
    looked.wait()
    print("ready", flush=True)
    time.sleep(86_400)


# ── ingest ──────────────────────────────────────────────────────────────────────────────────────────────────


def _ingest(seconds: float) -> dict[str, Any]:
    print(f"… ingest for {seconds:g} s", file=sys.stderr, flush=True)
    folder = tempfile.TemporaryDirectory(prefix="bench-ingest-")
    with folder as data, Mongod(Path(data), cache_gb=1.0) as mongod:
        command = [sys.executable, "-m", "benchmarks.ingest", "--as", "serve", "--url", mongod.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                address = f"127.0.0.1:{server.stdout.readline().strip()}"
                load = [sys.executable, "-m", "benchmarks.load", "--post-to", address]
                client = subprocess.Popen(
                    [*load, "--ingest-seconds", str(seconds)], stdout=subprocess.PIPE, text=True
                )
                sizes = _resident_while(client, server.pid)
                assert client.stdout is not None
                answers: dict[str, Any] = json.loads(client.stdout.read())
            finally:
                server.terminate()
        stored = connect(mongod.url).events.estimated_document_count()
    quarter = max(len(sizes) // 4, 1)
    second, last = statistics.median(sizes[quarter : 2 * quarter]), statistics.median(sizes[-quarter:])
    return answers | {
        "missing": answers["sent"] - stored,
        "rss_second_quarter_mb": second / 1e6,
        "rss_last_quarter_mb": last / 1e6,
        "rss_growth": last / second - 1,
    }


def _resident_while(client: subprocess.Popen[str], pid: int) -> list[int]:
    """Bytes of the server, each second until the client has ended."""
    server, sizes = psutil.Process(pid), []
    while client.poll() is None:
        sizes.append(int(server.memory_info().rss))
        time.sleep(1.0)
    return sizes


def post(address: str, seconds: float) -> dict[str, float]:
    """Every connection posts its next batch as soon as the last one is answered."""
    took: list[list[float]] = [[] for _ in range(CONNECTIONS)]
    sent = [0] * CONNECTIONS
    began = time.monotonic()

    def work(place: int) -> None:
        client = http.client.HTTPConnection(address, timeout=60)
        headers = {"Content-Type": "application/x-ndjson"}
        while (now := time.monotonic()) < began + WARM_UP_SECONDS + seconds:
            body = b"\n".join(json.dumps(event).encode() for event in batch_of(place, sent[place]))
            asked = time.perf_counter()
            client.request("POST", "/api/ingest/events", body, headers)
            answer = client.getresponse()
            said = answer.read()
            if answer.status != 202:
                raise SystemExit(f"unexpected answer {answer.status}: {said[:300]!r}")
            sent[place] += 1
            if now > began + WARM_UP_SECONDS:
                took[place].append(time.perf_counter() - asked)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    each = [value for values in took for value in values]
    cuts = statistics.quantiles(each, n=100)
    return {
        "seconds": seconds,
        "events_per_second": len(each) * BATCH / (time.monotonic() - began - WARM_UP_SECONDS),
        "p50_ms": cuts[49] * 1000,
        "p99_ms": cuts[98] * 1000,
        "sent": sum(sent) * BATCH,
    }


# ── the tables ──────────────────────────────────────────────────────────────────────────────────────────────


def tables(found: dict[str, Any]) -> str:
    lines = []
    if idle := found.get("idle"):
        lines += [
            f"{found['workers']} idle workers beside {found['queued']} queued runs: "
            f"{idle['queries_per_s']:.1f} queries/s ({idle['per_worker_per_s']:.3f} each), "
            f"mongod at {idle['mongod_cpu_pct']:.1f} % of a core",
            "",
        ]
    if claimed := found.get("claims"):
        lines += [claims.table(claimed), ""]
    if ingest := found.get("ingest"):
        lines.append(
            f"ingest for {ingest['seconds']:g} s: {ingest['events_per_second']:,.0f} events/s, answer p50 "
            f"{ingest['p50_ms']:.0f} ms, p99 {ingest['p99_ms']:.0f} ms, {ingest['missing']} events missing; "
            f"resident {ingest['rss_second_quarter_mb']:.0f} → {ingest['rss_last_quarter_mb']:.0f} MB "
            f"({ingest['rss_growth']:+.1%})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    parser.add_argument("--ingest-seconds", type=float, default=60.0)
    parser.add_argument("--full", action="store_true", help="100 000 runs, ten minutes of ingest")
    parser.add_argument(
        "--only", nargs="+", choices=["idle", "claims", "ingest"], default=["idle", "claims", "ingest"]
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--idle-at", help=argparse.SUPPRESS)
    parser.add_argument("--post-to", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.full:
        vars(options).update(FULL)
    if options.idle_at:
        idle_workers(options.idle_at, options.workers)
    elif options.post_to:
        print(json.dumps(post(options.post_to, options.ingest_seconds)))
    else:
        found = measure(options)
        print(json.dumps(found) if options.json else tables(found))


if __name__ == "__main__":
    main()
