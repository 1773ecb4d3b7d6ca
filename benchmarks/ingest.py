"""Ingest with projections against raw `insert_many` of the same documents: same batches, same connections.

    python benchmarks/ingest.py [--seconds 6] [--rounds 3] [--json]

Rounds alternate, each on a fresh database of one real mongod. The ingest side is the whole control plane in its
own process over HTTP, with a light load generator in another; the raw side is one process with a thread per
connection that inserts the same documents as dictionaries with the same write concern, without any index but
`_id` and (the last column) with the event log's. Every id is new, so nothing is saved by deduplication.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

BATCH = 50
CONNECTIONS = 8
WARM_UP_BATCHES = 10


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=6.0, help="length of each measurement")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--json", action="store_true")
    options.add_argument("--as", dest="role", choices=["serve", "load", "raw"], help=argparse.SUPPRESS)
    options.add_argument("--url", help=argparse.SUPPRESS)
    options.add_argument("--indexes", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    match given.role:
        case "serve":
            serve_control(given.url)
        case "load":
            print(json.dumps(load(given.url, given.seconds)))
        case "raw":
            print(json.dumps(raw(given.url, given.seconds, given.indexes)))
        case _:
            report(measure(given.seconds, given.rounds), given.json)


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """Events per second of each side, the median over the rounds, and the ratios."""
    from pod_worker.local.mongod import Mongod

    found: dict[str, list[float]] = {"ingest": [], "raw": [], "raw_indexed": []}
    with tempfile.TemporaryDirectory() as folder, Mongod(Path(folder), cache_gb=1.0) as mongod:
        for number in range(rounds):
            found["raw"].append(_run("raw", mongod.url_for(f"raw{number}"), seconds))
            found["ingest"].append(_ingest(mongod.url_for(f"ingest{number}"), seconds))
            found["raw_indexed"].append(_run("raw", mongod.url_for(f"indexed{number}"), seconds, "--indexes"))
    rates = {name: sorted(values)[len(values) // 2] for name, values in found.items()}
    return {
        "batch": BATCH,
        "connections": CONNECTIONS,
        "events_per_second": rates,
        "rounds": found,
        "ratio": _ratio(found["ingest"], found["raw"]),
        "ratio_to_indexed": _ratio(found["ingest"], found["raw_indexed"]),
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds of what was measured one after the other: a machine's mood changes in minutes."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def report(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    rates = result["events_per_second"]
    print("| ingest + projections, events/s | raw insert_many | ratio | raw with the same indexes | ratio |")
    print("|---|---|---|---|---|")
    print(
        f"| {rates['ingest']:,.0f} | {rates['raw']:,.0f} | {result['ratio']:.2f} "
        f"| {rates['raw_indexed']:,.0f} | {result['ratio_to_indexed']:.2f} |"
    )


def _ingest(url: str, seconds: float) -> float:
    command = [sys.executable, __file__, "--as", "serve", "--url", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            return _run("load", f"127.0.0.1:{port}", seconds)
        finally:
            server.terminate()


def _run(role: str, url: str, seconds: float, *more: str) -> float:
    command = [sys.executable, __file__, "--as", role, "--url", url, "--seconds", str(seconds), *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["events_per_second"])


# ── the control plane ───────────────────────────────────────────────────────────────────────────────────────


def serve_control(url: str) -> None:
    from pod_worker.control.app import build_app
    from pod_worker.control.server import serve
    from pod_worker.store.indexes import all_indexes
    from pod_worker.store.mongo import connect, ensure_indexes

    database = connect(url)
    ensure_indexes(database, all_indexes())
    now = datetime.now(UTC)
    database["runs"].insert_many(
        {"_id": f"run-{i}", "status": "RUNNING", "attempt": 1, "createdAt": now} for i in range(CONNECTIONS)
    )
    app = build_app(database, None, token=None, open_on_loopback=True, requests_per_second=1e9, burst=10**9)
    serve(app, on_ready=lambda _host, port: print(port, flush=True))


# ── the load ────────────────────────────────────────────────────────────────────────────────────────────────


def batch_of(connection: int, number: int) -> list[dict[str, Any]]:
    """Fifty events of a training run: 36 metric points, 8 log lines, 5 of progress, one of a tree's node."""
    run_id, first = f"run-{connection}", number * BATCH
    now = datetime.now(UTC)

    def event(place: int, kind: str, **data: Any) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": f"01K{connection:03d}{first + place:020d}",
            "source": f"runpod://pod/pod-{connection}",
            "type": kind,
            "subject": f"run/{run_id}",
            "time": (now + timedelta(microseconds=place)).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "seq": first + place + 1,
            "attempt": 1,
            "data": {"run_id": run_id, **data},
        }

    events: list[dict[str, Any]] = []
    for step in range(number * 9, number * 9 + 9):
        for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second"):
            figures = {"stage": "training", "name": name, "value": 1 / (step + 1), "step": step}
            events.append(event(len(events), "ai.run.stage_metric", **figures))
    for line in range(8):
        message = f"step {number * 9 + line}: loss 0.1234, all is well on this pod so far"
        events.append(event(len(events), "ai.run.log", level="info", message=message))
    for _ in range(5):
        done = {"stage": "training", "progress": min(1.0, number / 10_000), "eta_s": 100.0, "iteration": number}
        events.append(event(len(events), "ai.run.stage_progress", **done))
    node = {"stage": "Stage_1", "node_id": f"node-{number}", "is_buggy": False, "exec_time_s": 1.5}
    events.append(event(len(events), "ai.node.completed", **node))
    return events


def load(address: str, seconds: float) -> dict[str, float]:
    """Post ready-made NDJSON from every connection until the time is up. Plain sockets and whole requests made
    beforehand, so that the load takes as little as possible of the processors that are measured."""
    wanted = _batches_wanted(seconds)
    host, _, port = address.partition(":")
    requests = [[_request(address, batch_of(c, n)) for n in range(wanted)] for c in range(CONNECTIONS)]

    def connection(place: int) -> Callable[[int], None]:
        talk = socket.create_connection((host, int(port)))

        def post(number: int) -> None:
            talk.sendall(requests[place][number])
            answer = talk.recv(65536)
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                answer += talk.recv(65536)
            if not answer.startswith(b"HTTP/1.1 202") or b'"accepted":50,' not in answer:
                raise SystemExit(f"unexpected answer: {answer[:500]!r}")

        return post

    return _timed([connection(place) for place in range(CONNECTIONS)], wanted, seconds)


def _request(host: str, events: list[dict[str, Any]]) -> bytes:
    body = b"\n".join(json.dumps(event).encode() for event in events)
    head = f"POST /api/ingest/events HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-ndjson\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def raw(url: str, seconds: float, indexes: bool) -> dict[str, float]:
    """Insert the documents that ingest would make of the same events, and do nothing else."""
    from pod_worker.control.events.decoding import read_line
    from pod_worker.store.collections import EVENTS
    from pod_worker.store.events.event_log import INDEXES, arrival_and_expiry, event_document
    from pod_worker.store.mongo import connect, ensure_indexes

    database = connect(url)
    if indexes:
        ensure_indexes(database, {EVENTS: INDEXES[EVENTS]})
    now, wanted = datetime.now(UTC), _batches_wanted(seconds)

    def document(event: dict[str, Any], place: int) -> Any:
        arrival = read_line(json.dumps(event).encode())
        assert arrival.payload is not None
        return event_document(
            arrival.event, arrival.run_id, 1, place, arrival_and_expiry(now), arrival.payload.sample
        )

    batches = [
        [[document(event, n * BATCH + i) for i, event in enumerate(batch_of(c, n))] for n in range(wanted)]
        for c in range(CONNECTIONS)
    ]

    def connection(place: int) -> Callable[[int], None]:
        def insert(number: int) -> None:
            database[EVENTS].insert_many(batches[place][number], ordered=False)

        return insert

    return _timed([connection(place) for place in range(CONNECTIONS)], wanted, seconds)


def _batches_wanted(seconds: float) -> int:
    return int(seconds * 130) + WARM_UP_BATCHES  # 50 000 events a second, more than any side reaches here


def _timed(connections: list[Callable[[int], None]], wanted: int, seconds: float) -> dict[str, float]:
    """A thread for each connection; the clock starts when all are warm and stops at the deadline."""
    done = [0] * len(connections)
    warm = threading.Barrier(len(connections) + 1)
    deadline = [float("inf")]

    def work(place: int) -> None:
        for number in range(WARM_UP_BATCHES):
            connections[place](number)
        warm.wait()
        for number in range(WARM_UP_BATCHES, wanted):
            if time.monotonic() >= deadline[0]:
                return
            connections[place](number)
            done[place] += 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(connections))]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    deadline[0] = begun + 3600
    warm.wait()
    begun = time.monotonic()
    deadline[0] = begun + seconds
    for thread in threads:
        thread.join()
    return {"events_per_second": sum(done) * BATCH / (time.monotonic() - begun)}


if __name__ == "__main__":
    main()
